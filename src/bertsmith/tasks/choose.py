"""Which of several endings a stem goes on with."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.data.choice_columns import choose_choice_columns
from bertsmith.data.choices import Choice, ChoiceColumns, endings_of, read_choices
from bertsmith.data.columns import Columns
from bertsmith.data.outputs import (
    PREDICTION,
    PROBABILITY,
    WAS_CUT,
    new_file,
    row_writer,
    spelt,
)
from bertsmith.data.packing import pack_texts
from bertsmith.data.tables import open_table
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.model.task_heads import BertForChoice, TaskModel
from bertsmith.tasks.forms import Decisions, Features, Prediction, Source, refuse_label_options
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import encode
from bertsmith.text.wordpiece import Tokenizer


@dataclass(frozen=True)
class Choose:
    """The task of choosing an ending.

    `labels` are what the endings of every row are called, in their order; none are known of a model
    from elsewhere, or where each row calls its endings by their own texts.

    Source: Devlin et al. 2019, section 4.4.
    """

    name: ClassVar[str] = "choose"
    decides: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".jsonl")
    chosen_by: ClassVar[str] = "accuracy"

    labels: tuple[str, ...] = ()
    options: TaskConfig = field(default_factory=TaskConfig)

    @classmethod
    def read(
        cls,
        path: Path,
        columns: ColumnsConfig,
        remembered: Mapping[str, Any] | None,
        *,
        labelled: bool,
    ) -> Source:
        """Opens a table of choices; its columns are named by flags, remembered or guessed.

        Raises:
            MissingInputError: the file, or a column that a flag names, is not there.
            DataError: the columns cannot be guessed, or the labels name no endings.
        """
        found = (remembered or {}).get("choice_columns")
        known = ChoiceColumns(**found | {"endings": tuple(found["endings"])}) if found else None
        table = open_table(path, columns)
        chosen = choose_choice_columns(table, columns, labelled=labelled, known=known)
        num_endings = (remembered or {}).get("num_endings")
        if num_endings is None:
            first = next(table.rows(), None)
            num_endings = len(endings_of(first, chosen.endings)[0]) if first else None
        facts = {
            "choice_columns": {
                "stem": chosen.stem,
                "second": chosen.second,
                "endings": list(chosen.endings),
                "label": chosen.label,
                "spelling": chosen.spelling,
            },
            "num_endings": num_endings,
        }
        plain = Columns(chosen.stem, None, chosen.label, chosen.id)
        rows = read_choices(table, chosen, num_endings)
        return Source(rows, chosen.said(), facts, plain, table.columns)

    @classmethod
    def learn(cls, examples: Sequence[Choice], options: TaskConfig) -> Self:
        """Returns the task with what all training rows call their endings.

        Raises:
            DataError: there is no row.
            ConfigError: an option is for other tasks.
        """
        refuse_label_options(options, "choices have no classes")
        if options.long_texts != "cut":
            raise ConfigError(
                "long_texts is 'windows', but the task choose can only cut; raise max_length"
            )
        if not examples:
            raise DataError("the training file holds no rows; expected stems with their endings")
        names = {example.names for example in examples}
        return cls(names.pop() if len(names) == 1 else (), options)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task with what a model folder remembers.

        Raises:
            CheckpointError: the names of the endings are none.
        """
        labels = facts.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise CheckpointError(f"the model's labels are {labels!r}; expected a list of texts")
        return cls(tuple(labels), TaskConfig.from_mapping(facts.get("options", {}), where="facts"))

    def facts(self) -> dict[str, Any]:
        """Returns the task's name, options, and what endings are called."""
        return {
            "task": self.name,
            "labels": list(self.labels),
            "options": self.options.to_mapping(),
        }

    def said(self, examples: Sequence[Choice]) -> str:
        """Returns in words how many endings there are and how often each place is right."""
        rows = Counter(example.label for example in examples)
        places = len(examples[0].endings)
        shown = [f"{self._name(n)} ({rows[n]:,} rows)" for n in range(places)]
        return f"{places} endings, right: {', '.join(shown)}"

    def stratum(self, example: Choice) -> str | None:
        """Returns None: the places of right endings are no groups."""
        return None

    def features(self, example: Choice, tokenizer: Tokenizer, max_length: int) -> Features:
        """Returns a sequence for each ending: the stem, then the ending after what precedes it."""
        parts = [
            Example(example.where, example.stem, f"{example.second} {ending}".strip())
            for ending in example.endings
        ]
        return Features(tuple(encode(part, tokenizer, max_length) for part in parts))

    def target(self, example: Choice, features: Features) -> int:
        """Returns the number of the right ending, from 0."""
        assert example.label is not None, "examples for training and scoring are read with labels"
        return example.label

    def collate(self, features: Sequence[Features], targets: Sequence[int]) -> dict[str, Tensor]:
        """Returns a batch in which the sequences of a row stand side by side."""
        sequences = [part for row in features for part in row.sequences]
        return pack_texts(sequences, torch.tensor(targets)).tensors()

    def head(self, config: EncoderConfig) -> BertForChoice:
        """Returns a new model with one score for each sequence."""
        return BertForChoice(config)

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns `model` itself."""
        return model

    def tuned(self, results: Iterable[tuple[Choice, Features, Sequence[Tensor]]]) -> Self:
        """Returns the task itself: nothing is fitted on dev rows."""
        return self

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task itself: the model's outputs are all that it decodes."""
        return self

    def decode(self, example: Choice, features: Features, outputs: Sequence[Tensor]) -> Prediction:
        """Returns what labels call the likeliest ending; its number and text are in `more`.

        Probabilities are those of the endings against each other.
        """
        shares = torch.cat(list(outputs)).double().softmax(0).tolist()
        best = int(np.argmax(shares))
        by_name = {self._name(number): share for number, share in enumerate(shares)}
        more = {"index": best, "ending": example.endings[best]}
        return Prediction(example.names[best], by_name, features.was_cut, more)

    def decisions(self, target: Any, prediction: Prediction) -> Decisions:
        """Returns the one decision of the row; see `Decisions.of_row`."""
        return Decisions.of_row(target, prediction)

    def scorer(self) -> ChoiceScorer:
        """Returns a scorer of accuracy."""
        return ChoiceScorer()

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[Choice, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool = False,
    ) -> int:
        """Writes CSV, or JSON lines by the file's name; returns the number of rows.

        A row has its id, if the file has ids, the prediction as labels spell it, the number of the
        ending from 0, its text, the probability of each ending, and whether words were cut.
        """
        count = 0
        with new_file(path, "w") as file:
            write_row = row_writer(file, excel_safe=excel_safe)
            for example, found in answered:
                cells: dict[str, Any] = {} if id_column is None else {id_column: example.id}
                cells |= {PREDICTION: found.answer, **found.more}
                if path.suffix.lower() == ".jsonl":
                    cells |= {"probabilities": found.probabilities, WAS_CUT: found.was_cut}
                    file.write(json.dumps(cells, ensure_ascii=False) + "\n")
                else:
                    shares = found.probabilities.items()
                    cells |= {PROBABILITY + name: spelt(share) for name, share in shares}
                    cells[WAS_CUT] = int(found.was_cut)
                    if count == 0:
                        write_row(cells)
                    write_row(cells.values())
                count += 1
        return count

    def _name(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else str(number)


class ChoiceScorer:
    """The accuracy of choices; of each row it keeps one bit."""

    def __init__(self) -> None:
        self._right = array("b")

    def add(self, example: Choice, prediction: Prediction) -> None:
        """Takes in the prediction of a labelled row."""
        self._right.append(prediction.more["index"] == example.label)

    def scores(self) -> dict[str, float]:
        """Returns `accuracy`."""
        return {"accuracy": sum(self._right) / len(self._right)}
