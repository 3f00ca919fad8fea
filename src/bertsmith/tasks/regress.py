"""Which number belongs to a text, or to a pair of texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bertsmith.config import BertConfig
from bertsmith.data.columns import NUMBER_NAMES
from bertsmith.errors import DataError
from bertsmith.model.heads import BertForClassification, BertForRegression
from bertsmith.tasks.labelled import Example, Prediction
from bertsmith.tasks.metrics import regression_scores


@dataclass(frozen=True)
class Regress:
    """The task of telling a number.

    The model is trained on labels of mean 0 and deviation 1, so that one learning rate fits grades
    and prices alike; a model for use has `mean` and `deviation` worked into its last layer.
    """

    name: ClassVar[str] = "regress"
    label_names: ClassVar[Sequence[str]] = NUMBER_NAMES
    chosen_by: ClassVar[str] = "mse"
    stratify: ClassVar[bool] = False

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def learn(cls, examples: Sequence[Example]) -> Self:
        """Returns the task with mean and deviation of the training rows' numbers.

        Raises:
            DataError: there is no row, a label is no number, or all are the same.
        """
        values = [_number(example) for example in examples]
        if not values:
            raise DataError("the training file holds no rows; expected texts with numbers")
        deviation = statistics.pstdev(values)
        if deviation == 0:
            raise DataError(
                f"all {len(values)} training rows have the number {values[0]:g}; "
                f"expected different ones: name the right column with --label-column"
            )
        return cls(statistics.fmean(values), deviation)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task; a model for use answers in the user's units, so nothing is needed."""
        return cls()

    def facts(self) -> dict[str, Any]:
        """Returns the task's name."""
        return {"task": self.name}

    def said(self, examples: Sequence[Example]) -> str:
        """Returns the range of the numbers in words."""
        values = [_number(example) for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, {self.mean:.4g} on average"

    def encode(self, example: Example) -> float:
        """Returns the row's number in the scale in which the model is trained.

        Raises:
            DataError: the label is no number.
        """
        return (_number(example) - self.mean) / self.deviation

    def head(self, config: BertConfig) -> BertForRegression:
        """Returns a new model with one output."""
        return BertForRegression(config)

    def for_use(self, model: BertForClassification | BertForRegression) -> BertForRegression:
        """Returns a model on the same encoder whose last layer answers in the user's units."""
        assert isinstance(model, BertForRegression), "this task's head made the model"
        with torch.device("meta"):  # its weights are not drawn: they are replaced at once
            ready = BertForRegression(model.config)
        ready.encoder = model.encoder
        ready.classifier = nn.Linear(model.config.hidden_size, 1)
        with torch.no_grad():
            ready.classifier.weight.copy_(model.classifier.weight * self.deviation)  # [1, H]
            ready.classifier.bias.copy_(model.classifier.bias * self.deviation + self.mean)  # [1]
        return ready.to(model.classifier.weight.device).train(model.training)

    def decode(self, logits: Tensor) -> list[Prediction]:
        """Returns the number of each row of logits. [S, 1]"""
        return [Prediction(value) for value in logits.squeeze(1).tolist()]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """Returns the correlations and the squared error, as in `metrics.py`."""
        wanted = [_number(example) for example in examples]
        return regression_scores(wanted, [float(found.answer) for found in predictions])


def _number(example: Example) -> float:
    label = example.label
    assert label is not None, "examples for training and scoring are read with labels"
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in label:
        raise DataError(
            f"{example.where}: the label {label[:40]!r} is no number; expected one such as 3.8"
        )
    return value
