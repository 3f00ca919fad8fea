"""The files of a corpus: found by name, unpacked and decoded as they are read.

A source is a file, a folder, a glob or an fsspec URL. Whatever its size, a file passes through
memory in blocks of one megabyte. Lines end at `\\n` alone: U+2028, U+0085, form feeds and lone
carriage returns stay inside their line.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertsmith.errors import DataError, MissingInputError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BLOCK_BYTES = 1 << 20
PART_BYTES = 1 << 22  # of files that are worked on as one
LONGEST_LINE = 1 << 20  # characters; a longer line of plain text is read as several
LONGEST_ROW = 1 << 26  # characters; a longer row of a table is an error
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus; `name` is what messages call it."""

    name: str
    filesystem: AbstractFileSystem

    @property
    def extension(self) -> str:
        """Returns the lower-case extension beneath a compression's own: '.txt' of 'a.TXT.gz'."""
        name = self.name.rsplit("/", 1)[-1].lower()
        for compression in COMPRESSIONS:
            name = name.removesuffix(compression)
        return os.path.splitext(name)[1]

    def stamp(self) -> tuple[str, int | None, str]:
        """Returns the name, the size and the time of the last change, to know the file again."""
        try:
            info = self.filesystem.info(self.name)
        except OSError as error:
            raise MissingInputError(f"{self.name}: cannot be read ({_reason(error)})") from None
        changed = info.get("mtime") or info.get("LastModified") or info.get("ETag") or ""
        return self.name, info.get("size"), str(changed)

    def size(self) -> int:
        """Returns the file's bytes as it lies there, packed or not; 0 where they are not told."""
        return self.stamp()[1] or 0

    def open(self) -> Any:
        """Returns the file's bytes as a binary file object, still packed.

        Raises:
            MissingInputError: the file cannot be opened.
        """
        try:
            return self.filesystem.open(self.name, "rb")
        except OSError as error:
            raise MissingInputError(f"{self.name}: cannot be read ({_reason(error)})") from None

    def blocks(self) -> Iterator[bytes]:
        """Yields the file's bytes, unpacked, in blocks of at most a megabyte.

        Raises:
            DataError: a packed file is cut short or altered.
            MissingInputError: the file cannot be opened or read.
        """
        with self.open() as packed:
            try:
                yield from _unpacked_blocks(packed, self.name.lower())
            except (OSError, EOFError, zlib.error) as error:
                if self.name.lower().endswith(COMPRESSIONS):
                    raise DataError(
                        f"{self.name}: cannot be unpacked ({_reason(error)}); "
                        f"the file is cut short or altered: copy it again"
                    ) from None
                raise MissingInputError(f"{self.name}: cannot be read ({_reason(error)})") from None


def _unpacked_blocks(packed: Any, name: str) -> Iterator[bytes]:
    stream = packed
    if name.endswith(".gz"):
        stream = gzip.GzipFile(fileobj=packed)
    elif name.endswith(".zst"):
        import pyarrow  # its reader, unlike zstandard's, notices a file that is cut short

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd")
    while block := stream.read(BLOCK_BYTES):
        yield block


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def find_files(sources: Sequence[str]) -> list[SourceFile]:
    """Returns the files that `sources` name, in the order named; inside a folder or glob, sorted.

    Folders are walked to the bottom. What begins with a dot is passed over, unless named itself.

    Raises:
        MissingInputError: a source names nothing, or a folder that holds no file.
    """
    if not sources:
        raise MissingInputError("no corpus is given; expected files, folders, globs or URLs")
    found: list[SourceFile] = []
    for source in sources:
        files = _remote_files(source) if "://" in source else _local_files(source)
        if not files:
            raise MissingInputError(f"{source}: no such file or folder, or a folder without files")
        found.extend(files)
    return found


