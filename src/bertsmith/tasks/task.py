"""What a task is, and the table of them.

A task is the arrows of the flow: read (file to examples), encode (example to features), head (the
layer on top), decode (logits to predictions) and score (predictions to named numbers). Reading and
cutting text into pieces are the same for every task on texts and pairs: `labelled.py`, `pieces.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.errors import CheckpointError, ConfigError, nearest
from bertsmith.model.heads import BertForClassification, BertForRegression
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.labelled import Example, Prediction
from bertsmith.tasks.regress import Regress

TaskModel = BertForClassification | BertForRegression


class Task(Protocol):
    """What recipes and predictions ask of a task that knows its labels."""

    name: ClassVar[str]
    label_names: ClassVar[Sequence[str]]  # likely names of the label's column
    chosen_by: ClassVar[str]  # the metric that tells the best epoch
    stratify: ClassVar[bool]  # whether a dev set is split off label by label

    @classmethod
    def learn(cls, examples: Sequence[Example]) -> Self:
        """Returns the task with the labels, or the scale, of the training rows."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task that a model folder remembers."""

    def facts(self) -> dict[str, Any]:
        """Returns what a model folder must remember for `from_facts`."""

    def said(self, examples: Sequence[Example]) -> str:
        """Returns in words what was learnt from the training rows' labels."""

    def encode(self, example: Example) -> float:
        """Returns what the model is trained to answer: a label's number, or a scaled value."""

    def head(self, config: BertConfig) -> TaskModel:
        """Returns a new model with this task's layer on top; its labels are those of `encode`."""

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns `model` as it is kept: its answers are in the units of the user's file."""

    def decode(self, logits: Tensor) -> list[Prediction]:
        """Returns one prediction for each row of the logits of a model for use, [S, C]."""

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """Returns the usual metrics by their usual names."""


TASKS: dict[str, type[Task]] = {"classify": Classify, "regress": Regress}


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
