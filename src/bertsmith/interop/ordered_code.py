"""The keys under which a bundle keeps the slices of a tensor that was parted.

They are made so that their bytes sort as what they stand for.

Source: `EncodeTensorNameSlice` of TensorFlow's `saved_tensor_slice_util.cc`, and `ordered_code.cc`.
"""

from __future__ import annotations


def slice_key(name: str, extents: tuple[tuple[int, int | None], ...]) -> bytes:
    """Returns the key of a slice: for each dimension its start and length; None means all of it."""
    key = _unsigned(0) + _text(name.encode()) + _unsigned(len(extents))
    for start, length in extents:
        key += _signed(start) + _signed(-1 if length is None else length)
    return key


def _unsigned(number: int) -> bytes:
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _text(content: bytes) -> bytes:
    """Returns UTF-8, which holds no byte 255, with its zeros and its end marked."""
    return content.replace(b"\0", b"\0\xff") + b"\0\x01"


def _signed(number: int) -> bytes:
    """Returns a number whose first bits tell its sign and how many bytes it has."""
    bits = (number if number >= 0 else ~number).bit_length()
    length = bits // 7 + 1
    digits = number.to_bytes(length + 1, "big", signed=True)[1:]
    # As many ones as there are bytes, of 16 bits: two bytes, of which a short number has the first.
    header = (0xFFFF << (16 - length) & 0xFFFF).to_bytes(2, "big")
    return bytes(byte ^ mark for byte, mark in zip(digits, (*header, *[0] * length), strict=False))
