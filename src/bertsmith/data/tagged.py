"""Reads sentences of tagged words, strictly, from the files that people have.

    columns   a word a line in columns, as CoNLL-2003 and BMES files: `Paris NNP B-LOC`
    lines     a sentence a line: its words, a tab, as many tags
    json      an object a line, or a parquet row: {"words": [...], "tags": [...]}
    folder    three parallel files, as ATIS and SNIPS: seq.in, seq.out, label
    text      plain text for predictions: a sentence a line, split on white space

White space that separates is the space and the tab alone: a no-break space or a zero-width
character may be a word, and a cell that is empty is an empty word. Lines end at a line feed.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bertsmith.data.lines import text_lines
from bertsmith.data.tables import Row, Table
from bertsmith.errors import DataError

Form = Literal["columns", "lines", "json", "folder", "text"]

MARK = "-DOCSTART-"  # stands where a document begins
INTENT_MARK = "# intent: "  # before the intent of the sentence below it
DOCUMENT_KEYS = ("document", "document_id", "doc_id")  # alike in the rows of one document
WORD_FILE, TAG_FILE, INTENT_FILE = "seq.in", "seq.out", "label"

CONTEXT_WORDS = 512  # of the same document, kept on each side of a sentence
SPACES = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """The words of one sentence and, where they were read, its tags and its intent."""

    path: str
    line: int  # on which it begins; in parquet the row; from 1
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None  # as the file spells them, one a word
    intent: str | None = None
    document: int | None = None  # None where the file does not tell; later documents have more
    id: str | None = None
    word_a_line: bool = False
    before: tuple[tuple[str, ...], ...] = ()  # sentences of the same document, in its order
    after: tuple[tuple[str, ...], ...] = ()

    @property
    def where(self) -> str:
        """Returns the place where the sentence begins, as `file:line`."""
        return f"{self.path}:{self.line}"

    def where_of(self, word: int) -> str:
        """Returns the place of one of its words, as `file:line`."""
        return f"{self.path}:{self.line + word}" if self.word_a_line else self.where


@dataclass(frozen=True)
class TaggedFile:
    """A file, or a folder, whose form is known; its sentences are read as they are asked for."""

    path: Path
    form: Form
    encoding: str
    word_column: str  # a number, counted from 0, or from -1 back; in JSON a key
    tag_column: str | None  # None where no tags are read
    num_columns: int = 0  # of a file in columns
    by_tabs: bool = False  # columns are parted by a tab each, not by any white space
    id_column: str | None = None

    def said(self) -> str:
        """Returns what is read as what, in words."""
        if self.form == "folder":
            return ", ".join(
                f"{what} from {name}"
                for what, name in zip(("words", "tags", "intents"), self.names(), strict=False)
            )
        if self.form == "text":
            return "words of plain text, a sentence a line"
        tags = "" if self.tag_column is None else f", tags from {self._named(self.tag_column)}"
        if self.form == "lines":
            return "words" + (" and, after a tab, tags" if tags else "") + ", a sentence a line"
        of = "" if self.form == "json" else f", of {self.num_columns} parted by "
        parted = "" if self.form == "json" else "tabs" if self.by_tabs else "white space"
        return f"words from {self._named(self.word_column)}{tags}{of}{parted}"

    def names(self) -> list[str]:
        """Returns the names of the parallel files that are read."""
        if self.tag_column is None:
            return [WORD_FILE]
        has_intents = (self.path / INTENT_FILE).is_file()
        return [WORD_FILE, TAG_FILE, *([INTENT_FILE] if has_intents else [])]

    def _named(self, column: str) -> str:
        return f"{'key' if self.form == 'json' else 'column'} {column!r}"

    def sentences(self) -> Iterator[TaggedSentence]:
        """Yields the sentences in file order, each with those around it in its document.

        Raises:
            DataError: a row is not as the form demands; the message names file and line.
        """
        readers = {
            "columns": _in_columns,
            "lines": _in_lines,
            "json": _in_json,
            "folder": _in_folder,
            "text": _in_text,
        }
        for _, document in itertools.groupby(
            readers[self.form](self), key=lambda sentence: sentence.document
        ):
            yield from _with_neighbours(document)


# ---------------------------------------------------------------------------------- readers


def _in_columns(file: TaggedFile) -> Iterator[TaggedSentence]:
    words: list[str] = []
    tags: list[str] = []
    start, document = 1, 0
    intent: str | None = None
    word_column = int(file.word_column)
    tag_column = None if file.tag_column is None else int(file.tag_column)

    def sentence() -> TaggedSentence:
        return TaggedSentence(
            str(file.path),
            start,
            tuple(words),
            None if tag_column is None else tuple(tags),
            intent,
            document,
            word_a_line=True,
        )

    for number, line in _numbered(file.path, file.encoding):
        is_mark = line.startswith(MARK)
        if is_blank(line) or is_mark:
            if words:
                yield sentence()
                words, tags, intent = [], [], None
            document += is_mark
            continue
        cells = cells_of(line, file.by_tabs)
        if len(cells) == file.num_columns + 1 and not cells[0]:
            del cells[0]  # a line that is indented
        if len(cells) != file.num_columns:
            if not words and line.startswith("#"):  # a remark above a sentence
                if tag_column is not None and line.startswith(INTENT_MARK):
                    intent = line.removeprefix(INTENT_MARK).strip(" \t")
                continue
            raise DataError(_misfit(file, number, cells))
        if not words:
            start = number
        words.append(cells[word_column])
        if tag_column is not None:
            tag = cells[tag_column].strip(" ")
            if not tag:
                raise DataError(f"{file.path}:{number}: {words[-1]!r} has an empty tag; expected O")
            tags.append(tag)
    if words:
        yield sentence()


def _misfit(file: TaggedFile, number: int, cells: Sequence[str]) -> str:
    where = f"{file.path}:{number}"
    if len(cells) == 1 and file.tag_column is not None:
        return (
            f"{where}: {cells[0][:40]!r} has no tag; "
            f"expected 'word ... tag', as in 'Paris NNP B-LOC'"
        )
    parted = "tab" if file.by_tabs else "white space"
    return (
        f"{where}: found {len(cells)} columns, expected {file.num_columns} parted by {parted} as "
        f"in most rows; mend the row, or end the sentence before it by a blank line"
    )


def _in_lines(file: TaggedFile) -> Iterator[TaggedSentence]:
    for number, line in _numbered(file.path, file.encoding):
        if is_blank(line):
            continue
        parts = line.split("\t")
        words = words_of(parts[0])
        tags = words_of(parts[1]) if len(parts) == 2 else []
        if file.tag_column is not None and len(words) != len(tags):
            raise DataError(
                f"{file.path}:{number}: {len(words)} words and {len(tags)} tags stand here; "
                f"expected words, a tab and as many tags"
            )
        yield TaggedSentence(
            str(file.path), number, words, None if file.tag_column is None else tuple(tags)
        )


def _in_text(file: TaggedFile) -> Iterator[TaggedSentence]:
    document = 0
    for number, line in _numbered(file.path, file.encoding):
        if words := words_of(line):
            yield TaggedSentence(str(file.path), number, words, document=document)
        else:
            document += 1


def _in_folder(file: TaggedFile) -> Iterator[TaggedSentence]:
    names = file.names()
    paths = [file.path / name for name in names]
    streams = [_until_last_text(path, file.encoding) for path in paths]
    for number, lines in enumerate(itertools.zip_longest(*streams), start=1):
        for path, line in zip(paths, lines, strict=True):
            if line is None or is_blank(line):
                found = "ends before this line" if line is None else "is blank here"
                raise DataError(
                    f"{path}:{number}: {found}; expected as many lines as in "
                    f"{' and '.join(name for name in names if name != path.name) or 'it'}"
                )
        words = words_of(lines[0])
        tags = words_of(lines[1]) if len(lines) > 1 else None
        if tags is not None and len(tags) != len(words):
            raise DataError(
                f"{paths[1]}:{number}: {len(tags)} tags stand here; expected {len(words)}, one "
                f"for each word of {WORD_FILE}:{number}"
            )
        intent = lines[2].strip(" \t") if len(lines) > 2 else None
        yield TaggedSentence(str(paths[0]), number, words, tags, intent)


def _in_json(file: TaggedFile) -> Iterator[TaggedSentence]:
    document, last = 0, None
    for row in table_of(file.path, file.encoding).rows():
        words = _texts(row, file.word_column, numbers=False)
        tags = None if file.tag_column is None else _texts(row, file.tag_column, numbers=True)
        if not words:
            raise DataError(f"{row.where}: {file.word_column!r} holds no words; expected some")
        if tags is not None and len(tags) != len(words):
            raise DataError(
                f"{row.where}: {file.tag_column!r} holds {len(tags)} tags; expected "
                f"{len(words)}, one for each of {file.word_column!r}"
            )
        intent = row.value("intent") if tags is not None and "intent" in row.cells else None
        name = row.value(file.id_column) if file.id_column else None
        found = next((row.cells[key] for key in DOCUMENT_KEYS if key in row.cells), None)
        document, last = document + (found != last), found
        of = None if found is None else document
        yield TaggedSentence(str(file.path), row.number, words, tags, intent, of, name)


def _texts(row: Row, column: str, *, numbers: bool) -> tuple[str, ...]:
    cell = row.cells.get(column)
    if not isinstance(cell, list):
        raise DataError(
            f"{row.where}: {column!r} holds {type(cell).__name__} {str(cell)[:40]!r}; "
            f"expected a list of texts"
        )
    whole = [Row(row.path, row.number, {column: part}) for part in cell]
    return tuple(part.value(column) if numbers else part.text(column) for part in whole)


def suffix_of(path: Path) -> str:
    """Returns the extension of a file, lower-case, beneath that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def table_of(path: Path, encoding: str) -> Table:
    """Returns the JSON or parquet file whose rows are sentences."""
    form: Literal["parquet", "jsonl"] = "parquet" if suffix_of(path) == ".parquet" else "jsonl"
    return Table(path, form, (), False, encoding)