def in_parts(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Yields the files in order, each alone, or small ones together up to four megabytes."""
    part: list[SourceFile] = []
    size = 0
    for file in files:
        bytes_ = file.size()
        if part and size + bytes_ > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(file)
        size += bytes_
    if part:
        yield part


def _local_files(source: str) -> list[SourceFile]:
    from fsspec.implementations.local import LocalFileSystem

    names = [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True))
    paths: list[str] = []
    for name in names:
        if not os.path.isdir(name):
            paths.append(name)
            continue
        for folder, subfolders, files in os.walk(name):
            subfolders[:] = sorted(sub for sub in subfolders if not sub.startswith("."))
            paths.extend(
                os.path.join(folder, file) for file in sorted(files) if not file.startswith(".")
            )
    filesystem = LocalFileSystem()
    return [SourceFile(path, filesystem) for path in paths]


def _remote_files(source: str) -> list[SourceFile]:
    import fsspec

    protocol = source.split("://", 1)[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        if filesystem.isfile(path):
            return [SourceFile(filesystem.unstrip_protocol(path), filesystem)]
        names = filesystem.glob(path) if glob.has_magic(path) else [path]
        paths = sorted({file for name in names for file in filesystem.find(name)})
    except (ImportError, ValueError) as error:
        raise MissingInputError(f"{source}: {protocol}:// cannot be read ({error})") from None
    except OSError as error:
        raise MissingInputError(f"{source}: cannot be read ({_reason(error)})") from None
    root = path.split("*", 1)[0]
    return [
        SourceFile(filesystem.unstrip_protocol(path), filesystem)
        for path in paths
        if not any(part.startswith(".") for part in path.removeprefix(root).split("/"))
    ]


def read_text(file: SourceFile, encoding: str) -> Iterator[str]:
    """Yields the decoded text of `file`, without a byte order mark, about a megabyte at a time.

    Raises:
        DataError: bytes are not of that encoding, or are NUL; the message names file and offset.
    """
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder("utf-8" if utf8 else encoding)()
    bytes_are_characters = "\0".encode(encoding).lstrip(codecs.BOM_UTF8) == b"\0"
    offset = 0  # of the next block
    for block in file.blocks():
        if bytes_are_characters and (at := block.find(0)) >= 0:
            raise DataError(
                f"{file.name}: NUL byte at offset {offset + at}; "
                f"expected text: it is a binary file, or of another --encoding such as utf-16"
            )
        content = block
        if utf8 and offset == 0 and block.startswith(codecs.BOM_UTF8):
            content = block[len(codecs.BOM_UTF8) :]
        start = offset + len(block) - len(content) - len(decoder.getstate()[0])
        offset += len(block)
        yield _decoded(decoder, content, start, file.name, encoding)
    _decoded(decoder, b"", offset - len(decoder.getstate()[0]), file.name, encoding, final=True)


def _decoded(
    decoder: codecs.IncrementalDecoder,
    content: bytes,
    start: int,
    name: str,
    encoding: str,
    *,
    final: bool = False,
) -> str:
    try:
        return decoder.decode(content, final)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        looks = "utf-16" if start == 0 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else None
        raise DataError(
            f"{name}: byte 0x{byte:02x} at offset {start + error.start} is not {encoding} "
            f"({error.reason}); give the file's own --encoding, such as "
            f"{looks or 'latin-1, utf-16 or gb18030'}"
        ) from None


def read_lines(
    file: SourceFile, encoding: str, *, cut_long_lines: bool = False
) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and the text of each line, without its `\\n` or `\\r\\n`.

    With `cut_long_lines`, a line of over a million characters comes as several of the same number,
    cut at a space where it has one; without, one of over 64 million is an error.

    Raises:
        DataError: as `read_text`, and a line that is too long.
    """
    number, rest = 1, ""
    for text in read_text(file, encoding):
        lines = (rest + text).split("\n")
        rest = lines.pop()
        for line in lines:
            yield number, line[:-1] if line.endswith("\r") else line
            number += 1
        if cut_long_lines:
            while len(rest) > LONGEST_LINE:
                cut = rest.rfind(" ", 1, LONGEST_LINE)
                cut = cut if cut > 0 else LONGEST_LINE
                yield number, rest[:cut]
                rest = rest[cut:]
        elif len(rest) > LONGEST_ROW:
            raise DataError(
                f"{file.name}:{number}: the line is longer than {LONGEST_ROW:,} characters; "
                f"expected one row a line"
            )
    if rest:
        yield number, rest[:-1] if rest.endswith("\r") else rest
