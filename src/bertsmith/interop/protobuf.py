"""Protocol buffers on the wire: the little of them that tensor bundles need, read and written.

Source: the published encoding (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Sequence

from bertsmith.errors import CheckpointError

Value = int | bytes
Fields = dict[int, list[Value]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_varint(data: bytes, place: int, where: str, *, bits: int = 64) -> tuple[int, int]:
    """Returns the number that begins at `place`, and the place behind it.

    Raises:
        CheckpointError: it is cut short, or needs more than `bits` bits.
    """
    number, shift = 0, 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if number >> bits:
            break
        if byte < 0x80:
            return number, place
        if shift > bits:
            break
    raise CheckpointError(
        f"{where}: the number before byte {place} is cut short or too long; expected a varint of "
        f"at most {bits} bits: the file is damaged"
    )


def varint(number: int) -> bytes:
    """Returns a number as a varint; a negative one as its two's complement of 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_message(data: bytes, where: str) -> Fields:
    """Returns the values of every field of a message by its number, in the order they stand.

    Raises:
        CheckpointError: it is cut short, or is no message.
    """
    fields: Fields = {}
    place = 0
    while place < len(data):
        tag, place = read_varint(data, place, where, bits=32)
        kind = tag & 7
        value: Value
        if kind == _VARINT:
            value, place = read_varint(data, place, where)
        elif kind in (_FIXED32, _FIXED64, _BYTES):
            length = 4 if kind == _FIXED32 else 8
            if kind == _BYTES:
                length, place = read_varint(data, place, where)
            content = data[place : place + length]
            if len(content) < length:
                raise CheckpointError(
                    f"{where}: field {tag >> 3} of {length} bytes is cut short after "
                    f"{len(content)}; the file is damaged"
                )
            place += length
            value = content if kind == _BYTES else int.from_bytes(content, "little")
        else:
            raise CheckpointError(
                f"{where}: field {tag >> 3} is of wire type {kind}; expected 0, 1, 2 or 5: the "
                f"file is damaged"
            )
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def number_in(fields: Fields, field: int, where: str) -> int:
    """Returns the signed number of a field, 0 where it is absent, as the last of several.

    Raises:
        CheckpointError: it holds bytes.
    """
    value = fields.get(field, [0])[-1]
    if isinstance(value, bytes):
        raise CheckpointError(f"{where}: field {field} holds bytes; expected a number")
    return value - (1 << 64) if value >> 63 else value


def messages_in(fields: Fields, field: int, where: str) -> list[Fields]:
    """Returns the messages of a repeated field.

    Raises:
        CheckpointError: one is a number, or no message.
    """
    found = []
    for value in fields.get(field, []):
        if isinstance(value, int):
            raise CheckpointError(f"{where}: field {field} holds a number; expected a message")
        found.append(read_message(value, where))
    return found


def message(parts: Sequence[tuple[int, Value]], *, fixed: frozenset[int] = frozenset()) -> bytes:
    """Returns a message of (field, value) in their order; zeros are left out, as is usual.

    Fields in `fixed` are numbers of four bytes.
    """
    out = bytearray()
    for field, value in parts:
        if isinstance(value, bytes):
            out += varint(field << 3 | _BYTES) + varint(len(value)) + value
        elif field in fixed:
            out += varint(field << 3 | _FIXED32) + value.to_bytes(4, "little")
        elif value:
            out += varint(field << 3 | _VARINT) + varint(value)
    return bytes(out)
