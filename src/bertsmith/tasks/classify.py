"""Which of two or many labels a text, or a pair of texts, has; or which several of them."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.data.columns import CLASS_NAMES
from bertsmith.data.outputs import Answered, write_predictions
from bertsmith.data.packing import pack_texts
from bertsmith.errors import CheckpointError, ConfigError, DataError, nearest
from bertsmith.model.task_heads import BertForClassification, TaskModel
from bertsmith.tasks.calibration import (
    best_f1_threshold,
    expected_calibration_error,
    fit_temperature,
)
from bertsmith.tasks.class_scores import ClassScorer
from bertsmith.tasks.forms import Decisions, Features, Prediction, Source
from bertsmith.tasks.glue import read_glue
from bertsmith.tasks.label_names import NUMBER, WHOLE, as_whole, check_kinds, labels_of
from bertsmith.tasks.labelled import Example, label_of, read_texts
from bertsmith.tasks.pieces import text_features
from bertsmith.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class Classify:
    """The task of telling one of `labels`, or several of them.

    The order of the labels is that of the model's outputs.
    """

    name: ClassVar[str] = "classify"
    decides: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".jsonl")

    labels: tuple[str, ...]
    options: TaskConfig = field(default_factory=TaskConfig)
    weights: tuple[float, ...] = ()  # of each label's rows in the loss; none: all alike
    chosen_by: str = "accuracy"
    temperature: float = 1.0  # what logits are divided by, so that probabilities come true
    # Expected calibration errors of the rows it was fitted on: without the temperature, and with.
    calibration: tuple[float, float] | None = None
    # Above which a label is said: of each one that stands by itself, or of the second of two.
    # None: one half.
    thresholds: tuple[float, ...] = ()
    by_column: bool = False  # each label has a column of its own in the user's files

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
        names = CLASS_NAMES if labelled else None
        return read_texts(path, columns, remembered, names, may_have_several=True)

    @classmethod
    def learn(cls, examples: Sequence[Example], options: TaskConfig) -> Self:
        """Returns the task with the labels of the training rows: numbers by value, others sorted.

        Where all labels are whole numbers, `1.0` is the label `1`.

        Raises:
            DataError: there is no row, or only one label, or almost one label for every row.
            ConfigError: labels have columns of their own without `multi_label`.
        """
        if not examples:
            raise DataError("the training file holds no rows; expected labelled texts")
        if options.multi_label:
            return cls._learn_several(examples, options)
        if examples[0].label_columns:
            raise ConfigError(
                f"label_column names {len(examples[0].label_columns)} columns, one for each label, "
                f"of which a row may have several; expected multi_label with them: add "
                f"--multi-label"
            )
        found = Counter(label_of(example) for example in examples)
        if all(WHOLE.fullmatch(as_whole(label)) for label in found):
            found = Counter(as_whole(label_of(example)) for example in examples)
        if len(found) == 1:
            raise DataError(
                f"all {len(examples)} training rows have the label {next(iter(found))!r}; "
                f"expected two labels or more: name the right column with --label-column"
            )
        numbers = all(NUMBER.fullmatch(label) for label in found)
        check_kinds(found, numbers)
        order = sorted(sorted(found), key=float) if numbers else sorted(found)
        weights = (
            tuple(len(examples) / (len(found) * found[label]) for label in order)
            if options.class_weights
            else ()
        )
        if options.tune_thresholds and len(order) > 2:
            raise ConfigError(
                f"tune_thresholds is for two labels, or several at once with multi_label; "
                f"these rows have one of {len(order)}: leave it out"
            )
        chosen_by = "f1" if options.tune_thresholds else "accuracy"
        return cls(tuple(order), options, weights, chosen_by)

    @classmethod
    def _learn_several(cls, examples: Sequence[Example], options: TaskConfig) -> Self:
        found = Counter(
            label for example in examples for label in labels_of(example, options.label_separator)
        )
        columns = examples[0].label_columns
        if columns and found:
            return cls(columns, options, chosen_by="f1_micro", by_column=True)
        if not found:
            raise DataError(
                f"none of the {len(examples)} training rows has a label; expected several in one "
                f"column, as in 'red{options.label_separator}blue'"
            )
        return cls(tuple(sorted(found)), options, chosen_by="f1_micro")

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task with the labels that a model folder remembers.

        Raises:
            CheckpointError: it remembers none.
        """
        labels = facts.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(f"the model's labels are {labels!r}; expected a list of texts")
        temperature, thresholds = facts.get("temperature", 1.0), facts.get("thresholds", [])
        if not _are_numbers([temperature]) or not temperature > 0:
            raise CheckpointError(
                f"the model's temperature is {temperature!r}; expected a number above 0"
            )
        if not isinstance(thresholds, list) or not _are_numbers(thresholds):
            raise CheckpointError(
                f"the model's thresholds are {thresholds!r}; expected a list of numbers"
            )
        options = TaskConfig.from_mapping(facts.get("options", {}), where="facts")
        several = options.multi_label
        if len(thresholds) not in (0, len(labels) if several else 1):
            raise CheckpointError(
                f"the model has {len(thresholds)} thresholds for its {len(labels)} labels; "
                f"expected one for each that stands by itself, or one of two labels"
            )
        return cls(
            tuple(labels),
            options,
            temperature=temperature,
            calibration=_calibration_in(facts),
            thresholds=tuple(thresholds),
            by_column=facts.get("labels_by_column") is True,
        )

    def facts(self) -> dict[str, Any]:
        """Returns the task's name and its labels in the order of the model's outputs."""
        return {
            "task": self.name,
            "labels": list(self.labels),
            "temperature": self.temperature,
            **({"calibration": _told(*self.calibration)} if self.calibration else {}),
            "thresholds": list(self.thresholds),
            "labels_by_column": self.by_column,
            "options": self.options.to_mapping(),
        }

    def said(self, examples: Sequence[Example]) -> str:
        """Returns the labels in words, each with its number of rows, and how they were respelt."""
        wanted = [self._right(example) for example in examples]
        rows = Counter(number for numbers in wanted for number in numbers)
        shown = [f"{label} ({rows[place]:,} rows)" for place, label in enumerate(self.labels[:20])]
        more = f" and {len(self.labels) - 20} more" if len(self.labels) > 20 else ""
        if self.options.multi_label:
            bare = sum(not numbers for numbers in wanted)
            note = f"; {bare:,} rows have none"
        else:
            respelt = sorted({label_of(example) for example in examples} - set(self.labels))
            note = f"; {', '.join(respelt)} read as whole numbers" if respelt else ""
        return f"{len(self.labels)} labels: {', '.join(shown)}{more}{note}"

    def stratum(self, example: Example) -> str | None:
        """Returns the row's label."""
        return example.label

    def features(self, example: Example, tokenizer: Tokenizer, max_length: int) -> Features:
        """Returns the text's or pair's pieces, cut or in windows as the options say."""
        return text_features(example, tokenizer, max_length, self.options.long_texts)

    def target(self, example: Example, features: Features) -> tuple[int, ...]:
        """Returns the numbers of the row's labels: one, or any number of several.

        Raises:
            DataError: a label is not one of those that the model knows.
        """
        return self._right(example)

    def collate(
        self, features: Sequence[Features], targets: Sequence[tuple[int, ...]]
    ) -> dict[str, Tensor]:
        """Returns a batch; every window of a row has the row's labels, and they count as one."""
        sequences = [part for row in features for part in row.sequences]
        sizes = torch.tensor([len(row.sequences) for row in features])  # [N]
        if self.options.multi_label:
            labels = torch.zeros(len(targets), len(self.labels))  # [N, C]
            for row, numbers in enumerate(targets):
                labels[row, list(numbers)] = 1.0
        else:
            labels = torch.tensor([numbers[0] for numbers in targets])  # [N]
        batch = pack_texts(sequences, labels.repeat_interleave(sizes, dim=0)).tensors()
        weights = 1 / sizes  # [N]
        if self.weights:
            weights = weights * torch.tensor(self.weights)[labels]  # [N]
        if self.weights or int(sizes.max()) > 1:
            batch["label_weights"] = weights.repeat_interleave(sizes)  # [S]
        return batch

    def head(self, config: EncoderConfig) -> BertForClassification:
        """Returns a new model with one output for each label."""
        return BertForClassification(
            config,
            len(self.labels),
            several=self.options.multi_label,
            smoothing=self.options.label_smoothing,
        )

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns `model` itself."""
        return model

    def tuned(self, results: Iterable[tuple[Example, Features, Sequence[Tensor]]]) -> Self:
        """Returns the task with the temperature and, where they are wanted, the thresholds.

        How far probabilities are from coming true, without the temperature and with it, is kept.

        Source: Guo et al. 2017, section 4.2; a threshold is the one of the best F1 on these rows.
        """
        several = self.options.multi_label
        numbers, logits = [], []
        for example, _, outputs in results:
            numbers.append(self._right(example))
            logits.append(_mean_logits(outputs).numpy())
        scores = np.array(logits).reshape(-1, len(self.labels))  # [N, C]
        has = np.zeros(scores.shape, np.int64)  # [N, C]
        for row, wanted in enumerate(numbers):
            has[row, list(wanted)] = 1
        temperature = fit_temperature(scores, has if several else has.argmax(axis=1))
        tuned = replace(self, temperature=temperature)
        plain = replace(self, temperature=1.0)
        errors = plain._calibration_error(scores, has), tuned._calibration_error(scores, has)
        tuned = replace(tuned, calibration=errors)
        if not self.options.tune_thresholds:
            return tuned
        shares = tuned._shares(torch.from_numpy(scores)).numpy()  # [N, C]
        places = range(len(self.labels)) if several else [1]
        thresholds = [best_f1_threshold(shares[:, place], has[:, place] > 0) for place in places]
        return replace(tuned, thresholds=tuple(thresholds))

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task itself: the model's outputs are all that it decodes."""
        return self

    def decode(self, example: Example, features: Features, outputs: Sequence[Tensor]) -> Prediction:
        """Returns the likeliest label, or all above their thresholds, with probabilities.

        Of several windows the mean of the logits is taken.
        """
        shares = self._shares(_mean_logits(outputs)).tolist()
        by_label = dict(zip(self.labels, shares, strict=True))
        return Prediction(self.choose(by_label), by_label, features.was_cut)

    def choose(self, probabilities: Mapping[str, float]) -> str | list[str]:
        """Returns the likeliest label; where several are allowed, all likelier than not.

        With thresholds, those above them; of two labels the second if it is above its own.
        """
        if self.options.multi_label:
            thresholds = self.thresholds or (0.5,) * len(self.labels)
            return [
                label
                for label, threshold in zip(self.labels, thresholds, strict=True)
                if probabilities[label] > threshold
            ]
        if self.thresholds:
            return self.labels[probabilities[self.labels[1]] > self.thresholds[0]]
        return max(self.labels, key=probabilities.__getitem__)

    def decisions(self, target: Any, prediction: Prediction) -> Decisions:
        """Returns the one decision of the row; see `Decisions.of_row`."""
        return Decisions.of_row(target, prediction)

    def scorer(self) -> ClassScorer:
        """Returns a scorer of accuracy, F1 and so on, as in `metrics.py`."""
        return ClassScorer(self.labels, self._right, several=self.options.multi_label)

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[Example, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool = False,
    ) -> int:
        """Writes CSV, or JSON lines by the file's name; see `outputs.write_predictions`.

        Where labels have columns of their own, each is there again with 0 or 1.
        """
        columns = self.labels if self.by_column else ()
        rows = (
            Answered(
                example.id,
                self.spelt(found.answer),
                found.probabilities,
                {label: int(label in found.answer) for label in columns},
                found.was_cut,
            )
            for example, found in answered
        )
        return write_predictions(path, rows, id_column, excel_safe=excel_safe)

    def spelt(self, answer: str | Sequence[str]) -> str:
        """Returns a predicted label, or several, as the training file spells them."""
        return answer if isinstance(answer, str) else self.options.label_separator.join(answer)

    def numbers(self, labels: Iterable[str]) -> tuple[int, ...]:
        """Returns the numbers of labels that the model knows."""
        return tuple(self._numbers[label] for label in labels)

    def _shares(self, logits: Tensor) -> Tensor:
        """Returns probabilities, of labels against each other or each by itself. [.., C]"""
        logits = logits / self.temperature  # [.., C]
        return torch.sigmoid(logits) if self.options.multi_label else logits.softmax(-1)

    def _calibration_error(self, logits: NDArray[np.float64], has: NDArray[np.integer]) -> float:
        """Returns the expected calibration error, as `ClassScorer` has it. [N, C], [N, C]"""
        shares = self._shares(torch.from_numpy(logits)).numpy()  # [N, C]
        if self.options.multi_label:
            return expected_calibration_error(shares.ravel(), has.ravel() > 0)
        came_true = has[np.arange(len(has)), shares.argmax(1)] > 0  # [N]
        return expected_calibration_error(shares.max(1), came_true)

    def _right(self, example: Example) -> tuple[int, ...]:
        if self.options.multi_label:
            labels = labels_of(example, self.options.label_separator)
            return tuple(self._number(label, example.where) for label in labels)
        return (self._number(label_of(example), example.where),)

    def _number(self, label: str, where: str) -> int:
        if label not in self._numbers and as_whole(label) in self._numbers:
            label = as_whole(label)
        if label not in self._numbers:
            raise DataError(
                f"{where}: the label {label!r} does not occur in training"
                f"{nearest(label, self.labels[:50])}"
            )
        return self._numbers[label]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}


def _told(before: float, after: float) -> dict[str, float]:
    return {"ece_before": before, "ece": after}


def _calibration_in(facts: Mapping[str, Any]) -> tuple[float, float] | None:
    found = facts.get("calibration")
    if found is None:
        return None
    values: list[Any] = [found.get(n) for n in _told(0, 0)] if isinstance(found, dict) else []
    if not values or not _are_numbers(values):
        raise CheckpointError(
            f"the model's calibration is {found!r}; expected the numbers ece_before and ece"
        )
    return float(values[0]), float(values[1])


def _mean_logits(outputs: Sequence[Tensor]) -> Tensor:
    """Returns the mean over the windows of a row. [C]"""
    return torch.stack(list(outputs)).double().mean(0)


def _are_numbers(values: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
