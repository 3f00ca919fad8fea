"""Tensor bundles: how TensorFlow keeps tensors since version 1, read and written without it.

    prefix.index                  a table: '' -> header, name of a tensor -> where it lies
    prefix.data-00000-of-00001    the bytes of tensors, one behind the other; in as many shards

Every tensor carries a CRC-32C, which is verified when it is read. Nothing is allocated that the
files do not hold: shapes, offsets and sizes are checked against each other when a bundle is opened.

Source: `tensor_bundle.proto`, `tensor_shape.proto`, `tensor_slice.proto` and `tensor_bundle.cc` of
TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertsmith.errors import CheckpointError, MissingInputError
from bertsmith.interop.checksum import crc32c, masked
from bertsmith.interop.ordered_code import slice_key
from bertsmith.interop.protobuf import (
    Fields,
    message,
    messages_in,
    number_in,
    read_message,
)
from bertsmith.interop.table import read_table, table_bytes

# Numbers of types.proto. numpy has no bfloat16: its two bytes are the first of a float32.
_TYPES = {1: "float32", 3: "int32", 9: "int64", 14: "bfloat16", 19: "float16"}
_ITEM_BYTES = {"float32": 4, "int32": 4, "int64": 8, "bfloat16": 2, "float16": 2}
_FLOAT32 = 1
_OTHER_TYPES = {2: "float64", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 10: "bool"}
_MOST_SHARDS = 99_999  # what the five digits in a shard's name can count
_MOST_SLICES = 1000
_MOST_DIMENSIONS = 8
_ENTRY_FIXED = frozenset({6})  # the field of the checksum

Extent = tuple[int, int | None]  # where a slice begins in one dimension, and its length; None: all


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, or the slices that it was parted into."""

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int  # masked
    slices: tuple[tuple[Extent, ...], ...]


