"""CRC-32C, the checksum of LevelDB tables and of TensorFlow's tensors, fast without compiled code.

A message is a polynomial over two elements, its CRC the remainder by P. Squaring such a polynomial
doubles its exponents, so P to the power 2^k has no more terms than P, each 2^k bits apart or more,
and is a multiple of P: a block of 2^k bits can be added to the 17 later blocks that those terms
name and then be left out. That is 17 exclusive ors of whole blocks, which numpy does at the speed
of memory. What is left is folded in blocks of half the size, and so on; the last bytes go through a
table.

Source: RFC 3720, appendix B.4 (CRC-32C and its test vectors); the folding is that of Gopal et al.
2009, with powers of P in place of carry-less products.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed; x^32 is left out
# How many blocks behind the first one stand those that it is added to.
_OFFSETS = tuple(32 - power for power in range(32) if _POLYNOMIAL >> (31 - power) & 1)
_NEAREST = min(_OFFSETS)  # as many blocks can be folded in one go
_LARGEST, _SMALLEST = 8192, 16  # bytes of a block: 32 of them stay in the cache
_SEGMENT = 1 << 20  # bytes that are copied and folded at a time


def _table() -> list[int]:
    rows = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        rows.append(byte)
    return rows


_TABLE = _table()


def crc32c(data: bytes | memoryview | NDArray[np.uint8]) -> int:
    """Returns the CRC-32C of bytes."""
    if len(data) < 128 * _SMALLEST:
        return _by_table(bytes(data), 0xFFFFFFFF) ^ 0xFFFFFFFF
    content = np.frombuffer(data, np.uint8)  # [N]
    block = _LARGEST
    while block > _SMALLEST and len(content) < 128 * block:
        block //= 2
    rest = np.zeros(32 * block, np.uint8)  # zeros in front change nothing
    first = min(len(content), _SEGMENT + len(content) % _SEGMENT)
    for end in range(first, len(content) + 1, _SEGMENT):
        start = end - _SEGMENT if end > first else 0
        padding = -(end - start) % (_NEAREST * block)
        buffer = np.zeros(len(rest) + padding + end - start, np.uint8)
        buffer[len(rest) + padding :] = content[start:end]
        if start == 0:  # the register begins full of ones
            buffer[len(rest) + padding :][:4] ^= 0xFF
        buffer[padding:][: len(rest)] ^= rest
        rest = _fold(buffer, block)
    while block > _SMALLEST:
        block //= 2
        rest = _fold(rest, block)
    return _by_table(rest.tobytes(), 0) ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Returns a CRC as these files store it, so that one of bytes that hold CRCs stays sound.

    Source: LevelDB, `util/crc32c.h`.
    """
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _fold(buffer: NDArray[np.uint8], block: int) -> NDArray[np.uint8]:
    """Returns the last 32 blocks, once all before them have been added to those behind them."""
    words = buffer.view(np.uint64)
    unit = block // 8
    for start in range(0, len(words) - 32 * unit, _NEAREST * unit):
        chunk = words[start : start + _NEAREST * unit]
        for offset in _OFFSETS:
            place = words[start + offset * unit : start + (offset + _NEAREST) * unit]
            np.bitwise_xor(place, chunk, out=place)
    return buffer[len(buffer) - 32 * block :]


def _by_table(content: bytes, register: int) -> int:
    for byte in content:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register
