"""Decides which columns of a table hold the text, the second text, the label and the id.

What a flag names is taken; the rest is guessed from the column's names, or in a file without a
header from its first rows. Every guess is kept, so that it can be said aloud.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bertsmith.config import ColumnsConfig
from bertsmith.data.tables import Table
from bertsmith.errors import DataError, MissingInputError, nearest

# Names in order of preference, as the well-known sets have them; compared without case,
# with spaces and dashes as underscores.
TEXT_NAMES = (
    "text",
    "sentence",
    "text_a",
    "sentence1",
    "review",
    "tweet",
    "comment",
    "content",
    "body",
    "message",
    "document",
    "utterance",
    "question",
    "query",
    "premise",
    "title",
    "headline",
    "description",
    "article",
    "post",
    "phrase",
    "abstract",
    "summary",
)
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("#1_string", "#2_string"),
)
CLASS_NAMES = (
    "label",
    "labels",
    "target",
    "class",
    "category",
    "gold_label",
    "label_text",
    "sentiment",
    "intent",
    "topic",
    "quality",
    "is_duplicate",
    "score",
    "rating",
    "stars",
)
NUMBER_NAMES = (
    "score",
    "similarity",
    "rating",
    "stars",
    "target",
    "value",
    "label",
    "labels",
    "y",
    "grade",
)
ID_NAMES = (
    "id",
    "index",
    "idx",
    "guid",
    "uid",
    "row_id",
    "pair_id",
    "pairid",
    "question_id",
    "tweet_id",
    "textid",
)

SAMPLE_ROWS = 1000  # read to guess the columns of a file without a header


@dataclass(frozen=True)
class Columns:
    """The columns of a labelled file by what they hold; None is a column that is not there."""

    text: str
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    guessed: tuple[str, ...] = ()  # of text, pair, label and id those known by their names alone
    labels: tuple[str, ...] = ()  # of each label its own column of 0 and 1, in place of `label`

    def roles(self) -> dict[str, str]:
        """Returns the columns that are there by what they hold: text, pair, label, id."""
        found = {"text": self.text, "pair": self.pair, "label": self.label, "id": self.id}
        return {role: name for role, name in found.items() if name is not None}

    def names(self) -> list[str]:
        """Returns the columns that are read, each once: text, pair, label, id, the labels."""
        return list(dict.fromkeys([*self.roles().values(), *self.labels]))

    def said(self) -> str:
        """Returns the choice in words, as 'text from 'tweet' (guessed), label from 'target''."""
        parts = []
        for role, name in self.roles().items():
            how = " (guessed)" if role in self.guessed else ""
            parts.append(f"{role} from column {name!r}{how}")
        if self.labels:
            parts.append(f"labels from columns {_listed(self.labels)}")
        return ", ".join(parts)


def choose_columns(
    table: Table,
    config: ColumnsConfig,
    *,
    label_names: Sequence[str] | None,
    known: Columns | None = None,
    may_have_several: bool = False,
) -> Columns:
    """Returns the columns that flags name, else that `known` had, else that their names tell.

    Args:
        table: the opened file.
        config: what flags name.
        label_names: likely names of the label, the likeliest first; None where no label is read.
        known: what was read in training, taken where this file has columns of those names.
        may_have_several: whether `label_column` may name a column for each label, as in a,b,c.

    Raises:
        MissingInputError: a column that a flag names is not there; the nearest one is named.
        DataError: the text or the label cannot be guessed.
    """
    for flag in ("text_column", "pair_column", "id_column"):
        _require(table, getattr(config, flag), flag)
    named = _named_labels(table, config.label_column) if may_have_several else ()
    labels: tuple[str, ...] = ()
    if label_names is not None:
        labels = named or (known.labels if known and not config.label_column else ())
        for name in labels or (config.label_column,):
            _require(table, name, "label_column")
    if config.text_column:
        text, pair = config.text_column, config.pair_column
    elif known and known.text in table.columns and (known.pair or known.text) in table.columns:
        text, pair = known.text, config.pair_column or known.pair
    else:
        text, pair = _guess_texts(table, config, known, named)
    label = config.label_column if label_names is not None and not labels else None
    if label_names is not None and label is None and not labels:
        label = known.label if known and known.label in table.columns else None
        label = label or _guess_label(table, label_names, [text, pair, config.id_column])
    taken = (text, pair, label, *labels)
    identity = config.id_column or _first_named(
        ID_NAMES, (name for name in table.columns if name not in taken)
    )
    found = Columns(text, pair, label, identity, labels=labels)
    flags = (config.text_column, config.pair_column, config.label_column, config.id_column)
    told = {*flags, *(known.names() if known else ())}
    guessed = tuple(role for role, name in found.roles().items() if name not in told)
    return replace(found, guessed=guessed)


def _named_labels(table: Table, name: str | None) -> tuple[str, ...]:
    """Returns the columns of a list with commas, unless that is the name of a single one."""
    if name is None or name in table.columns or "," not in name:
        return ()
    return tuple(dict.fromkeys(part.strip() for part in name.split(",")))


def _require(table: Table, name: str | None, flag: str) -> None:
    if name is not None and name not in table.columns:
        headless = "" if table.has_header else " (columns of a file without a header are numbers)"
        raise MissingInputError(
            f"{table.path}: {flag} is {name!r}, which is not there{headless}"
            f"{nearest(name, table.columns)}"
        )


def _guess_texts(
    table: Table, config: ColumnsConfig, known: Columns | None, labels: Sequence[str]
) -> tuple[str, str | None]:
    taken = (config.label_column, config.id_column, *labels)
    free = [name for name in table.columns if name not in taken]
    plain = {_plain(name): name for name in free}
    wants_one = known is not None and known.pair is None
    if not wants_one:
        for first, second in PAIR_NAMES:
            if first in plain and second in plain:
                pair = config.pair_column or plain[second]
                return plain[first], pair
    free = [name for name in free if name != config.pair_column]
    text = _first_named(TEXT_NAMES, free)
    if text is None and not table.has_header and table.format in ("csv", "tsv"):
        return _guess_texts_by_content(table, free, config.pair_column)
    if text is None:  # what is left when the id and the label are put aside
        rest = [
            name for name in free if _plain(name) not in {*ID_NAMES, *CLASS_NAMES, *NUMBER_NAMES}
        ]
        text = rest[0] if len(rest) == 1 else None
    if text is None:
        raise DataError(
            f"{table.path}: no column is known to hold the text; found {_listed(table.columns)}: "
            f"name it with --text-column{_headless_hint(table)}"
        )
    return text, config.pair_column


def _guess_label(table: Table, label_names: Sequence[str], taken: Sequence[str | None]) -> str:
    free = [name for name in table.columns if name not in taken]
    label = _first_named(label_names, free)
    if label is None:
        rest = [name for name in free if _plain(name) not in ID_NAMES]
        label = rest[0] if len(rest) == 1 else None
    if label is None:
        raise DataError(
            f"{table.path}: no column is known to hold the label; found {_listed(table.columns)}: "
            f"name it with --label-column{_headless_hint(table)}"
        )
    return label


def _guess_texts_by_content(
    table: Table, free: Sequence[str], pair: str | None
) -> tuple[str, str | None]:
    """Takes the columns of which most values are long and none repeats often to be texts."""
    rows = [row.cells for row in itertools.islice(table.rows(), SAMPLE_ROWS)]
    texts = []
    for name in free:
        values = [cells[name] for cells in rows]
        mean_bytes = sum(len(value.encode()) for value in values) / max(1, len(values))
        if mean_bytes >= 12 and len(set(values)) > len(values) / 2:
            texts.append(name)
    if len(texts) == 1:
        return texts[0], pair
    if len(texts) == 2 and pair is None:
        return texts[0], texts[1]
    raise DataError(
        f"{table.path}: has no header, and {len(texts)} columns look like texts; found "
        f"{_listed(table.columns)}: name them with --text-column and --pair-column"
    )


def _first_named(names: Iterable[str], columns: Iterable[str]) -> str | None:
    plain = {_plain(column): column for column in columns}
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _listed(columns: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= 30 else name[:27] + "...") for name in columns[:12]]
    return ", ".join(shown) + (", ..." if len(columns) > 12 else "")


def _headless_hint(table: Table) -> str:
    return ", or add --no-header if the first row is data" if table.has_header else ""
