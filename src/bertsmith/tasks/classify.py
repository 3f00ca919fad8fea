"""Which of two or many labels a text, or a pair of texts, has."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.data.columns import CLASS_NAMES
from bertsmith.errors import CheckpointError, DataError, nearest
from bertsmith.model.heads import BertForClassification, BertForRegression
from bertsmith.tasks.labelled import Example, Prediction
from bertsmith.tasks.metrics import classification_scores

WHOLE = re.compile(r"-?[0-9]{1,18}")
WHOLE_AS_DECIMAL = re.compile(r"(-?[0-9]{1,18})\.0{1,18}")  # 1.0, as tables with gaps spell 1
NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")

# Up to this many, anything may be classes.
MANY_LABELS = 20


@dataclass(frozen=True)
class Classify:
    """The task of telling one of `labels`, whose order is that of the model's outputs."""

    name: ClassVar[str] = "classify"
    label_names: ClassVar[Sequence[str]] = CLASS_NAMES
    chosen_by: ClassVar[str] = "accuracy"
    stratify: ClassVar[bool] = True

    labels: tuple[str, ...]

    @classmethod
    def learn(cls, examples: Sequence[Example]) -> Self:
        """Returns the task with the labels of the training rows: numbers by value, others sorted.

        Where all labels are whole numbers, `1.0` is the label `1`.

        Raises:
            DataError: there is no row, or only one label, or almost one label for every row.
        """
        found = Counter(_label_of(example) for example in examples)
        if not found:
            raise DataError("the training file holds no rows; expected labelled texts")
        if all(WHOLE.fullmatch(_whole(label)) for label in found):
            found = Counter(_whole(_label_of(example)) for example in examples)
        if len(found) == 1:
            raise DataError(
                f"all {len(examples)} training rows have the label {next(iter(found))!r}; "
                f"expected two labels or more: name the right column with --label-column"
            )
        numbers = all(NUMBER.fullmatch(label) for label in found)
        _check_kinds(found, numbers)
        return cls(tuple(sorted(found, key=(lambda n: (float(n), n)) if numbers else None)))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task with the labels that a model folder remembers.

        Raises:
            CheckpointError: it remembers none.
        """
        labels = facts.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(f"the model's labels are {labels!r}; expected a list of texts")
        return cls(tuple(labels))

    def facts(self) -> dict[str, Any]:
        """Returns the task's name and its labels in the order of the model's outputs."""
        return {"task": self.name, "labels": list(self.labels)}

    def said(self, examples: Sequence[Example]) -> str:
        """Returns the labels in words, each with its number of rows, and how they were respelt."""
        rows = Counter(self.encode(example) for example in examples)
        shown = [f"{label} ({rows[place]:,} rows)" for place, label in enumerate(self.labels[:20])]
        more = f" and {len(self.labels) - 20} more" if len(self.labels) > 20 else ""
        respelt = sorted({_label_of(example) for example in examples} - set(self.labels))
        note = f"; {', '.join(respelt)} read as whole numbers" if respelt else ""
        return f"{len(self.labels)} labels: {', '.join(shown)}{more}{note}"

    def encode(self, example: Example) -> int:
        """Returns the number of the row's label.

        Raises:
            DataError: the label is not one of those that the model knows.
        """
        label = _label_of(example)
        if label not in self._numbers and _whole(label) in self._numbers:
            label = _whole(label)
        if label not in self._numbers:
            raise DataError(
                f"{example.where}: the label {label!r} does not occur in training"
                f"{nearest(label, self.labels[:50])}"
            )
        return self._numbers[label]

    def head(self, config: BertConfig) -> BertForClassification:
        """Returns a new model with one output for each label."""
        return BertForClassification(config, len(self.labels))

    def for_use(
        self, model: BertForClassification | BertForRegression
    ) -> BertForClassification | BertForRegression:
        """Returns `model` itself."""
        return model

    def decode(self, logits: Tensor) -> list[Prediction]:
        """Returns the likeliest label and the probability of each, for each row. [S, C]"""
        shares = torch.softmax(logits.double(), dim=1)  # [S, C]
        best = shares.argmax(dim=1).tolist()
        return [
            Prediction(self.labels[place], dict(zip(self.labels, row, strict=True)))
            for place, row in zip(best, shares.tolist(), strict=True)
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """Returns accuracy, F1 and Matthews' correlation, as in `metrics.py`."""
        wanted = [self.encode(example) for example in examples]
        predicted = [self._numbers[str(prediction.answer)] for prediction in predictions]
        return classification_scores(wanted, predicted, len(self.labels))

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}


def _check_kinds(found: Counter[str], numbers: bool) -> None:
    """Refuses labels that name no classes: a column of texts or ids, or of measured numbers."""
    if len(found) <= MANY_LABELS:
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


def _label_of(example: Example) -> str:
    assert example.label is not None, "examples for training and scoring are read with labels"
    return example.label


def _whole(label: str) -> str:
    """Returns `1` for `1.0`, and every other label as it is."""
    found = WHOLE_AS_DECIMAL.fullmatch(label)
    return found[1] if found else label
