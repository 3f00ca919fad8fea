"""The forms that a row takes on its way through a task: source, features, prediction, scores."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from bertsmith.config import TaskConfig
from bertsmith.data.columns import Columns
from bertsmith.data.framing import Framed
from bertsmith.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """An opened file of rows; they are read as they are asked for, once."""

    examples: Iterator[Any]  # each a task's own: with `where`, as file:line, and `id`
    said: str  # what is read as what, in words
    facts: dict[str, Any] = field(default_factory=dict)  # handed to `read` again, of later files
    columns: Columns | None = None  # where the rows are those of a table
    known_columns: tuple[str, ...] = ()  # all columns of that table


@dataclass(frozen=True)
class Features:
    """One row as the model reads it: one sequence or several. A task may add fields of its own."""

    sequences: tuple[Framed, ...]

    @property
    def was_cut(self) -> bool:
        """Returns whether pieces were left out to stay within the greatest length."""
        return any(sequence.was_cut for sequence in self.sequences)

    @property
    def num_tokens(self) -> int:
        """Returns the pieces in all sequences, special ones included."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one row."""

    answer: Any  # a label, a number, several labels, tags, a span of text: what JSON can hold
    probabilities: dict[str, float] = field(default_factory=dict)  # by label; none for a number
    was_cut: bool = False  # the model did not see the end of the text
    more: dict[str, Any] = field(default_factory=dict)  # what else the task tells, as other spans


@dataclass(frozen=True, slots=True)
class Decisions:
    """What a row asks of a model, each with what was said, as can be compared from row to row."""

    wanted: frozenset[Hashable]
    said: frozenset[Hashable]

    @classmethod
    def of_row(cls, target: Any, prediction: Prediction) -> Decisions:
        """Returns the one decision of a row that is answered as a whole."""
        return cls(frozenset([repr(target)]), frozenset([repr(prediction.answer)]))


def refuse_label_options(options: TaskConfig, why: str) -> None:
    """Raises ConfigError where an option is set that is for `classify` alone; `why` is the mend."""
    for option in ("class_weights", "multi_label", "label_smoothing", "tune_thresholds"):
        if getattr(options, option):
            raise ConfigError(f"{option} is for the task classify; {why}: leave it out")


class Scorer(Protocol):
    """Scores of rows that come one by one; it keeps a few numbers of each, never text or logits."""

    def add(self, example: Any, prediction: Prediction) -> None:
        """Takes in the prediction of a labelled row."""

    def scores(self) -> dict[str, float]:
        """Returns the usual metrics by their usual names, of all rows so far."""
