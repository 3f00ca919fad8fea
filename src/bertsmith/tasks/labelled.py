"""Labelled rows, read from tables, and what every task on texts or pairs does with them first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from bertsmith.data.columns import Columns
from bertsmith.data.tables import Table
from bertsmith.errors import DataError


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a text, or two, and what is to be predicted of it."""

    where: str  # file:line, for messages
    text: str
    pair: str | None = None
    label: str | None = None  # as the file spells it, without white space around it
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one row."""

    answer: str | float  # a label, or a number
    probabilities: dict[str, float] = field(default_factory=dict)  # by label; none for a number


def read_examples(table: Table, columns: Columns, *, with_id: bool = False) -> Iterator[Example]:
    """Yields the rows of a table in file order, with their ids where they are wanted.

    Raises:
        DataError: a label, or a text that a label belongs to, is empty; or what a reader refuses.
    """
    for row in table.rows(columns.names()):
        label = row.value(columns.label).strip() if columns.label else None
        text = row.text(columns.text)
        pair = row.text(columns.pair) if columns.pair else None
        if label is not None:
            for column, content in ((columns.text, text), (columns.pair, pair)):
                if content is not None and not content.strip():
                    raise DataError(
                        f"{row.where}: {column!r} is empty; expected a text: "
                        f"fill it or drop the row"
                    )
            if not label:
                raise DataError(
                    f"{row.where}: {columns.label!r} is empty; expected a label: "
                    f"fill it or drop the row"
                )
        name = row.value(columns.id) if with_id and columns.id else None
        yield Example(row.where, text, pair, label, name)


def split_off(
    examples: Sequence[Example], share: float, *, stratify: bool, rng: Random
) -> tuple[list[Example], list[Example]]:
    """Returns the examples without, and with, a share drawn from them; both keep their order.

    With `stratify`, the share is taken of each label, so that both parts have the same mixture to
    within one row a label, and a label of a single row stays in the first part.

    Raises:
        DataError: there are too few rows for two parts.
    """
    groups: dict[str | None, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        groups[example.label if stratify else None].append(place)
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
