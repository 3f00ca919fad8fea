"""The table of LevelDB: bytes laid out by hand from its description, and files that lie."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow
import pytest
from tests.interop.test_checksum import by_division

from bertsmith.errors import CheckpointError, MissingInputError
from bertsmith.interop.checksum import masked
from bertsmith.interop.table import read_table, table_bytes

MAGIC = bytes.fromhex("57fb808b247547db")  # 0xdb4775248b80fb57, the lowest byte first


def block(entries: bytes, *restarts: int, kind: int = 0) -> bytes:
    """Returns a block with its trailer; `entries` are encoded already."""
    content = entries + b"".join(place.to_bytes(4, "little") for place in restarts)
    content += len(restarts).to_bytes(4, "little")
    return trailed(content, kind)


def trailed(content: bytes, kind: int = 0) -> bytes:
    content += bytes([kind])
    return content + masked(by_division(content)).to_bytes(4, "little")


def number(value: int) -> bytes:
    """Returns a varint."""
    return bytes([value & 0x7F | 0x80]) + number(value >> 7) if value > 0x7F else bytes([value])


def handle(offset: int, whole: bytes) -> bytes:
    return number(offset) + number(len(whole) - 5)


def table(*blocks: bytes, index: bytes | None = None) -> bytes:
    """Returns a table of ready blocks."""
    out, entries, restarts = b"", b"", []
    for place, one in enumerate(blocks):
        where = handle(len(out), one)
        restarts.append(len(entries))
        entries += bytes([0, 1, len(where), 0x61 + place]) + where
        out += one
    metaindex = block(b"", 0)
    meta_handle = handle(len(out), metaindex)
    out += metaindex
    index_block = block(entries, *restarts) if index is None else index
    footer = (meta_handle + handle(len(out), index_block)).ljust(40, b"\0") + MAGIC
    return out + index_block + footer


# 'apple' -> 1, 'apply' (shares 4 bytes) -> 22, 'b' -> ''
FRUIT = b"\0\x05\x01apple1" + b"\x04\x01\x02y22" + b"\0\x01\0b"


def written(folder: Path, content: bytes) -> Path:
    (folder / "x.index").write_bytes(content)
    return folder / "x.index"


def test_a_table_laid_out_by_hand_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, table(block(FRUIT, 0), block(b"\0\x01\x01c3", 0)))
    assert read_table(path) == {b"apple": b"1", b"apply": b"22", b"b": b"", b"c": b"3"}


def test_what_is_written_is_laid_out_as_described() -> None:
    found = table_bytes([(b"apple", b"1"), (b"apply", b"22"), (b"b", b"")])
    assert found.startswith(block(FRUIT, 0))
    assert found.endswith(MAGIC)


def test_snappy_blocks_are_read(tmp_path: Path) -> None:
    content = FRUIT + bytes(4) + b"\x01\0\0\0"
    small = pyarrow.compress(content, codec="snappy", asbytes=True)
    path = written(tmp_path, table(trailed(small, kind=1)))
    assert read_table(path) == {b"apple": b"1", b"apply": b"22", b"b": b""}


def test_many_entries_come_back_from_several_blocks(tmp_path: Path) -> None:
    rng = random.Random(0)
    entries = {b"name/%06d" % n: rng.randbytes(rng.randrange(300)) for n in range(3000)}
    path = written(tmp_path, table_bytes(sorted(entries.items())))
    found = read_table(path)
    assert found == entries and list(found) == sorted(entries)


def growing() -> bytes:
    """Returns entries of four bytes, each a key one byte longer than the one before."""
    return b"".join(number(n) + b"\x01\0a" for n in range(5000))


ONE = block(FRUIT, 0)
LIES = {
    "another magic": (table(block(FRUIT, 0))[:-1] + b"\0", "does not end as a table"),
    "an empty file": (b"", "does not end as a table"),
    "cut short": (table(block(FRUIT, 0))[:-60], "does not end as a table"),
    "cut out of the middle": (table(block(FRUIT, 0))[9:], "checksum|does not fit"),
    "a wrong checksum": (b"\1" + table(block(FRUIT, 0))[1:], "not have the checksum"),
    "an index beyond the end": (
        bytes(20) + (b"\0\0" + number(5) + number(1 << 60)).ljust(40, b"\0") + MAGIC,
        "does not fit the 20 bytes",
    ),
    "a number without end": (bytes(20) + b"\xff" * 40 + MAGIC, "a varint of at most 64 bits"),
    "another compression": (table(block(FRUIT, 0, kind=4)), "compressed in the way 4"),
    "gigabytes of snappy": (
        table(trailed(b"\xff\xff\xff\xff\x0f", kind=1)),
        "at most 22 times its size",
    ),
    "too many restarts": (table(trailed(b"\xff\xff\xff\x7f")), "restarts do not fit"),
    "an empty block": (table(trailed(b"")), "restarts do not fit"),
    "more shared than there is": (table(block(b"\x09\x01\0a", 0)), "does not fit"),
    "more held than there is": (table(block(b"\0\x01\xff\x01a", 0)), "does not fit"),
    "keys out of order": (table(block(b"\0\x01\0b\0\x01\0a", 0)), "'a' stands behind 'b'"),
    "a key twice": (table(block(b"\0\x01\0b\0\x01\0b", 0)), "'b' stands behind 'b'"),
    "keys that only grow": (table(block(growing(), 0)), "a key has 1025 bytes"),
    "one block twice": (
        table(ONE, index=block(b"\0\1\2a" + handle(0, ONE) + b"\0\1\2b" + handle(0, ONE), 0)),
        "byte 0, before the one ahead of it ends",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    content, reason = LIES[lie]
    with pytest.raises(CheckpointError, match=reason):
        read_table(written(tmp_path, content))


def test_a_file_too_large_for_an_index_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="expected an index of tensors"):
        read_table(path)


def test_more_entries_than_any_model_has_are_refused(tmp_path: Path) -> None:
    entries = ((b"%07d" % n, b"") for n in range(100_001))
    with pytest.raises(CheckpointError, match="more than 100,000 entries"):
        read_table(written(tmp_path, table_bytes(entries)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"x\.index: cannot be read"):
        read_table(tmp_path / "x.index")