# ------------------------------------------------------------------------------------ lines


def _numbered(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(path, encoding), start=1):
        if "\0" in line:
            raise DataError(
                f"{path}:{number}: holds a NUL character; expected text: remove it, or name the "
                f"encoding with --file-encoding if it is UTF-16"
            )
        yield number, stripped(line)


def _until_last_text(path: Path, encoding: str) -> Iterator[str]:
    """Yields the lines of a file without the blank ones at its end."""
    blanks: list[str] = []
    for _, line in _numbered(path, encoding):
        if is_blank(line):
            blanks.append(line)
            continue
        yield from blanks
        blanks.clear()
        yield line


def stripped(line: str) -> str:
    """Returns a line without its line feed."""
    return line.removesuffix("\n").removesuffix("\r")


def is_blank(line: str) -> bool:
    """Returns whether a line holds nothing but white space."""
    return not line.strip(" \t")


def words_of(line: str) -> tuple[str, ...]:
    """Returns what white space parts in a line."""
    stripped = line.strip(" \t")
    return tuple(SPACES.split(stripped)) if stripped else ()


def cells_of(line: str, by_tabs: bool) -> list[str]:
    """Returns the cells of a row; one that begins with white space has an empty first cell."""
    return line.split("\t") if by_tabs else SPACES.split(line.rstrip(" \t"))


# -------------------------------------------------------------------------------- documents


def _with_neighbours(sentences: Iterator[TaggedSentence]) -> Iterator[TaggedSentence]:
    """Yields the sentences of one document, each with about CONTEXT_WORDS words on each side."""
    before: deque[tuple[str, ...]] = deque()
    waiting: deque[TaggedSentence] = deque()  # for those after them
    num_before = num_waiting = 0
    for sentence in itertools.chain(sentences, [None]):
        if sentence is not None:
            if sentence.document is None:
                yield sentence
                continue
            waiting.append(sentence)
            num_waiting += len(sentence.words)
        while waiting and (
            sentence is None or num_waiting - len(waiting[0].words) >= CONTEXT_WORDS
        ):
            first = waiting.popleft()
            num_waiting -= len(first.words)
            yield replace(
                first, before=tuple(before), after=tuple(later.words for later in waiting)
            )
            before.append(first.words)
            num_before += len(first.words)
            while num_before - len(before[0]) >= CONTEXT_WORDS:
                num_before -= len(before.popleft())