class Bundle:
    """A bundle that was opened and whose index has been checked."""

    def __init__(self, prefix: Path) -> None:
        """Reads the index of `prefix`, a path without `.index`; no tensor is read yet.

        Raises:
            MissingInputError: the index or a shard is not there.
            CheckpointError: the index is damaged, or says what the shards cannot hold.
        """
        self.prefix = prefix
        self.index = prefix.with_name(f"{prefix.name}.index")
        table = read_table(self.index)
        self._shards, self._order = self._header(table)
        # A slice's key begins with a zero byte and is looked up by what its tensor says of it.
        self._entries = {key: self._entry(key, value) for key, value in table.items() if key}
        self._check_places()
        self.tensors = {
            key.decode(): entry for key, entry in self._entries.items() if not key.startswith(b"\0")
        }
        for name, entry in self.tensors.items():
            self._check_slices(name, entry)

    def read(self, name: str) -> NDArray[Any]:
        """Returns a tensor once its checksum is verified; bfloat16 comes as float32.

        Raises:
            CheckpointError: its bytes were altered, or are of a type that is not read.
        """
        entry = self.tensors[name]
        if not entry.slices:
            return self._read(name, entry)
        whole = np.empty(entry.shape, _numpy_type(entry.dtype))
        for extents in entry.slices:
            part = self._read(name, self._entries[slice_key(name, extents)])
            whole[_places(extents, entry.shape)] = part
        return whole

    # ---------------------------------------------------------------------------------- index

    def _header(self, table: dict[bytes, bytes]) -> tuple[list[Path], Literal["<", ">"]]:
        """Returns the paths of all shards and the order of bytes in them."""
        where = f"{self.index}: header"
        if b"" not in table:
            raise CheckpointError(f"{where}: is missing; expected the index of a checkpoint")
        header = read_message(table[b""], where)
        count, order = number_in(header, 1, where), number_in(header, 2, where)
        if not 1 <= count <= _MOST_SHARDS:
            raise CheckpointError(
                f"{where}: num_shards is {count}; expected 1 to {_MOST_SHARDS}: the file is damaged"
            )
        if order not in (0, 1):
            raise CheckpointError(f"{where}: endianness is {order}; expected 0 or 1")
        shards = []
        for number in range(count):
            shard = self.prefix.with_name(f"{self.prefix.name}.data-{number:05}-of-{count:05}")
            if not shard.is_file():
                raise MissingInputError(
                    f"{shard}: there is no such file; {self.index.name} says that there are "
                    f"{count} of its kind"
                )
            shards.append(shard)
        return shards, "<" if order == 0 else ">"

    def _entry(self, key: bytes, value: bytes) -> Entry:
        where = f"{self.index}: {_name_of(key, self.index)}"
        fields = read_message(value, where)
        number = number_in(fields, 1, where)
        shapes = messages_in(fields, 2, where)
        sizes = [number_in(size, 1, where) for size in messages_in(_last(shapes), 2, where)]
        if any(size < 0 for size in sizes) or len(sizes) > _MOST_DIMENSIONS:
            raise CheckpointError(
                f"{where}: has the shape {sizes[:10]}; expected at most {_MOST_DIMENSIONS} sizes, "
                f"none below 0"
            )
        slices = messages_in(fields, 7, where)
        if len(slices) > _MOST_SLICES:
            raise CheckpointError(f"{where}: has {len(slices)} slices; expected {_MOST_SLICES}")
        entry = Entry(
            dtype=_TYPES.get(number) or _OTHER_TYPES.get(number, f"number {number}"),
            shape=tuple(sizes),
            shard=number_in(fields, 3, where),
            offset=number_in(fields, 4, where),
            size=number_in(fields, 5, where),
            checksum=number_in(fields, 6, where),
            slices=tuple(_extents(one, where) for one in slices),
        )
        expected = 0 if slices else prod(sizes) * _ITEM_BYTES.get(entry.dtype, 0)
        if entry.dtype in _ITEM_BYTES and entry.size != expected:
            raise CheckpointError(
                f"{where}: has {entry.size} bytes; expected {expected}, as its shape {sizes} of "
                f"{entry.dtype} needs"
            )
        return entry

    def _check_places(self) -> None:
        """Refuses entries that lie outside their shard, or that share bytes."""
        sizes = [shard.stat().st_size for shard in self._shards]
        ends = [0] * len(sizes)
        held = [(key, entry) for key, entry in self._entries.items() if not entry.slices]
        for key, entry in sorted(held, key=lambda one: (one[1].shard, one[1].offset, one[1].size)):
            where = f"{self.index}: {_name_of(key, self.index)}"
            if not 0 <= entry.shard < len(sizes):
                raise CheckpointError(
                    f"{where}: lies in shard {entry.shard}; expected 0 to {len(sizes) - 1}"
                )
            size = sizes[entry.shard]
            if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > size:
                raise CheckpointError(
                    f"{where}: {entry.size} bytes from byte {entry.offset} on do not lie within "
                    f"the {size} bytes of {self._shards[entry.shard].name}; it is cut short, or "
                    f"the index is of another checkpoint"
                )
            if entry.size and entry.offset < ends[entry.shard]:
                raise CheckpointError(
                    f"{where}: begins at byte {entry.offset}, within the tensor before it, which "
                    f"ends at {ends[entry.shard]}; the index is damaged"
                )
            ends[entry.shard] = max(ends[entry.shard], entry.offset + entry.size)

    def _check_slices(self, name: str, entry: Entry) -> None:
        """Refuses slices that are absent, of another shape, or that do not make up the tensor."""
        where = f"{self.index}: {name}"
        numbers = 0
        boxes = []
        for extents in entry.slices:
            if len(extents) != len(entry.shape):
                raise CheckpointError(
                    f"{where}: a slice has {len(extents)} dimensions; expected {len(entry.shape)}"
                )
            places = _places(extents, entry.shape)
            shape = tuple(one.stop - one.start for one in places)
            part = self._entries.get(slice_key(name, extents))
            inside = all(
                0 <= o.start <= o.stop <= n for o, n in zip(places, entry.shape, strict=True)
            )
            if part is None or part.slices or part.shape != shape or not inside:
                raise CheckpointError(
                    f"{where}: its slice {list(extents)} is absent or does not fit the shape "
                    f"{list(entry.shape)}"
                )
            if part.dtype != entry.dtype:
                raise CheckpointError(f"{where}: a slice is {part.dtype}; expected {entry.dtype}")
            numbers += prod(shape)
            boxes.append(places)
        if entry.slices and (numbers != prod(entry.shape) or _overlap(boxes)):
            raise CheckpointError(
                f"{where}: its slices do not make up the shape {list(entry.shape)}"
            )

    # ---------------------------------------------------------------------------------- bytes

    def _read(self, name: str, entry: Entry) -> NDArray[Any]:
        where = self._shards[entry.shard]
        if entry.dtype not in _ITEM_BYTES:
            raise CheckpointError(
                f"{where}: {name} is of the type {entry.dtype}; expected {', '.join(_ITEM_BYTES)}"
            )
        try:
            raw = np.fromfile(where, np.uint8, entry.size, offset=entry.offset)
        except OSError as error:
            raise MissingInputError(f"{where}: cannot be read ({error.strerror})") from None
        if len(raw) != entry.size or masked(crc32c(raw)) != entry.checksum:
            raise CheckpointError(
                f"{where}: {name}, {entry.size} bytes from byte {entry.offset} on, does not have "
                f"the checksum in {self.index.name}; the file was altered or cut short: fetch it "
                f"again"
            )
        stored = "uint16" if entry.dtype == "bfloat16" else entry.dtype
        array = raw.view(np.dtype(stored).newbyteorder(self._order)).reshape(entry.shape)
        array = array.astype(stored, copy=False)
        if entry.dtype == "bfloat16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array


