"""Which number belongs to a text, or to a pair of texts."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.data.columns import NUMBER_NAMES
from bertsmith.data.outputs import Answered, write_predictions
from bertsmith.data.packing import pack_texts
from bertsmith.errors import DataError
from bertsmith.model.task_heads import BertForRegression, TaskModel
from bertsmith.tasks.forms import Decisions, Features, Prediction, Source, refuse_label_options
from bertsmith.tasks.glue import read_glue
from bertsmith.tasks.labelled import Example, label_of, read_texts
from bertsmith.tasks.metrics import regression_scores
from bertsmith.tasks.pieces import text_features
from bertsmith.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class Regress:
    """The task of telling a number.

    The model is trained on labels of mean 0 and deviation 1, so that one learning rate fits grades
    and prices alike; a model for use has `mean` and `deviation` worked into its last layer.
    """

    name: ClassVar[str] = "regress"
    decides: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".jsonl")

    mean: float = 0.0
    deviation: float = 1.0
    options: TaskConfig = field(default_factory=TaskConfig)
    chosen_by: str = "mse"

    @classmethod
    def read(
        cls,
        path: Path,
        columns: ColumnsConfig,
        remembered: Mapping[str, Any] | None,
        *,
        labelled: bool,
    ) -> Source:
        """Opens a table of texts or pairs, or a file of GLUE; see `labelled.read_texts`."""
        if columns.glue:
            return read_glue(path, columns, cls.name, labelled=labelled)
        return read_texts(path, columns, remembered, NUMBER_NAMES if labelled else None)

    @classmethod
    def learn(cls, examples: Sequence[Example], options: TaskConfig) -> Self:
        """Returns the task with mean and deviation of the training rows' numbers.

        Raises:
            DataError: there is no row, a label is no number, or all are the same.
            ConfigError: an option is for labels alone.
        """
        refuse_label_options(options, "a number has no labels")
        values = [_number(example) for example in examples]
        if not values:
            raise DataError("the training file holds no rows; expected texts with numbers")
        deviation = statistics.pstdev(values)
        if deviation == 0:
            raise DataError(
                f"all {len(values)} training rows have the number {values[0]:g}; "
                f"expected different ones: name the right column with --label-column"
            )
        return cls(statistics.fmean(values), deviation, options)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task; a model for use answers in the user's units, so no scale is needed."""
        options = TaskConfig.from_mapping(facts.get("options", {}), where="facts")
        return cls(options=options)

    def facts(self) -> dict[str, Any]:
        """Returns the task's name and options."""
        return {"task": self.name, "options": self.options.to_mapping()}

    def said(self, examples: Sequence[Example]) -> str:
        """Returns the range of the numbers in words."""
        values = [_number(example) for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, {self.mean:.4g} on average"

    def stratum(self, example: Example) -> str | None:
        """Returns None: numbers are no groups."""
        return None

    def features(self, example: Example, tokenizer: Tokenizer, max_length: int) -> Features:
        """Returns the text's or pair's pieces, cut or in windows as the options say."""
        return text_features(example, tokenizer, max_length, self.options.long_texts)

    def target(self, example: Example, features: Features) -> float:
        """Returns the row's number in the scale in which the model is trained.

        Raises:
            DataError: the label is no number.
        """
        return (_number(example) - self.mean) / self.deviation

    def collate(self, features: Sequence[Features], targets: Sequence[float]) -> dict[str, Tensor]:
        """Returns a batch; every window of a row has the row's number, and they count as one."""
        sequences = [part for row in features for part in row.sequences]
        sizes = torch.tensor([len(row.sequences) for row in features])  # [N]
        labels = torch.tensor(targets).repeat_interleave(sizes)  # [S]
        batch = pack_texts(sequences, labels).tensors()
        if int(sizes.max()) > 1:
            batch["label_weights"] = (1 / sizes).repeat_interleave(sizes)  # [S]
        return batch

    def head(self, config: EncoderConfig) -> BertForRegression:
        """Returns a new model with one output."""
        return BertForRegression(config)

    def for_use(self, model: TaskModel) -> BertForRegression:
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

    def tuned(self, results: Iterable[tuple[Example, Features, Sequence[Tensor]]]) -> Self:
        """Returns the task itself: nothing is fitted on dev rows."""
        return self

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task itself: the model's outputs are all that it decodes."""
        return self

    def decode(self, example: Example, features: Features, outputs: Sequence[Tensor]) -> Prediction:
        """Returns the row's number, the mean over its windows."""
        return Prediction(float(torch.stack(list(outputs)).mean()), was_cut=features.was_cut)

    def decisions(self, target: Any, prediction: Prediction) -> Decisions:
        """Returns the one decision of the row; see `Decisions.of_row`."""
        return Decisions.of_row(target, prediction)

    def scorer(self) -> NumberScorer:
        """Returns a scorer of correlations and squared error, as in `metrics.py`."""
        return NumberScorer()

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[Example, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool = False,
    ) -> int:
        """Writes CSV, or JSON lines by the file's name; see `outputs.write_predictions`."""
        rows = (
            Answered(example.id, found.answer, {}, was_cut=found.was_cut)
            for example, found in answered
        )
        return write_predictions(path, rows, id_column, excel_safe=excel_safe)


class NumberScorer:
    """Scores of predicted numbers; of each row it keeps two."""

    def __init__(self) -> None:
        self._wanted = array("d")
        self._predicted = array("d")

    def add(self, example: Example, prediction: Prediction) -> None:
        """Takes in the prediction of a labelled row."""
        self._wanted.append(_number(example))
        self._predicted.append(prediction.answer)

    def scores(self) -> dict[str, float]:
        """Returns the usual metrics; see `metrics.py`."""
        return regression_scores(np.array(self._wanted), np.array(self._predicted))


def _number(example: Example) -> float:
    label = label_of(example)
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in label:
        raise DataError(
            f"{example.where}: the label {label[:40]!r} is no number; expected one such as 3.8"
        )
    return value
