"""The sorted table of LevelDB, in which TensorFlow keeps the index of a checkpoint.

    block*  metaindex block  index block  footer

A block is entries in the order of their keys, each without the bytes that it shares with the key
before it, then the places where whole keys stand (restarts). Behind it follow one byte that tells
the compression and a masked CRC-32C. The footer says where the index block stands, which says where
every other one does.

Source: LevelDB's `doc/table_format.md` and `table/block_builder.cc`; `tensorflow/core/lib/io/table`
has the same format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bertsmith.errors import CheckpointError, MissingInputError
from bertsmith.interop.checksum import crc32c, masked
from bertsmith.interop.protobuf import read_varint, varint
from bertsmith.interop.snappy import decompress

MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: compression and checksum
_NO_COMPRESSION, _SNAPPY = 0, 1
_RESTART_INTERVAL = 16  # entries from one whole key to the next
_BLOCK_BYTES = 1 << 18
# What an index of tensors never comes near: a model of 1000 blocks has 16,000 of them, with the
# optimizer's 48,000.
_MOST_FILE_BYTES = 16 << 20
_MOST_ENTRIES = 100_000
_MOST_KEY_BYTES = 1024


def read_table(path: Path) -> dict[bytes, bytes]:
    """Returns the entries of a table in the order of their keys; every checksum is verified.

    Raises:
        MissingInputError: there is no such file.
        CheckpointError: it is no such table, or damaged; the message tells where.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_FILE_BYTES:
            raise CheckpointError(
                f"{path}: holds {size:,} bytes; expected an index of tensors, of at most "
                f"{_MOST_FILE_BYTES:,}"
            )
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
    where = str(path)
    footer = content[-_FOOTER_BYTES:]
    if len(content) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise CheckpointError(
            f"{path}: does not end as a table of TensorFlow's or LevelDB's does; it is cut short, "
            f"or something else"
        )
    body = content[:-_FOOTER_BYTES]
    _, _, place = _handle(footer, 0, f"{where}: footer")  # of the metaindex, which is empty
    offset, length, _ = _handle(footer, place, f"{where}: footer")
    entries: dict[bytes, bytes] = {}
    last, end = b"", 0
    for _, handle in _entries(_block(body, offset, length, where), f"{where}: index block"):
        offset, length, _ = _handle(handle, 0, f"{where}: index block")
        if offset < end:
            raise CheckpointError(
                f"{path}: a block begins at byte {offset}, before the one ahead of it ends "
                f"({end}); the file is damaged"
            )
        end = offset + length
        block = _block(body, offset, length, where)
        for key, value in _entries(block, f"{where}: block at byte {offset}"):
            if entries and key <= last:
                raise CheckpointError(
                    f"{path}: the key {_shown(key)} stands behind {_shown(last)}; expected keys "
                    f"in order, each once"
                )
            if len(entries) == _MOST_ENTRIES:
                raise CheckpointError(f"{path}: holds more than {_MOST_ENTRIES:,} entries")
            entries[key] = value
            last = key
    return entries


def table_bytes(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns a table, uncompressed, of (key, value) in the order of their keys."""
    out = bytearray()
    handles: list[tuple[bytes, bytes]] = []
    waiting: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in entries:
        assert not waiting or waiting[-1][0] < key, "keys come in order"
        waiting.append((key, value))
        size += len(key) + len(value)
        if size >= _BLOCK_BYTES:
            handles.append((key, _append_block(out, waiting, _RESTART_INTERVAL)))
            waiting, size = [], 0
    if waiting or not handles:
        last = waiting[-1][0] if waiting else b""
        handles.append((last, _append_block(out, waiting, _RESTART_INTERVAL)))
    metaindex = _append_block(out, [], _RESTART_INTERVAL)
    index = _append_block(out, handles, 1)
    footer = (metaindex + index).ljust(_FOOTER_BYTES - 8, b"\0") + MAGIC.to_bytes(8, "little")
    return bytes(out + footer)


def _append_block(out: bytearray, entries: list[tuple[bytes, bytes]], interval: int) -> bytes:
    """Appends a block; returns its handle."""
    block, restarts, last = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % interval == 0:
            restarts.append(len(block))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        block += varint(shared) + varint(len(key) - shared) + varint(len(value))
        block += key[shared:] + value
        last = key
    for number in [*(restarts or [0]), len(restarts) or 1]:
        block += number.to_bytes(4, "little")
    handle = varint(len(out)) + varint(len(block))
    block.append(_NO_COMPRESSION)
    out += block + masked(crc32c(bytes(block))).to_bytes(4, "little")
    return handle


def _handle(data: bytes, place: int, where: str) -> tuple[int, int, int]:
    """Returns offset and size of a block, and the place behind its handle."""
    offset, place = read_varint(data, place, where)
    size, place = read_varint(data, place, where)
    return offset, size, place


def _block(body: bytes, offset: int, size: int, where: str) -> bytes:
    """Returns the verified and decompressed content of the block at `offset`."""
    if offset + size + _TRAILER_BYTES > len(body):
        raise CheckpointError(
            f"{where}: a block of {size} bytes at byte {offset} does not fit the {len(body)} bytes "
            f"that stand before the footer; the file is cut short or altered"
        )
    content = body[offset : offset + size + 1]
    stored = int.from_bytes(body[offset + size + 1 : offset + size + _TRAILER_BYTES], "little")
    if masked(crc32c(content)) != stored:
        raise CheckpointError(
            f"{where}: the block at byte {offset} does not have the checksum stored behind it; the "
            f"file was altered: fetch it again"
        )
    kind = content[size]
    if kind == _NO_COMPRESSION:
        return content[:size]
    if kind == _SNAPPY:
        return decompress(content[:size], f"{where}: block at byte {offset}")
    raise CheckpointError(
        f"{where}: the block at byte {offset} is compressed in the way {kind}; expected 0 (not) "
        f"or 1 (snappy)"
    )


def _entries(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of one block; they are read from the first on, without the restarts."""
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (num_restarts + 1)
    if len(block) < 4 or end < 0:
        raise CheckpointError(
            f"{where}: {num_restarts} restarts do not fit {len(block)} bytes; the file is damaged"
        )
    place, key = 0, b""
    entries = block[:end]
    while place < end:
        shared, place = read_varint(entries, place, where, bits=32)
        unshared, place = read_varint(entries, place, where, bits=32)
        length, place = read_varint(entries, place, where, bits=32)
        if shared > len(key) or place + unshared + length > end:
            raise CheckpointError(
                f"{where}: an entry that shares {shared} bytes, adds {unshared} and holds {length} "
                f"does not fit; the file is damaged"
            )
        if shared + unshared > _MOST_KEY_BYTES:
            raise CheckpointError(
                f"{where}: a key has {shared + unshared} bytes; expected at most {_MOST_KEY_BYTES}"
            )
        key = key[:shared] + entries[place : place + unshared]
        place += unshared
        yield key, entries[place : place + length]
        place += length


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace")[:80])
