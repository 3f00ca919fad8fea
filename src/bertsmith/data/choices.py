"""Rows of a stem and several endings, one of them the right one, in the forms that tables have.

Endings stand in a column each, as in SWAG's CSV; or all in one column, as a list of texts, a list
of `{"text", "label"}`, a table of two such lists, or a text of the form `(A) one (B) two`. A label
is a number from 0, a letter, the right ending's own text, or the key that the endings carry.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bertsmith.data.tables import Row, Table
from bertsmith.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAMPLE_ROWS = 1000  # read to tell what the labels are

# How a label names an ending, in the order in which that is tried.
SPELLINGS = {
    "key": "the key of an ending",
    "number": "a number from 0",
    "letter": "a letter from A",
    "text": "the text of an ending",
}


@dataclass(frozen=True)
class ChoiceColumns:
    """The columns of a file of choices by what they hold, and how its labels name an ending.

    The name `question.stem` is that of the key `stem` in the tables of the column `question`.
    """

    stem: str
    second: str | None
    endings: tuple[str, ...]  # one for each, or a single one that holds them all
    label: str | None = None
    id: str | None = None
    spelling: str = "number"  # a key of SPELLINGS
    guessed: tuple[str, ...] = ()  # which of the columns above no flag names

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Returns the columns that are there by what they hold."""
        found = {
            "stem": (self.stem,),
            "second": (self.second,),
            "endings": self.endings,
            "label": (self.label,),
            "id": (self.id,),
        }
        return {
            role: tuple(name for name in names if name is not None)
            for role, names in found.items()
            if names != (None,)
        }

    def said(self) -> str:
        """Returns the choice in words, as "stem from 'sent1' (guessed), .."."""
        parts = []
        for role, names in self.roles().items():
            how = " (guessed)" if role in self.guessed else ""
            what = f" as {SPELLINGS[self.spelling]}" if role == "label" else ""
            parts.append(f"{role}{what} from {', '.join(map(repr, names))}{how}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Choice:
    """One row: a stem, its endings, what labels call each of them, and the right one."""

    where: str  # file:line, for messages
    stem: str
    second: str  # words that stand before each ending; often none
    endings: tuple[str, ...]
    names: tuple[str, ...]  # of the endings, as labels spell them
    label: int | None = None  # number of the right ending, from 0
    id: str | None = None


def read_choices(
    table: Table, columns: ChoiceColumns, num_endings: int | None = None
) -> Iterator[Choice]:
    """Yields the rows of a table in file order; all have as many endings as the first.

    Args:
        table: the opened file.
        columns: what is read; labels are, where `label` is there.
        num_endings: of each row, where that is known.

    Raises:
        DataError: a row has another number of endings, or a label that names none of them, or it
            has a label and lacks a text.
    """
    for row in table.rows(_top_names(table, columns)):
        endings, keys = endings_of(row, columns.endings)
        num_endings = num_endings or len(endings)
        if len(endings) != num_endings:
            raise DataError(
                f"{row.where}: has {len(endings)} endings; "
                f"expected {num_endings}, as the other rows have"
            )
        stem = _row_of(row, columns.stem).text(columns.stem)
        label = None
        if columns.label:
            _refuse_empty(row, columns, (stem, *endings))
            spelt = _row_of(row, columns.label).value(columns.label).strip()
            label = _number_of(row, spelt, columns.spelling, endings, keys)
        yield Choice(
            row.where,
            stem,
            _row_of(row, columns.second).text(columns.second).strip() if columns.second else "",
            endings,
            _names_of(columns.spelling, endings, keys),
            label,
            _row_of(row, columns.id).value(columns.id) if columns.id else None,
        )


def choice_of(stem: str, endings: Sequence[str], spelling: str, where: str) -> Choice:
    """Returns a row that no file holds.

    Raises:
        DataError: there are fewer than two endings.
    """
    if isinstance(endings, str) or len(endings) < 2:
        raise DataError(f"{where}: has {endings!r}; expected two endings or more in a list")
    return Choice(where, stem, "", tuple(endings), _names_of(spelling, endings, None))


def find_spelling(table: Table, columns: ChoiceColumns) -> str:
    """Returns how the labels of a file name an ending, which its first rows tell: of SPELLINGS.

    Raises:
        DataError: a label names no ending in any way, or not in the way of the rows before it.
    """
    assert columns.label, "only files with labels are asked"
    left = list(SPELLINGS)
    for row in itertools.islice(table.rows(_top_names(table, columns)), SAMPLE_ROWS):
        endings, keys = endings_of(row, columns.endings)
        spelt = _row_of(row, columns.label).value(columns.label).strip()
        fitting = [name for name in left if _place(spelt, name, endings, keys) is not None]
        if not fitting:
            _refuse_label(row, spelt, left, endings)
        left = fitting
    return left[0]


def endings_of(row: Row, columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Returns the endings of a row, and their keys where they carry some, such as A and B.

    Raises:
        DataError: there are fewer than two, or they are in no known form.
    """
    texts: Any
    keys: Any = None
    if len(columns) > 1:
        texts = [_row_of(row, name).text(name) for name in columns]
    else:
        cell = _row_of(row, columns[0]).cells.get(columns[0])
        if isinstance(cell, str):
            texts, keys = _lettered(cell)
        elif isinstance(cell, Mapping):
            texts, keys = cell.get("text"), cell.get("label")
        elif isinstance(cell, list) and all(isinstance(one, Mapping) for one in cell):
            texts = [one.get("text") for one in cell]
            keys = [one.get("label") for one in cell]
        else:
            texts = cell
    if not _are_texts(texts) or len(texts) < 2:
        raise DataError(
            f"{row.where}: {', '.join(map(repr, columns))} holds no endings; expected two or more: "
            f"a list of texts or of {{text, label}}, or a text such as '(A) one (B) two'"
        )
    if not _are_texts(keys) or len(keys) != len(texts):
        keys = None
    checked = (Row(row.path, row.number, {columns[0]: text}).text(columns[0]) for text in texts)
    return tuple(text.strip() for text in checked), tuple(keys) if keys else None


def _are_texts(cell: object) -> bool:
    return isinstance(cell, list) and all(isinstance(one, str) for one in cell)


def _lettered(text: str) -> tuple[list[str], list[str]]:
    """Returns the endings, and the letters before them, of '(A) one (B) two'."""
    starts: list[int] = []
    for letter in LETTERS:
        begin = text.find(f"({letter})", starts[-1] if starts else 0)
        if begin < 0 or (not starts and text[:begin].strip()):
            break
        starts.append(begin)
    texts = [text[start + 3 : end] for start, end in itertools.pairwise([*starts, len(text)])]
    return texts, list(LETTERS[: len(starts)])


def _place(
    label: str, spelling: str, endings: Sequence[str], keys: Sequence[str] | None
) -> int | None:
    """Returns the number of the ending that a label names, or None if it names none, or two."""
    if spelling == "number":
        known = re.fullmatch(r"[0-9]{1,3}", label) and int(label) < len(endings)
        return int(label) if known else None
    if spelling == "letter":
        label = label.upper()
    names = _names_of(spelling, endings, keys) if keys or spelling != "key" else ()
    return names.index(label) if names.count(label) == 1 else None


def _names_of(spelling: str, endings: Sequence[str], keys: Sequence[str] | None) -> tuple[str, ...]:
    if spelling == "text":
        return tuple(endings)
    if spelling == "key" and keys:
        return tuple(keys)
    numbers = range(len(endings))
    return tuple(map(str, numbers)) if spelling == "number" else tuple(LETTERS[n] for n in numbers)


def _number_of(
    row: Row, label: str, spelling: str, endings: Sequence[str], keys: Sequence[str] | None
) -> int:
    found = _place(label, spelling, endings, keys)
    if found is None:
        _refuse_label(row, label, [spelling], endings)
    return found


def _refuse_label(
    row: Row, label: str, spellings: Sequence[str], endings: Sequence[str]
) -> NoReturn:
    wanted = " or ".join(SPELLINGS[name] for name in spellings)
    mend = ""
    if label == str(len(endings)):
        mend = ": where labels count from 1, make them count from 0"
    elif endings.count(label) > 1:
        mend = ": this text stands twice among them"
    raise DataError(
        f"{row.where}: the label {label[:40]!r} names none of the {len(endings)} endings; "
        f"expected {wanted}{mend}"
    )


def _refuse_empty(row: Row, columns: ChoiceColumns, texts: Sequence[str]) -> None:
    names = (columns.stem, *columns.endings)
    for place, text in enumerate(texts):
        if not text.strip():
            raise DataError(
                f"{row.where}: {names[min(place, len(names) - 1)]!r} is empty; expected a text: "
                f"fill it or drop the row"
            )


def _row_of(row: Row, name: str) -> Row:
    """Returns a row that has the cell `name`, be it in a table that another cell holds."""
    outer, _, inner = name.partition(".")
    table = row.cells.get(outer)
    if name in row.cells or not isinstance(table, Mapping) or inner not in table:
        return row
    return Row(row.path, row.number, {name: table[inner]})


def _top_names(table: Table, columns: ChoiceColumns) -> list[str]:
    """Returns the table's own columns that are read."""
    names = itertools.chain.from_iterable(columns.roles().values())
    tops = (name if name in table.columns else name.partition(".")[0] for name in names)
    return list(dict.fromkeys(tops))
