"""Bytes of a labelled file to its lines: unpacked, decoded strictly, ended by a line feed alone."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from bertsmith.errors import ConfigError, DataError, MissingInputError

CHUNK_BYTES = 1 << 20


def known_encoding(encoding: str, setting: str = "file_encoding") -> str:
    """Returns Python's name of an encoding.

    Raises:
        ConfigError: Python does not know it, or it is none of text.
    """
    try:
        "".encode(encoding)  # refuses what is a codec but no encoding of text, as rot13
        return codecs.lookup(encoding).name
    except LookupError:
        raise ConfigError(
            f"{setting} is {encoding!r}, which Python does not know; "
            f"expected a name such as utf-8, utf-16, cp1252 or gb18030"
        ) from None


def text_lines(path: Path, encoding: str) -> Iterator[str]:
    """Yields the lines with their line feeds, without a byte order mark.

    Raises:
        DataError: the bytes are not `encoding`; the message names the offset of the first fault.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    before = 0  # bytes handed to the decoder and used up by it
    rest = ""
    with _opened(path) as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = before - pending + error.start
                _refuse_bytes(path, encoding, offset, error, before == 0)
            if before == 0:
                text = text.removeprefix("\ufeff")
            before += len(chunk)
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                yield line + "\n"
            if not chunk:
                break
    if rest:
        yield rest


def _refuse_bytes(
    path: Path, encoding: str, offset: int, error: UnicodeDecodeError, first_chunk: bool
) -> NoReturn:
    found = bytes(error.object[error.start : error.start + 1]).hex()
    if first_chunk and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        mend = "it begins as UTF-16 does: add --file-encoding utf-16"
    else:
        mend = "name the right encoding, as in --file-encoding cp1252, or convert the file"
    raise DataError(
        f"{path}: byte 0x{found} at offset {offset} is not {encoding} ({error.reason}); {mend}"
    ) from None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    opener: Callable[[Path], Any] = gzip.open if path.suffix.lower() == ".gz" else _open_plain
    try:
        with opener(path) as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")
