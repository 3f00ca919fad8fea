"""Tensor bundles: what they hold comes back, and an index that lies is refused."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.interop.test_checksum import by_division

from bertsmith.errors import BertsmithError, CheckpointError, MissingInputError
from bertsmith.interop.bundle import Bundle, write_bundle
from bertsmith.interop.checksum import masked
from bertsmith.interop.ordered_code import slice_key
from bertsmith.interop.protobuf import Value, message, read_message, read_varint, varint
from bertsmith.interop.table import read_table, table_bytes

FLOAT, DOUBLE, INT, STRING, LONG, BFLOAT, HALF = 1, 2, 3, 7, 9, 14, 19
HEADER = message([(1, 1), (3, message([(1, 1)]))])
FIXED = frozenset({6})


def shape(*sizes: int) -> bytes:
    return b"".join(message([(2, message([(1, size)]))]) for size in sizes)


def entry(
    dtype: int,
    sizes: tuple[int, ...],
    content: bytes = b"",
    *,
    offset: int = 0,
    more: tuple[tuple[int, Value], ...] = (),
    **changes: int,
) -> bytes:
    """Returns an entry for `content` at `offset`; `more` are further fields."""
    parts: list[tuple[int, Value]] = [(1, dtype), (2, shape(*sizes))]
    parts += [(3, changes.get("shard", 0)), (4, offset), (5, changes.get("size", len(content)))]
    checksum = changes.get("checksum", masked(by_division(content)))
    return message([*parts, (6, checksum), *more], fixed=FIXED)


def write(
    folder: Path, entries: dict[bytes, bytes], *shards: bytes, header: bytes = HEADER
) -> Path:
    """Writes a bundle of these entries and shards; returns its prefix."""
    prefix = folder / "x.ckpt"
    content = {b"": header, **entries}
    (folder / "x.ckpt.index").write_bytes(table_bytes(sorted(content.items())))
    for number, shard in enumerate(shards):
        (folder / f"x.ckpt.data-{number:05}-of-{len(shards):05}").write_bytes(shard)
    return prefix


NUMBERS: NDArray[np.float32] = np.arange(6, dtype=np.float32).reshape(2, 3) / np.float32(4)
BYTES = NUMBERS.tobytes()


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[np.float32]] = {
        "a": NUMBERS,
        "a/b": np.full((), 3.25, np.float32),
        "b": np.zeros((0, 4), np.float32),
        "c": np.arange(300_000, dtype=np.float32).reshape(600, 500).T,
    }
    write_bundle(tmp_path / "x.ckpt", tensors.items())
    bundle = Bundle(tmp_path / "x.ckpt")
    assert list(bundle.tensors) == list(tensors)
    for name, tensor in tensors.items():
        found = bundle.read(name)
        assert found.dtype == np.float32 and found.shape == tensor.shape
        assert np.array_equal(found, tensor)


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        (FLOAT, NUMBERS, NUMBERS),
        (HALF, NUMBERS.astype(np.float16), NUMBERS.astype(np.float16)),
        (INT, np.array([[1, -2], [3, 4]], np.int32), np.array([[1, -2], [3, 4]], np.int32)),
        (LONG, np.array([1 << 40], np.int64), np.array([1 << 40], np.int64)),
        # bfloat16: the first half of a float32, which quarters up to 5/4 fill
        (BFLOAT, (NUMBERS.view(np.uint32) >> 16).astype(np.uint16), NUMBERS),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_is_read_in_both_orders_of_bytes(
    dtype: int, stored: Any, expected: Any, order: Any, tmp_path: Path
) -> None:
    content = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    header = message([(1, 1), (2, int(order == ">"))])
    entries = {b"x": entry(dtype, stored.shape, content)}
    found = Bundle(write(tmp_path, entries, content, header=header)).read("x")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_several_shards_are_read(tmp_path: Path) -> None:
    other = np.arange(4, dtype=np.float32)
    entries = {
        b"a": entry(FLOAT, (2, 3), BYTES),
        b"b": entry(FLOAT, (4,), other.tobytes(), shard=1),
    }
    bundle = Bundle(write(tmp_path, entries, BYTES, other.tobytes(), header=message([(1, 2)])))
    assert np.array_equal(bundle.read("a"), NUMBERS) and np.array_equal(bundle.read("b"), other)


def parted(*extents: tuple[tuple[int, int | None], ...]) -> dict[bytes, bytes]:
    """Returns the entries of NUMBERS, parted into these slices, one behind the other."""
    slices, entries, offset = [], {}, 0
    for one in extents:
        places = tuple(
            slice(start, None if length is None else start + length) for start, length in one
        )
        part = NUMBERS[places]
        fields = [message([(1, start), *([(2, n)] if n is not None else [])]) for start, n in one]
        slices.append((7, b"".join(message([(1, field)]) for field in fields)))
        entries[slice_key("x", one)] = entry(FLOAT, part.shape, part.tobytes(), offset=offset)
        offset += part.nbytes
    entries[b"x"] = entry(FLOAT, (2, 3), more=tuple(slices), checksum=0)
    return entries


def content_of(*places: Any) -> bytes:
    return b"".join(NUMBERS[place].tobytes() for place in places)


def test_a_parted_tensor_is_put_together(tmp_path: Path) -> None:
    entries = parted(((0, None), (0, 1)), ((0, None), (1, 2)))
    content = content_of((slice(None), slice(0, 1)), (slice(None), slice(1, 3)))
    bundle = Bundle(write(tmp_path, entries, content))
    assert list(bundle.tensors) == ["x"] and np.array_equal(bundle.read("x"), NUMBERS)


@pytest.mark.parametrize(
    ("extents", "reason"),
    [
        ([((0, 1), (0, None))], "do not make up"),
        ([((0, 1), (0, None)), ((0, 1), (0, None))], "do not make up|within the tensor"),
        ([((0, None), (0, 2)), ((0, 1), (1, 2))], "do not make up"),
        ([((0, None),)], "1 dimensions; expected 2"),
    ],
)
def test_slices_that_do_not_make_up_their_tensor_are_refused(
    extents: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        Bundle(write(tmp_path, parted(*extents), bytes(48)))


def test_a_slice_that_is_absent_or_outside_is_refused(tmp_path: Path) -> None:
    entries = parted(((0, 1), (0, None)), ((1, 1), (0, None)))
    absent = {key: value for key, value in entries.items() if key != min(entries)}
    with pytest.raises(CheckpointError, match="absent or does not fit"):
        Bundle(write(tmp_path, absent, BYTES))


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [  # as OrderedCode::WriteSignedNumIncreasing writes them
        (0, None, "807f"),
        (63, 64, "bfc040"),
        (300, -65, "c12c3fbf"),
        (1 << 20, (1 << 62), "f0100000ffc04000000000000000"),
    ],
)
def test_keys_of_slices_sort_as_their_numbers(start: int, length: Any, expected: str) -> None:
    assert slice_key("v", ((start, length),)).hex() == "00" + "760001" + "0101" + expected


LIES: dict[str, tuple[bytes, str]] = {
    "beyond the end": (entry(FLOAT, (2, 3), BYTES, offset=1), "do not lie within the 24 bytes"),
    "far beyond": (entry(FLOAT, (1 << 40,), size=1 << 42), "do not lie within the 24 bytes"),
    "before the start": (entry(FLOAT, (2, 3), BYTES, offset=-8), "from byte -8 on"),
    "less than nothing": (entry(DOUBLE, (2,), size=-16), "-16 bytes"),
    "more than its shape": (entry(FLOAT, (2, 2), BYTES), "24 bytes; expected 16"),
    "less than its shape": (entry(FLOAT, (1 << 31, 1 << 31), BYTES), "24 bytes; expected 184467"),
    "a negative shape": (entry(FLOAT, (-2, -3), BYTES), r"shape \[-2, -3\]"),
    "many dimensions": (entry(FLOAT, (1,) * 9, BYTES[:4]), "at most 8 sizes"),
    "another shard": (entry(FLOAT, (2, 3), BYTES, shard=1), "shard 1; expected 0 to 0"),
    "a negative shard": (entry(FLOAT, (2, 3), BYTES, shard=-1), "shard -1"),
    "no message": (b"\xff\xff", "cut short or too long"),
    "cut short": (entry(FLOAT, (2, 3), BYTES)[:-2], "is cut short after 2"),
    "a huge varint": (b"\x08" + b"\xff" * 11, "a varint of at most 64 bits"),
    "bytes for a number": (message([(4, b"12")]), "field 4 holds bytes"),
    "a number for a shape": (message([(1, 1), (2, 5)]), "field 2 holds a number"),
    "another wire": (b"\x0b", "of wire type 3"),
    "too many slices": (
        entry(FLOAT, (2, 3), more=tuple((7, b"") for _ in range(1001))),
        "1001 slices",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_entry_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    value, reason = LIES[lie]
    with pytest.raises(CheckpointError, match=reason):
        Bundle(write(tmp_path, {b"x": value}, BYTES))


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    whole, within = entry(FLOAT, (2, 3), BYTES), entry(FLOAT, (1,), BYTES[8:12], offset=8)
    nothing = entry(FLOAT, (0,), offset=4)  # between them, it hides nothing
    with pytest.raises(CheckpointError, match="begins at byte 8, within the tensor before it"):
        Bundle(write(tmp_path, {b"x": whole, b"y": nothing, b"z": within}, BYTES))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (message([(1, 0)]), "num_shards is 0"),
        (message([(1, -1)]), "num_shards is -1"),
        (message([(1, 1 << 31)]), "num_shards is 2147483648; expected 1 to 99999"),
        (message([(1, 1), (2, 2)]), "endianness is 2"),
        (b"\x08", "cut short or too long"),
    ],
)
def test_a_header_that_lies_is_refused(header: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        Bundle(write(tmp_path, {}, BYTES, header=header))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"data-00001-of-00003: there is no such file"):
        write(tmp_path, {}, BYTES, BYTES)
        (tmp_path / "x.ckpt.data-00000-of-00003").write_bytes(BYTES)
        Bundle(write(tmp_path, {}, header=message([(1, 3)])))


def test_an_index_without_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt.index").write_bytes(table_bytes([(b"a", b"")]))
    with pytest.raises(CheckpointError, match="header: is missing"):
        Bundle(tmp_path / "x.ckpt")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not UTF-8"):
        Bundle(write(tmp_path, {b"\xc3\x28": entry(FLOAT, (2, 3), BYTES)}, BYTES))


def test_a_name_that_is_a_path_opens_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BYTES)
    inner = tmp_path / "inner"
    inner.mkdir()
    name = f"../{secret.name}"
    other = entry(FLOAT, (2, 3), bytes(24))
    assert not Bundle(write(inner, {name.encode(): other}, bytes(24))).read(name).any()


@pytest.mark.parametrize("place", range(0, 24, 5))
def test_a_flipped_byte_of_a_tensor_is_seen(place: int, tmp_path: Path) -> None:
    altered = bytearray(BYTES)
    altered[place] ^= 1
    bundle = Bundle(write(tmp_path, {b"x": entry(FLOAT, (2, 3), BYTES)}, bytes(altered)))
    with pytest.raises(
        CheckpointError, match="x, 24 bytes from byte 0 on, does not have the check"
    ):
        bundle.read("x")


def test_other_types_are_refused_where_they_are_read(tmp_path: Path) -> None:
    entries = {b"s": entry(STRING, (), BYTES[:3]), b"x": entry(FLOAT, (5,), BYTES[4:], offset=4)}
    bundle = Bundle(write(tmp_path, entries, BYTES))
    assert bundle.read("x").shape == (5,)
    with pytest.raises(CheckpointError, match="s is of the type string; expected float32"):
        bundle.read("s")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4))
def test_flipped_bytes_are_refused_or_change_nothing(
    changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Whatever bytes of an index are altered: with its checksums made right again, too."""
    entries = {
        b"a": entry(FLOAT, (2, 3), BYTES),
        **parted(((0, 1), (0, None)), ((1, 1), (0, None))),
    }
    prefix = write(tmp_path, entries, BYTES + BYTES)
    index = tmp_path / "x.ckpt.index"
    for mend in (False, True):
        content = bytearray(
            index.read_bytes() if not mend else table_bytes(sorted(entries.items()))
        )
        length = len(content) if not mend else len(content) - 48
        for place, mask in changes:
            content[place % length] ^= mask
        if mend:
            _mend(content)
        index.write_bytes(content)
        tracemalloc.start()
        try:
            bundle = Bundle(prefix)
            for name in bundle.tensors:
                bundle.read(name)
        except BertsmithError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 5_000_000
        write(tmp_path, entries, BYTES + BYTES)


def _mend(content: bytearray) -> None:
    """Gives each block of a table the checksum of what it holds now."""
    place, numbers = len(content) - 48, []
    for _ in range(4):
        value, place = read_varint(bytes(content), place, "footer")
        numbers.append(value)
    for start, size in ((0, numbers[0] - 5), tuple(numbers[:2]), tuple(numbers[2:])):
        stored = masked(by_division(bytes(content[start : start + size + 1])))
        content[start + size + 1 : start + size + 5] = stored.to_bytes(4, "little")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(CheckpointError):
        read_message(data, "message")


@given(st.integers(0, (1 << 64) - 1))
def test_every_number_comes_back_from_a_varint(number: int) -> None:
    assert read_varint(varint(number) + b"x", 0, "here") == (number, len(varint(number)))


def test_the_index_is_written_as_tensorflow_writes_it(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.ckpt", [("x", NUMBERS)])
    table = read_table(tmp_path / "x.ckpt.index")
    assert table == {b"": bytes.fromhex("08011a020801"), b"x": entry(FLOAT, (2, 3), BYTES)}
