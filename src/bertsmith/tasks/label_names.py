"""How labels are spelt: several in one column, whole numbers as decimals, numbers that are none."""

from __future__ import annotations

import re
from collections import Counter

from bertsmith.errors import DataError
from bertsmith.tasks.labelled import Example

WHOLE = re.compile(r"-?[0-9]{1,18}")
NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")
_WHOLE_AS_DECIMAL = re.compile(r"(-?[0-9]{1,18})\.0{1,18}")  # 1.0, as tables with gaps spell 1

# Up to this many, anything may be classes.
_MANY_LABELS = 20


def labels_of(example: Example, separator: str) -> list[str]:
    """Returns the labels of a row that may have several, each once."""
    if example.label_columns:
        return list(example.labels)
    assert example.label is not None, "examples for training and scoring are read with labels"
    parts = (part.strip() for part in example.label.split(separator))
    return list(dict.fromkeys(part for part in parts if part))


def check_kinds(found: Counter[str], numbers: bool) -> None:
    """Refuses labels that name no classes: a column of texts or ids, or of measured numbers."""
    if len(found) <= _MANY_LABELS:
        return
    shown = f"{found.total()} training rows have {len(found)} different labels"
    if numbers and not all(WHOLE.fullmatch(label) for label in found):
        raise DataError(
            f"{shown}, all of them numbers such as {next(iter(found))}; expected classes: "
            f"use the task regress, or name another column with --label-column"
        )
    if 2 * len(found) > found.total():
        raise DataError(
            f"{shown}; expected several rows for each: name the right column with "
            f"--label-column, or use the task regress for numbers"
        )


def as_whole(label: str) -> str:
    """Returns `1` for `1.0`, and every other label as it is."""
    found = _WHOLE_AS_DECIMAL.fullmatch(label)
    return found[1] if found else label
