"""Documents from raw text: plain text, WikiExtractor's output, JSONL, CSV, TSV and parquet.

The kind of a file is told by its extension (beneath `.gz` or `.zst`); WikiExtractor's by its first
bytes, `<doc `, whatever it is called. Everything streams: memory does not grow with a file's size.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

from bertsmith.config import CorpusConfig
from bertsmith.data.files import (
    COMPRESSIONS,
    LONGEST_ROW,
    SourceFile,
    find_files,
    read_lines,
)
from bertsmith.data.layout import (
    LONGEST_DOCUMENT,
    SAMPLE_CHARACTERS,
    group_lines,
    profile_lines,
)
from bertsmith.data.lines import known_encoding
from bertsmith.errors import DataError, MissingInputError, nearest
from bertsmith.storage import strict_json

TEXT_EXTENSIONS = (".txt", ".text", ".tokens")
JSON_EXTENSIONS = (".jsonl", ".ndjson", ".json")
TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Document:
    """Paragraphs that stand together, in order; `origin` is 'file:line', for messages."""

    paragraphs: list[str]
    origin: str


def read_documents(sources: Sequence[str], config: CorpusConfig) -> Iterator[Document]:
    """Returns an iterator over the documents of files, folders, globs and URLs, in a fixed order.

    Plain text has one paragraph or sentence a line and a blank line between documents; other
    layouts of books are recognised as `layout.py` tells. A row of a table is a document, its lines
    paragraphs. In WikiExtractor's text the first line, which repeats the title, is left out, and so
    are articles that hold nothing else. A document of over 100,000 characters comes as several.

    Raises:
        ConfigError: the encoding is unknown.
        MissingInputError: a source or the text column is not there; raised for sources at once.
        DataError: a file is not what its name says, or no file holds any text.
    """
    known_encoding(config.encoding, "encoding")
    return _documents(find_files(sources), config)


def read_files(files: Sequence[SourceFile], config: CorpusConfig) -> Iterator[Document]:
    """Yields the documents of some of a corpus's files, as `read_documents`; there may be none."""
    for file in files:
        yield from _read_file(file, config)


def refuse_no_text(files: Sequence[SourceFile]) -> NoReturn:
    """Raises DataError: none of the files that were read holds a document."""
    names = ", ".join(file.name for file in files[:3]) + (", .." if len(files) > 3 else "")
    raise DataError(f"{names}: the corpus holds no text; expected at least one document")


def _documents(files: list[SourceFile], config: CorpusConfig) -> Iterator[Document]:
    empty = True
    for document in read_files(files, config):
        empty = False
        yield document
    if empty:
        refuse_no_text(files)


