"""Snappy, as blocks of tables are compressed with: decompression alone.

Source: `format_description.txt` of the snappy project.
"""

from __future__ import annotations

from bertsmith.errors import CheckpointError
from bertsmith.interop.protobuf import read_varint

_MOST_GROWTH = 22  # a copy of 64 bytes takes three


def decompress(data: bytes, where: str) -> bytes:
    """Returns what was compressed; memory stays below 22 times the size of `data`.

    Raises:
        CheckpointError: a length or an offset lies; the message names `where`.
    """
    size, place = read_varint(data, 0, where, bits=32)
    if size > _MOST_GROWTH * len(data):
        raise CheckpointError(
            f"{where}: a snappy block of {len(data)} bytes says that it holds {size}; expected at "
            f"most {_MOST_GROWTH} times its size: the file is damaged"
        )
    out = bytearray()
    while place < len(data):
        tag = data[place]
        place += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                length = int.from_bytes(data[place : place + extra], "little") + 1
                place += extra
            piece = data[place : place + length]
            if len(piece) < length:
                raise _damaged(where, "a literal is cut short")
            place += length
            out += piece
        else:
            length, offset, place = _copy(data, tag, place)
            if not 0 < offset <= len(out):
                raise _damaged(where, f"a copy from {offset} bytes back stands at {len(out)}")
            out += _repeated(out, offset, length)
        if len(out) > size:
            raise _damaged(where, f"it holds more than the {size} bytes that it says")
    if len(out) != size:
        raise _damaged(where, f"it holds {len(out)} bytes and says {size}")
    return bytes(out)


def _copy(data: bytes, tag: int, place: int) -> tuple[int, int, int]:
    """Returns length and offset of a copy, and the place behind it."""
    if tag & 3 == 1:
        low = data[place] if place < len(data) else 0
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | low, place + 1
    width = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, int.from_bytes(data[place : place + width], "little"), place + width


def _repeated(out: bytearray, offset: int, length: int) -> bytes:
    """Returns `length` bytes from `offset` back; a copy may reach into what it writes itself."""
    start = len(out) - offset
    piece = bytes(out[start : start + length])
    return (piece * (length // len(piece) + 1))[:length]


def _damaged(where: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{where}: a snappy block does not hold together: {reason}")
