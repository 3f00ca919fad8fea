"""What a task is, and the table of them.

A task is the arrows of the flow: read (file to examples), features (example to sequences of
pieces), head (the layer on top), decode (logits to predictions) and a scorer (predictions to named
numbers). What rows look like on the way is in `forms.py`; what tasks on texts and pairs share, in
`labelled.py` and `pieces.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.errors import CheckpointError, ConfigError, nearest
from bertsmith.model.task_heads import TaskModel
from bertsmith.tasks.answer import Answer
from bertsmith.tasks.choose import Choose
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Decisions, Features, Prediction, Scorer, Source
from bertsmith.tasks.regress import Regress
from bertsmith.tasks.tag import Tag
from bertsmith.text.wordpiece import Tokenizer


class Task(Protocol):
    """What recipes and predictions ask of a task that knows its labels.

    An example is the task's own form of a row: it has `where`, as file:line, and an `id`.
    """

    name: ClassVar[str]
    decides: ClassVar[str]  # of what its answers are: row, or word
    suffixes: ClassVar[tuple[str, ...]]  # of the files that `write` can make

    @property
    def chosen_by(self) -> str:
        """Returns the metric that tells the best epoch."""

    @classmethod
    def read(
        cls,
        path: Path,
        columns: ColumnsConfig,
        remembered: Mapping[str, Any] | None,
        *,
        labelled: bool,
    ) -> Source:
        """Opens a file; `remembered` are the facts of the one that was read in training.

        Raises:
            DataError, MissingInputError: it is not as the task needs it.
        """

    @classmethod
    def learn(cls, examples: Sequence[Any], options: TaskConfig) -> Self:
        """Returns the task with the labels, or the scale, of the training rows."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task that a model folder remembers."""

    def facts(self) -> dict[str, Any]:
        """Returns what a model folder must remember for `from_facts`."""

    def said(self, examples: Sequence[Any]) -> str:
        """Returns in words what was learnt from the training rows' labels."""

    def stratum(self, example: Any) -> str | None:
        """Returns the group of which a dev set shall have its share; None if there are none."""

    def features(self, example: Any, tokenizer: Tokenizer, max_length: int) -> Features:
        """Returns the row as the model reads it; the time it takes is bounded by `max_length`."""

    def target(self, example: Any, features: Any) -> Any:
        """Returns what the model is trained to answer.

        Raises:
            DataError: the label is not one that the model knows; the row is named.
        """

    def collate(self, features: Sequence[Any], targets: Sequence[Any]) -> dict[str, Tensor]:
        """Returns rows as one batch: the arguments of the model's `forward`, by name."""

    def head(self, config: EncoderConfig) -> TaskModel:
        """Returns a new model with this task's layer on top."""

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns `model` as it is kept: its answers are in the units of the user's file."""

    def tuned(self, results: Iterable[tuple[Any, Any, Sequence[Tensor]]]) -> Self:
        """Returns the task with what is fitted on dev rows, such as a threshold.

        Args:
            results: of each row the example, its features and what `decode` gets.
        """

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task with a copy of those weights of the model that `decode` works with."""

    def decode(self, example: Any, features: Any, outputs: Sequence[Tensor]) -> Prediction:
        """Returns the prediction for a row.

        Args:
            example, features: the row.
            outputs: for each of its sequences the logits of a model for use: [C], or [T, C] where
                the model has them per token.
        """

    def decisions(self, target: Any, prediction: Prediction) -> Decisions:
        """Returns what a row asked and what was said to it, to tell a model of one answer."""

    def scorer(self) -> Scorer:
        """Returns a new scorer, without rows."""

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[Any, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool,
    ) -> int:
        """Writes the predictions of a file's rows, whole or not at all; returns their number.

        With `excel_safe` no cell of CSV or TSV is a formula; see `outputs.excel_safe_cell`.
        """


TASKS: dict[str, type[Task]] = {
    "answer": Answer,
    "choose": Choose,
    "classify": Classify,
    "regress": Regress,
    "tag": Tag,
}


def find_task(name: str) -> type[Task]:
    """Returns the task of that name.

    Raises:
        ConfigError: there is none; the nearest one is named.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task {name!r}{nearest(name, TASKS)}")
    return TASKS[name]


def task_of(facts: Mapping[str, Any], where: str) -> Task:
    """Returns the task that a fine-tuned model's folder remembers.

    Raises:
        CheckpointError: the folder is of a model without a task.
    """
    name = facts.get("task")
    if name not in TASKS:
        raise CheckpointError(
            f"{where}: holds no fine-tuned model (its task is {name!r}); "
            f"expected one that `bertsmith finetune` wrote"
        )
    return TASKS[name].from_facts(facts)
