"""Tells in which form a file of tagged words is; the forms are those of `tagged.py`."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.lines import known_encoding, text_lines
from bertsmith.data.tables import Row
from bertsmith.data.tagged import (
    INTENT_FILE,
    MARK,
    TAG_FILE,
    WORD_FILE,
    TaggedFile,
    cells_of,
    is_blank,
    stripped,
    suffix_of,
    table_of,
    words_of,
)
from bertsmith.errors import ConfigError, DataError, MissingInputError

WORD_KEYS = ("words", "tokens")
TAG_KEYS = ("tags", "ner_tags", "labels")
HEADERS = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos", "pos_tag")
SAMPLE_LINES = 2000  # read to recognise a form
LOOKS_LIKE_A_TAG = re.compile(r"O|[BIESMLU]-\S+")


def open_tagged(
    path: Path,
    config: ColumnsConfig,
    remembered: Mapping[str, Any] | None = None,
    *,
    labelled: bool,
) -> TaggedFile:
    """Returns the file with its form, which is told by its name and its first lines.

    Args:
        path: the file, or the folder of three.
        config: `text_column` and `label_column` name columns by number, or keys; by default the
            first and the last, or those of the usual names.
        remembered: `columns_of` the file read in training; taken where flags name nothing.
        labelled: whether tags are read.

    Raises:
        MissingInputError: it is not there, or a column is not.
        DataError: it is empty, or of none of the forms.
        ConfigError: a flag does not fit tagged words.
    """
    if config.pair_column is not None:
        raise ConfigError("pair_column is for texts; tagged words stand in one sentence")
    if config.delimiter not in (None, "tab"):
        raise ConfigError(
            f"delimiter is {config.delimiter}; tagged words are parted by tabs or white space"
        )
    encoding = known_encoding(config.file_encoding)
    if path.is_dir():
        return _open_folder(path, encoding, labelled)
    if not path.is_file():
        raise MissingInputError(f"{path}: there is no such file; expected tagged words")
    named = {"text": config.text_column, "label": config.label_column}
    known = {role: named[role] or (remembered or {}).get(role) for role in named}
    if suffix_of(path) in (".jsonl", ".ndjson", ".json", ".parquet"):
        return _open_json(path, encoding, known, config, labelled)
    if suffix_of(path) == ".csv":
        raise DataError(
            f"{path}: is a CSV by its name; expected a word and its tag a line with a tab or a "
            f"space between and a blank line after each sentence, or JSON lines with 'words' and "
            f"'tags': save it in one of these forms"
        )
    return _open_lines(path, encoding, known, config, labelled)


def columns_of(config: ColumnsConfig) -> dict[str, str | None]:
    """Returns the columns that flags name, for files that are read later."""
    return {"text": config.text_column, "label": config.label_column}


# ------------------------------------------------------------------------------------ forms


def _open_folder(path: Path, encoding: str, labelled: bool) -> TaggedFile:
    for name in (WORD_FILE, TAG_FILE) if labelled else (WORD_FILE,):
        if not (path / name).is_file():
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise MissingInputError(
                f"{path}: holds no {name}; found {found}: expected a folder with "
                f"{WORD_FILE}, {TAG_FILE} and, where there are intents, {INTENT_FILE}"
            )
    return TaggedFile(path, "folder", encoding, WORD_FILE, TAG_FILE if labelled else None)


def _open_json(
    path: Path,
    encoding: str,
    known: Mapping[str, str | None],
    config: ColumnsConfig,
    labelled: bool,
) -> TaggedFile:
    first = next(table_of(path, encoding).rows(), None)
    if first is None:
        raise DataError(f"{path}: is empty; expected an object a line")
    word = _key(first, known["text"], config.text_column, WORD_KEYS, "--text-column")
    tag = None
    if labelled:
        tag = _key(first, known["label"], config.label_column, TAG_KEYS, "--label-column")
    identity = config.id_column or ("id" if "id" in first.cells else None)
    return TaggedFile(path, "json", encoding, word, tag, id_column=identity)


def _key(row: Row, known: str | None, flagged: str | None, usual: Sequence[str], flag: str) -> str:
    wanted = [flagged] if flagged else [*([known] if known else ()), *usual]
    for name in wanted:
        if name in row.cells:
            return name
    raise MissingInputError(
        f"{row.where}: has none of {', '.join(map(repr, wanted))}; found "
        f"{', '.join(map(repr, row.cells))}: name the key with {flag}"
    )


def _open_lines(
    path: Path,
    encoding: str,
    known: Mapping[str, str | None],
    config: ColumnsConfig,
    labelled: bool,
) -> TaggedFile:
    """Tells apart a word a line, a tagged sentence a line, and plain text."""
    sample = list(map(stripped, itertools.islice(text_lines(path, encoding), SAMPLE_LINES)))
    rows = [line for line in sample if not is_blank(line) and not line.startswith(MARK)]
    if not rows:
        raise DataError(f"{path}: is empty; expected a word a line, or a sentence a line")
    if labelled:
        _refuse_header(path, rows[0])
    if known["text"] is None and _is_a_sentence_a_line(rows, labelled):
        return TaggedFile(path, "lines", encoding, "0", "1" if labelled else None)
    by_tabs = config.delimiter == "tab" or all("\t" in r or r.startswith("#") for r in rows)
    counts = Counter(len(cells_of(line, by_tabs)) for line in rows)
    if not labelled and known["text"] is None and _is_plain(sample, rows, by_tabs, counts):
        return TaggedFile(path, "text", encoding, "0", None)
    several = Counter({count: times for count, times in counts.items() if count > 1})
    num_columns = (several if labelled and several else counts).most_common(1)[0][0]
    word = _column(path, known["text"], "0", num_columns, "text_column")
    tag = str(num_columns - 1)
    if labelled:
        tag = _column(path, known["label"], tag, num_columns, "label_column")
    return TaggedFile(
        path, "columns", encoding, word, tag if labelled else None, num_columns, by_tabs
    )


def _refuse_header(path: Path, row: str) -> None:
    """Raises DataError where the first row names columns: its words would be learnt as tags."""
    last = row.split()[-1].casefold()
    if last in HEADERS:
        raise DataError(
            f"{path}:1: {row[:60]!r} looks like names of columns; expected the first word and its "
            f"tag: take that line out"
        )


def _column(path: Path, known: str | None, usual: str, num_columns: int, setting: str) -> str:
    found = known or usual
    if not re.fullmatch(r"-?[0-9]{1,4}", found) or not -num_columns <= int(found) < num_columns:
        raise MissingInputError(
            f"{path}: {setting} is {found!r}, which is not there; expected the number of one of "
            f"{num_columns} columns, counted from 0"
        )
    return str(int(found) % num_columns)


def _is_a_sentence_a_line(rows: Sequence[str], labelled: bool) -> bool:
    """Returns whether every line is words, a tab, and tags, several in some line."""
    parts = [line.split("\t") for line in rows]
    if not all(len(part) == 2 for part in parts):
        return False
    sizes = [(len(words_of(words)), len(words_of(tags))) for words, tags in parts]
    # Where tags are wanted, a line of too few is a fault to be named, and no other form.
    fits = labelled or all(words == tags for words, tags in sizes)
    return fits and any(tags > 1 for _, tags in sizes)


def _is_plain(
    sample: Sequence[str], rows: Sequence[str], by_tabs: bool, counts: Counter[int]
) -> bool:
    """Returns whether lines without wanted tags are text, and not a word a line."""
    if any(line.startswith(MARK) for line in sample):
        return False
    if len(counts) > 1:
        return True
    if 1 in counts:  # one column, or texts of one word: the words are the same
        return False
    last_cells = [cells_of(line, by_tabs)[-1] for line in rows]
    has_tags = all(LOOKS_LIKE_A_TAG.fullmatch(cell) for cell in last_cells)
    return not has_tags and not any(map(is_blank, sample))
