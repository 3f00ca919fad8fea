"""Labelled rows, read from tables, and what every task on texts or pairs does with them first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.tables import Row, Table, open_table
from bertsmith.errors import ConfigError, DataError
from bertsmith.tasks.forms import Source

AnyRow = TypeVar("AnyRow")

# What a column of one label may hold, and whether the row then has it.
IS_MARKED = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a text, or two, and what is to be predicted of it."""

    where: str  # file:line, for messages
    text: str
    pair: str | None = None
    label: str | None = None  # as the file spells it, without white space around it
    id: str | None = None
    # Where each label has a column of its own: those columns, and the labels that the row has.
    label_columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def read_texts(
    path: Path,
    config: ColumnsConfig,
    remembered: Mapping[str, Any] | None,
    label_names: Sequence[str] | None,
    *,
    may_have_several: bool = False,
) -> Source:
    """Opens a table of texts or pairs; its columns are named by flags, remembered or guessed.

    Args:
        path: the table.
        config: what flags name.
        remembered: `facts` of the source that was read in training.
        label_names: likely names of the label's column; None where no label is read.
        may_have_several: whether each label may have a column of its own.

    Raises:
        ConfigError: a flag is given that is for choices.
        MissingInputError: the file, or a column that a flag names, is not there.
        DataError: the columns cannot be guessed, or hold pairs where training had single texts.
    """
    for flag in ("stem_column", "second_column", "ending_columns"):
        if getattr(config, flag):
            raise ConfigError(f"{flag} is for the task choose; texts have --text-column")
    found = (remembered or {}).get("columns")
    known = Columns(**found | {"labels": tuple(found.get("labels", ()))}) if found else None
    table = open_table(path, config)
    columns = choose_columns(
        table, config, label_names=label_names, known=known, may_have_several=may_have_several
    )
    if known and (known.pair is None) != (columns.pair is None):
        raise DataError(
            f"{path}: {columns.said()}; expected as in training, {known.said()}: "
            f"name the columns by flags"
        )
    facts: dict[str, Any] = {
        "columns": {"text": columns.text, "pair": columns.pair, "label": columns.label}
    }
    if columns.labels:
        facts["columns"]["labels"] = list(columns.labels)
    with_id = label_names is None or config.id_column is not None
    examples = read_examples(table, columns, with_id=with_id)
    return Source(examples, columns.said(), facts, columns, table.columns)


def read_examples(table: Table, columns: Columns, *, with_id: bool = False) -> Iterator[Example]:
    """Yields the rows of a table in file order, with their ids where they are wanted.

    Raises:
        DataError: a text that a label belongs to is empty, or a column of one label holds neither
            0 nor 1; or what a reader refuses.
    """
    for row in table.rows(columns.names()):
        label, labels = wanted_in(row, columns)
        text = row.text(columns.text)
        pair = row.text(columns.pair) if columns.pair else None
        if label is not None:
            for column, content in ((columns.text, text), (columns.pair, pair)):
                if content is not None and not content.strip():
                    raise DataError(
                        f"{row.where}: {column!r} is empty; expected a text: "
                        f"fill it or drop the row"
                    )
        name = row.value(columns.id) if with_id and columns.id else None
        yield Example(row.where, text, pair, label, name, columns.labels, labels)


def wanted_in(row: Row, columns: Columns) -> tuple[str | None, tuple[str, ...]]:
    """Returns the label of a row, and its labels where each of them has a column of its own.

    The label is then these in words; it is None where no label is read.

    Raises:
        DataError: a column of one label holds neither 0 nor 1.
    """
    if not columns.labels:
        return (row.value(columns.label).strip() if columns.label else None), ()
    labels = []
    for column in columns.labels:
        cell = row.value(column).strip()
        if cell.lower() not in IS_MARKED:
            raise DataError(
                f"{row.where}: {column!r} is {cell[:40]!r}; expected 0 or 1, as in a column that "
                f"tells of one label whether the row has it"
            )
        if IS_MARKED[cell.lower()]:
            labels.append(column)
    return ", ".join(labels), tuple(labels)


def label_of(example: Example) -> str:
    """Returns the label of a row that was read with labels.

    Raises:
        DataError: it is empty.
    """
    assert example.label is not None, "examples for training and scoring are read with labels"
    if not example.label:
        raise DataError(
            f"{example.where}: the label is empty; expected one: fill it or drop the row"
        )
    return example.label


def split_off(
    examples: Sequence[AnyRow],
    share: float,
    *,
    stratum: Callable[[AnyRow], str | None],
    rng: Random,
) -> tuple[list[AnyRow], list[AnyRow]]:
    """Returns the examples without, and with, a share drawn from them; both keep their order.

    The share is taken of each stratum, so that both parts have the same mixture to within one row
    a stratum, and the only row of one stays in the first part.

    Raises:
        DataError: there are too few rows for two parts.
    """
    groups: dict[str | None, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[stratum(example)].append(place)
    wanted = max(1, round(len(examples) * share))
    quotas = {label: len(places) * share for label, places in groups.items()}
    taken = Counter(
        {label: min(int(quota), len(groups[label]) - 1) for label, quota in quotas.items()}
    )
    by_rest = sorted(groups, key=lambda label: (taken[label] - quotas[label], str(label)))
    for label in by_rest:  # the largest remainders first
        if taken.total() < wanted and taken[label] < len(groups[label]) - 1:
            taken[label] += 1
    if not taken.total():
        raise DataError(
            f"{len(examples)} rows of {len(groups)} labels are too few to split off a dev set; "
            f"give more rows, or a file with --dev"
        )
    chosen: set[int] = set()
    for label in sorted(groups, key=str):
        chosen |= set(rng.sample(groups[label], taken[label]))
    rest = [example for place, example in enumerate(examples) if place not in chosen]
    return rest, [examples[place] for place in sorted(chosen)]
