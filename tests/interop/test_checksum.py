"""CRC-32C: the vectors of its standard, and the same by long division."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bertsmith.interop.checksum import crc32c, masked

# RFC 3720, appendix B.4: the bytes, and the CRC as a number (there its bytes stand in reverse).
READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
    "28000000 00000000 02000000 00000000"
)
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (READ_COMMAND, 0xD9963A56),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


def by_division(data: bytes) -> int:
    """Returns the CRC-32C bit by bit, as the standard defines it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_it_gives_the_published_answers(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


# Around each length at which blocks of another size are folded, or another segment begins.
@pytest.mark.parametrize("length", [1, 3, 4, 5, 2047, 2048, 2049, 4095, 4097, 70_001])
def test_it_agrees_with_long_division(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == by_division(data)


def test_what_lies_in_several_segments_is_one_message() -> None:
    # A message of zeros that ends in some bytes has a CRC that powers of the register give.
    length = 3 * (1 << 20) + 7
    data = np.zeros(length, np.uint8)
    data[:2048] = np.frombuffer(random.Random(0).randbytes(2048), np.uint8)
    register = by_division(data[:2048].tobytes()) ^ 0xFFFFFFFF
    matrix = [_advance(1 << bit) for bit in range(32)]
    for bit in range((length - 2048).bit_length()):
        if (length - 2048) >> bit & 1:
            register = _times(matrix, register)
        matrix = [_times(matrix, column) for column in matrix]
    assert crc32c(data) == register ^ 0xFFFFFFFF


def _advance(register: int) -> int:
    """Returns the register after one zero byte."""
    for _ in range(8):
        register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


def _times(matrix: list[int], register: int) -> int:
    result = 0
    for bit in range(32):
        if register >> bit & 1:
            result ^= matrix[bit]
    return result


@pytest.mark.parametrize("place", [0, 1, 999_999, 1_048_577, 3_000_000])
def test_every_flipped_bit_is_seen(place: int) -> None:
    data = np.frombuffer(random.Random(1).randbytes(3_000_001), np.uint8).copy()
    before = crc32c(data)
    data[place] ^= 16
    assert crc32c(data) != before


def test_it_is_stored_as_leveldb_stores_it() -> None:
    # LevelDB's crc32c_test.cc: masking is undone by turning back and subtracting.
    number = crc32c(b"foo")
    turned = (masked(number) - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == number
    assert masked(number) != number
