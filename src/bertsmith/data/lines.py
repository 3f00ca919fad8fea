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

# What else a file may be, whatever its name says: by its first bytes, and what to do about it.
OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive, as spreadsheets are: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an older spreadsheet or document: save the sheet as CSV",
    b"\x1f\x8b": "gzip: give it a name that ends in .gz",
    b"BZh91AY&SY": "bzip2: unpack it",
    b"\xfd7zXZ\x00": "xz: unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard: unpack it",
    b"PAR1\x15": "parquet: give it a name that ends in .parquet",
    b"SQLite format 3\x00": "a database: write the table as CSV in UTF-8",
    b"%PDF-": "PDF: take the text out of it",
}


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
            Or they are no text at all; it names what they are.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    before = 0  # bytes handed to the decoder and used up by it
    rest = ""
    with _opened(path) as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            if before == 0:
                _refuse_other_kinds(path, encoding, chunk)
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


def _refuse_other_kinds(path: Path, encoding: str, head: bytes) -> None:
    for first, kind in OTHER_KINDS.items():
        if head.startswith(first):
            raise DataError(f"{path}: is no text but {kind}")
    if encoding.startswith(("utf-16", "utf-32")):
        return
    for name, half in {"utf-16-le": head[1:200:2], "utf-16-be": head[:200:2]}.items():
        if 2 * half.count(0) > max(len(half), 2):
            raise DataError(
                f"{path}: every second byte is NUL, as in UTF-16 without a mark at its beginning; "
                f"add --file-encoding {name}"
            )


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