def _read_file(file: SourceFile, config: CorpusConfig) -> Iterator[Document]:
    extension = file.extension
    if extension in JSON_EXTENSIONS:
        rows: Iterable[tuple[int, str]] = _json_rows(file, config)
    elif extension == ".parquet":
        rows = _parquet_rows(file, config)
    elif extension in TABLE_EXTENSIONS:
        rows = _csv_rows(file, config, tabs=extension == ".tsv")
    else:
        wiki = (
            next(file.blocks(), b"")[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()[:5] == b"<doc "
        )
        if not wiki and extension not in TEXT_EXTENSIONS:
            known = (*TEXT_EXTENSIONS, *JSON_EXTENSIONS, *TABLE_EXTENSIONS)
            raise DataError(
                f"{file.name}: the extension {extension!r} tells no kind of text; expected one of "
                f"{' '.join(known)}, alone or with {' or '.join(COMPRESSIONS)}"
            )
        lines = read_lines(file, config.encoding, cut_long_lines=True)
        yield from _wiki_documents(lines, file) if wiki else _plain_documents(lines, file, config)
        return
    for number, text in rows:
        yield from _bounded(text.split("\n"), f"{file.name}:{number}")


def _bounded(lines: Iterable[str], origin: str) -> Iterator[Document]:
    """Yields one document of the lines that hold text, or several where it would be too long."""
    paragraphs: list[str] = []
    size = 0
    for line in lines:
        paragraph = line.strip()
        if not paragraph:
            continue
        if paragraphs and size + len(paragraph) > LONGEST_DOCUMENT:
            yield Document(paragraphs, origin)
            paragraphs, size = [], 0
        paragraphs.append(paragraph)
        size += len(paragraph)
    if paragraphs:
        yield Document(paragraphs, origin)


# ---------------------------------------------------------------------------------- text


def _plain_documents(
    lines: Iterator[tuple[int, str]], file: SourceFile, config: CorpusConfig
) -> Iterator[Document]:
    sample: list[tuple[int, str]] = []
    size = 0
    for number, line in lines:
        sample.append((number, line))
        size += len(line) + 1
        if size > SAMPLE_CHARACTERS:
            break
    profile = profile_lines([line for _, line in sample], config.text_layout)
    for number, paragraphs in group_lines(chain(sample, lines), profile):
        yield Document(paragraphs, f"{file.name}:{number}")


# What WikiExtractor lets through. Others in angle brackets (`<M>`) are left: they may be text.
_TAG = re.compile(
    r"</?(?:br|ref|references|dl|dt|dd|dfn|div|span|poem|score|math|onlyinclude|noinclude"
    r"|includeonly|nowiki|gallery|table|tr|td|th|ul|ol|li|p|b|i|u|s|sub|sup|small|big|center|font"
    r"|code|pre|blockquote|abbr|hr|tt|templatestyles)(?:[\s/][^<>]{0,500})?>",
    re.IGNORECASE,
)


def _wiki_documents(lines: Iterator[tuple[int, str]], file: SourceFile) -> Iterator[Document]:
    """Yields the articles between `<doc ..>` and `</doc>`, without title, tags and entities."""
    paragraphs: list[str] = []
    opened: int | None = None
    title_expected = False
    size = 0
    for number, line in lines:
        text = line.strip()
        if text.startswith("<doc "):
            if opened is not None:
                raise DataError(
                    f"{file.name}:{number}: a <doc ..> opens inside the one of line {opened}; "
                    f"expected </doc> before it"
                )
            paragraphs, size, opened, title_expected = [], 0, number, True
        elif opened is None:
            if text:
                raise DataError(
                    f"{file.name}:{number}: {text[:40]!r} stands between articles; "
                    f"expected <doc ..> or a blank line"
                )
        elif text == "</doc>":
            if paragraphs:
                yield Document(paragraphs, f"{file.name}:{opened}")
            paragraphs, opened = [], None
        elif text and title_expected:
            title_expected = False
        elif text:
            text = _without_markup(text)
            if paragraphs and size + len(text) > LONGEST_DOCUMENT:
                yield Document(paragraphs, f"{file.name}:{opened}")
                paragraphs, size = [], 0
            if text:
                paragraphs.append(text)
                size += len(text)
    if opened is not None:
        raise DataError(
            f"{file.name}:{opened}: the article that opens here has no </doc>; "
            f"the file is cut short"
        )


def _without_markup(text: str) -> str:
    if "<" in text:
        text = _TAG.sub(" ", text).strip()
    return html.unescape(text) if "&" in text else text


# ---------------------------------------------------------------------------------- tables


def _json_rows(file: SourceFile, config: CorpusConfig) -> Iterator[tuple[int, str]]:
    blank: int | None = None
    for number, line in read_lines(file, config.encoding):
        if not line.strip():
            blank = blank or number
            continue
        if blank is not None:  # blank lines at the end of the file are let pass
            raise DataError(f"{file.name}:{blank}: blank line; expected one JSON object a line")
        yield number, _json_text(line, f"{file.name}:{number}", config.text_field)


def _json_text(line: str, where: str, field: str) -> str:
    try:
        row = strict_json(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: holds a {type(row).__name__}; expected a JSON object")
    if field not in row:
        raise _missing_field(where, field, row)
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: {field!r} is {type(text).__name__}; expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise DataError(
            f"{where}: {field!r} holds the lone surrogate \\u{code:04x} at character "
            f"{error.start}; expected Unicode text"
        ) from None
    if "\0" in text:
        raise DataError(f"{where}: {field!r} holds a NUL at character {text.index(chr(0))}")
    return text


def _missing_field(where: str, field: str, known: Iterable[str]) -> MissingInputError:
    return MissingInputError(
        f"{where}: there is no {field!r}{nearest(field, known)}; name the text's column "
        f"with --text-field"
    )


def _csv_rows(file: SourceFile, config: CorpusConfig, *, tabs: bool) -> Iterator[tuple[int, str]]:
    """Yields the line on which a row ends, and its text; quotes mean nothing between tabs."""
    lines = (line + "\n" for _, line in read_lines(file, config.encoding))
    limit = csv.field_size_limit(LONGEST_ROW)
    try:
        if tabs:
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            rows = csv.reader(lines, strict=True)
        header = next(rows, None)
        if header is None:
            return
        if config.text_field not in header:
            raise _missing_field(f"{file.name}:1", config.text_field, header)
        column = header.index(config.text_field)
        for row in rows:
            if row and len(row) != len(header):
                raise DataError(
                    f"{file.name}:{rows.line_num}: the row has {len(row)} columns; "
                    f"expected {len(header)}, as in the header"
                )
            if row:
                yield rows.line_num, row[column]
    except csv.Error as error:
        raise DataError(
            f"{file.name}:{rows.line_num}: {error}; expected a quote inside a quoted field "
            f"to be doubled and the field to be closed"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(file: SourceFile, config: CorpusConfig) -> Iterator[tuple[int, str]]:
    """Yields the row's number, from 1, and its text."""
    import pyarrow
    from pyarrow import parquet

    with file.open() as opened:
        try:
            table = parquet.ParquetFile(opened, pre_buffer=False)
            names = table.schema_arrow.names
            if config.text_field not in names:
                raise _missing_field(file.name, config.text_field, names)
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[config.text_field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(text, str):
                        raise DataError(
                            f"{file.name}: row {number} of {config.text_field!r} is "
                            f"{type(text).__name__}; expected a string"
                        )
                    yield number, text
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file.name}: not a whole parquet file ({error})") from None
