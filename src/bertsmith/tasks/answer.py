"""Which words of a context answer a question, or that none do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bertsmith.config import ColumnsConfig, EncoderConfig, TaskConfig
from bertsmith.data.columns import Columns
from bertsmith.data.outputs import Answered, new_file, write_predictions
from bertsmith.data.packing import pack_texts
from bertsmith.data.questions import Purpose, Question
from bertsmith.data.squad import open_questions
from bertsmith.errors import CheckpointError, DataError
from bertsmith.model.task_heads import BertForAnswering, TaskModel
from bertsmith.storage import sha256_of
from bertsmith.tasks.forms import Decisions, Prediction, Source, refuse_label_options
from bertsmith.tasks.spans import (
    AnswerFeatures,
    best_spans,
    no_answer_score,
    question_features,
    targets_of,
)
from bertsmith.tasks.squad_scores import AnswerScores
from bertsmith.text.wordpiece import Tokenizer

_SHORTENED = "train_file_sha256"  # remembered of a file of which training leaves questions out
Targets = tuple[tuple[int, int], ...]  # first and last token of the answer in each window


@dataclass(frozen=True)
class Answer:
    """The task of finding the answer to a question in its context.

    Where some training questions have no answer, a question is answered with none if the score
    of that is above the best answer's by more than `threshold`.

    Source: Devlin et al. 2019, sections 4.2 and 4.3; `run_squad.py`.
    """

    name: ClassVar[str] = "answer"
    decides: ClassVar[str] = "row"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".csv")

    may_lack: bool = False  # questions without an answer are among those learnt from
    threshold: float = 0.0
    options: TaskConfig = field(default_factory=TaskConfig)
    chosen_by: str = "f1"

    @classmethod
    def read(
        cls,
        path: Path,
        columns: ColumnsConfig,
        remembered: Mapping[str, Any] | None,
        *,
        labelled: bool,
    ) -> Source:
        """Opens a file of questions; see `squad.open_questions`.

        What training leaves out of its file is left out of that same file ever after, so that
        folds of it stay the same.
        """
        purpose: Purpose = "predicting"
        if labelled:
            shortened = (remembered or {}).get(_SHORTENED)
            again = shortened and path.is_file() and shortened == sha256_of(path)
            purpose = "training" if remembered is None or again else "scoring"
        found = (remembered or {}).get("columns")
        known = Columns(**found) if found else None
        questions = open_questions(path, columns, purpose, known)
        facts: dict[str, Any] = {}
        if questions.columns:
            used = questions.columns
            facts = {"columns": {"text": used.text, "pair": used.pair, "label": used.label}}
        if questions.tally.dropped:
            facts[_SHORTENED] = sha256_of(path)
        return Source(
            iter(questions), questions.said(), facts, questions.columns, questions.known_columns
        )

    @classmethod
    def learn(cls, examples: Sequence[Question], options: TaskConfig) -> Self:
        """Returns the task, which may answer with none if training questions have no answer.

        Raises:
            DataError: there is no question, or none that has an answer.
            ConfigError: an option is for other tasks.
        """
        refuse_label_options(options, "an answer has no labels")
        if not any(example.answers for example in examples):
            raise DataError(
                f"none of the {len(examples)} training questions has an answer in its context; "
                f"expected answers, as in the form of SQuAD"
            )
        return cls(any(not example.answers for example in examples), options=options)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Returns the task as a model folder remembers it; of a foreign one, it always answers.

        Raises:
            CheckpointError: its threshold is no number.
        """
        may_lack, threshold = facts.get("may_lack_answer", False), facts.get("threshold", 0.0)
        if not isinstance(may_lack, bool) or not isinstance(threshold, int | float):
            raise CheckpointError(
                f"the model's may_lack_answer is {may_lack!r} and its threshold {threshold!r}; "
                f"expected true or false, and a number"
            )
        options = TaskConfig.from_mapping(facts.get("options", {}), where="facts")
        return cls(may_lack, float(threshold), options)

    def facts(self) -> dict[str, Any]:
        """Returns the task's name, whether it may answer with none and above what, its options."""
        return {
            "task": self.name,
            "may_lack_answer": self.may_lack,
            "threshold": self.threshold,
            "options": self.options.to_mapping(),
        }

    def said(self, examples: Sequence[Question]) -> str:
        """Returns in words how many training questions have an answer."""
        lacking = sum(not example.answers for example in examples)
        contexts = len({example.context for example in examples})
        note = f", {lacking:,} of them without an answer" if lacking else ""
        return f"{len(examples):,} questions on {contexts:,} contexts{note}"

    def stratum(self, example: Question) -> str | None:
        """Returns whether the question has an answer."""
        return "answer" if example.answers else "none"

    def features(self, example: Question, tokenizer: Tokenizer, max_length: int) -> AnswerFeatures:
        """Returns the question with its context, in windows where the context is long."""
        return question_features(
            example.question, example.context, tokenizer, max_length, self.options
        )

    def target(self, example: Question, features: AnswerFeatures) -> Targets:
        """Returns for each window the answer's first and last token, or [CLS] twice if not there.

        So do windows of a question whose answer does not stand in the context.
        """
        return targets_of(features, example.span)

    def collate(
        self, features: Sequence[AnswerFeatures], targets: Sequence[Targets]
    ) -> dict[str, Tensor]:
        """Returns a batch of all windows; each counts as one."""
        places = torch.tensor([place for row in targets for place in row])  # [S, 2]
        batch = pack_texts([part for row in features for part in row.sequences]).tensors()
        return batch | {"span_starts": places[:, 0], "span_ends": places[:, 1]}

    def head(self, config: EncoderConfig) -> TaskModel:
        """Returns a new model with a start and an end score on top of each token."""
        return BertForAnswering(config)

    def for_use(self, model: TaskModel) -> TaskModel:
        """Returns the model itself."""
        return model

    def tuned(self, results: Iterable[tuple[Question, AnswerFeatures, Sequence[Tensor]]]) -> Self:
        """Returns the task with the threshold that gives dev questions the best F1.

        It stays as it is unless some of them have an answer and some do not.
        """
        if not self.may_lack:
            return self
        scorer = self.scorer()
        for example, features, outputs in results:
            scorer.add(example, self.decode(example, features, outputs))
        threshold = scorer.found.best_f1_threshold()
        return self if threshold is None else replace(self, threshold=threshold)

    def with_weights_of(self, model: TaskModel) -> Self:
        """Returns the task itself: the model's outputs are all that it decodes."""
        return self

    def decode(
        self, example: Question, features: AnswerFeatures, outputs: Sequence[Tensor]
    ) -> Prediction:
        """Returns the answer as text of the context, empty for none.

        `more` holds `start` and `end`, its characters in the context, its `probability` among
        `n_best`, the likeliest answers of different texts, and `best_text`, the best one that is
        not none. Where the task may answer with none, `no_answer_odds` is the score of that less
        that of `best_text`.
        """
        found = self._candidates(example.context, features, outputs)
        best_text = found[0]["text"] if found else ""
        odds: float | None = None
        if self.may_lack:
            none = no_answer_score(outputs)
            odds = none - found[0]["score"] if found else None
            found.append({"text": "", "score": none, "start": None, "end": None})
            found.sort(key=lambda entry: -entry["score"])
        elif not found:  # the context has no pieces
            found = [{"text": "", "score": 0.0, "start": None, "end": None}]
        scores = np.array([entry.pop("score") for entry in found])  # [N]
        shares = np.exp(scores - scores.max())
        for entry, share in zip(found, (shares / shares.sum()).tolist(), strict=True):
            entry["probability"] = share
        text = "" if odds is not None and odds > self.threshold else best_text
        chosen = next(entry for entry in found if entry["text"] == text)
        more = {key: chosen[key] for key in ("start", "end", "probability")}
        more |= {"n_best": found, "best_text": best_text}
        if odds is not None:
            more["no_answer_odds"] = odds
        return Prediction(text, was_cut=features.was_cut, more=more)

    def _candidates(
        self, context: str, features: AnswerFeatures, outputs: Sequence[Tensor]
    ) -> list[dict[str, Any]]:
        """Returns the best `n_best` answers of different texts, best first."""
        most = self.options.n_best
        spans = best_spans(
            features, outputs, longest=self.options.max_answer_length, most=most * most
        )
        found: dict[str, dict[str, Any]] = {}
        for span in spans:
            start, end = features.context.characters(span.first, span.last, context)
            text = context[start:end]
            if text not in found:
                found[text] = {"text": text, "score": span.score, "start": start, "end": end}
                if len(found) == most:
                    break
        return list(found.values())

    def decisions(self, target: Any, prediction: Prediction) -> Decisions:
        """Returns the one decision of the row; see `Decisions.of_row`."""
        return Decisions.of_row(target, prediction)

    def scorer(self) -> QuestionScorer:
        """Returns a scorer by the rules of SQuAD 2.0, or of 1.1 where it always answers."""
        return QuestionScorer(AnswerScores(may_lack=self.may_lack))

    def write(
        self,
        path: Path,
        answered: Iterable[tuple[Question, Prediction]],
        id_column: str | None,
        *,
        excel_safe: bool = False,
    ) -> int:
        """Writes the official form for `.json`, else CSV or JSON lines.

        The official form is one object of texts by id. Beside `name.json` stand `name.nbest.json`,
        the likeliest answers of each question, and, where the task may answer with none,
        `name.null_odds.json`, what the official program searches its threshold in.
        """
        suffix = path.suffix.lower()
        if suffix == ".csv":
            rows = (Answered(example.id, found.answer, {}) for example, found in answered)
            return write_predictions(path, rows, id_column or "id", excel_safe=excel_safe)
        if suffix == ".jsonl":
            return _write_lines(path, answered, id_column or "id")
        return self._write_official(path, answered)

    def _write_official(self, path: Path, answered: Iterable[tuple[Question, Prediction]]) -> int:
        count = 0
        with ExitStack() as stack:
            texts = stack.enter_context(new_file(path, "w"))
            n_best = stack.enter_context(new_file(path.with_suffix(".nbest.json"), "w"))
            odds = None
            if self.may_lack:
                odds = stack.enter_context(new_file(path.with_suffix(".null_odds.json"), "w"))
            for example, found in answered:
                _write_member(texts, count, example.id, found.answer)
                _write_member(n_best, count, example.id, found.more["n_best"])
                if odds:
                    # A context without pieces has no answer to weigh none against.
                    value = found.more.get("no_answer_odds", 0.0)
                    _write_member(odds, count, example.id, value)
                count += 1
            for file in (texts, n_best, odds):
                if file:
                    file.write("\n}\n" if count else "{}\n")
        return count


class QuestionScorer:
    """Scores of answered questions."""

    def __init__(self, found: AnswerScores) -> None:
        self.found = found

    def add(self, example: Question, prediction: Prediction) -> None:
        """Takes in the answer to a question whose right answers are known."""
        more = prediction.more
        odds = more.get("no_answer_odds", 0.0)
        self.found.add(example.answers, example.context, prediction.answer, more["best_text"], odds)

    def scores(self) -> dict[str, float]:
        """Returns the official figures; see `AnswerScores.scores`."""
        return self.found.scores()


def _write_lines(
    path: Path, answered: Iterable[tuple[Question, Prediction]], id_column: str
) -> int:
    count = 0
    with new_file(path, "w") as file:
        for example, found in answered:
            told = {key: value for key, value in found.more.items() if key != "best_text"}
            row = {id_column: example.id, "prediction": found.answer, **told}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_member(file: IO[str], count: int, key: str, value: Any) -> None:
    """Writes the next member of an object that is too large to be held."""
    file.write(",\n " if count else "{\n ")
    file.write(f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}")