def write_bundle(prefix: Path, tensors: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
    """Writes a bundle of one shard; tensors come in the order of their names' bytes."""
    header = message([(1, 1), (3, message([(1, 1)]))])  # one shard, little-endian; version 1
    entries = [(b"", header)]
    offset = 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as file:
        for name, tensor in tensors:
            content = np.ascontiguousarray(tensor, "<f4").reshape(-1).view(np.uint8)
            file.write(content.data)
            sizes = b"".join(message([(2, _dimension(size))]) for size in tensor.shape)
            parts: list[tuple[int, int | bytes]] = [(1, _FLOAT32), (2, sizes), (4, offset)]
            parts += [(5, len(content)), (6, masked(crc32c(content)))]
            entries.append((name.encode(), message(parts, fixed=_ENTRY_FIXED)))
            offset += len(content)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table_bytes(entries))


def _dimension(size: int) -> bytes:
    return message([(1, size)])


def _extents(one: Fields, where: str) -> tuple[Extent, ...]:
    """Returns where one slice lies in every dimension."""
    return tuple(
        (number_in(extent, 1, where), number_in(extent, 2, where) if 2 in extent else None)
        for extent in messages_in(one, 1, where)
    )


def _places(extents: tuple[Extent, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(start, start + (size - start if length is None else length))
        for (start, length), size in zip(extents, shape, strict=True)
    )


def _overlap(boxes: list[tuple[slice, ...]]) -> bool:
    """Returns whether two boxes share a number; all of them lie in the same tensor."""
    return any(
        all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))
        for place, one in enumerate(boxes)
        for other in boxes[:place]
    )


def _last(messages: list[Fields]) -> Fields:
    return messages[-1] if messages else {}


def _numpy_type(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def _name_of(key: bytes, index: Path) -> str:
    """Returns the name that a key spells, a slice's with its bytes escaped."""
    if key.startswith(b"\0"):
        return repr(key)
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise CheckpointError(
            f"{index}: the key {key[:80]!r} is not UTF-8; the file is damaged"
        ) from None
