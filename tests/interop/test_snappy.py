"""Snappy: what another implementation has compressed, and lengths that lie."""

from __future__ import annotations

import random
from contextlib import suppress
from pydoc_data import topics

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.errors import CheckpointError
from bertsmith.interop.snappy import decompress

TEXT = "".join(list(topics.topics.values())[:20]).encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"a", b"abc" * 5000, bytes(100_000), TEXT, random.Random(0).randbytes(70_000)],
    ids=["nothing", "one", "repeated", "zeros", "text", "noise"],
)
def test_what_snappy_compressed_comes_back(data: bytes) -> None:
    compressed = pyarrow.compress(data, codec="snappy", asbytes=True)
    assert decompress(compressed, "block") == data


def test_a_copy_may_reach_into_what_it_writes() -> None:
    # 9 bytes: a literal 'ab', then 7 bytes from 2 back.
    assert (
        decompress(bytes([9, 1 << 2]) + b"ab" + bytes([3 << 2 | 1, 2]), "block") == b"ab" * 4 + b"a"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff\xff\x0f" + b"\0a", "at most 22 times its size"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "a varint of at most 32 bits"),
        (b"", "cut short"),
        (b"\x05\x10ab", "a literal is cut short"),
        (b"\x05\x00a\x05\x09", "from 9 bytes back stands at 1"),
        (b"\x05\x00a\x05\x00", "from 0 bytes back"),
        (b"\x02\x08abc", "more than the 2 bytes"),
        (b"\x09\x08abc", "holds 3 bytes and says 9"),
    ],
)
def test_what_lies_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        decompress(data, "block")


@given(st.binary(max_size=300))
def test_any_bytes_are_decompressed_or_refused(data: bytes) -> None:
    with suppress(CheckpointError):
        assert len(decompress(data, "block")) <= 22 * len(data)
