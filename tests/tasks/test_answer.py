"""Answers come from the likeliest span, or none from a threshold, and are written officially."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bertsmith.config import BertConfig, CasingConfig, ColumnsConfig, TaskConfig
from bertsmith.data.questions import Question
from bertsmith.errors import CheckpointError, ConfigError, DataError
from bertsmith.tasks.answer import Answer
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.spans import AnswerFeatures
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "who", "?", "."]
TOKENIZER = Tokenizer(
    Vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), CasingConfig()
)
CONTEXT = "The cat sat.  The DOG sat on the cat."
OPTIONS = TaskConfig(n_best=4, max_answer_length=3)


def asked(number: int = 1, *answers: str, context: str = CONTEXT) -> Question:
    starts = [context.find(text) for text in answers]
    span = (starts[0], starts[0] + len(answers[0])) if answers else None
    return Question(f"f:{number}", f"q{number}", "Who sat?", context, tuple(answers), span)


def scored(features: AnswerFeatures, none: float, spans: dict[tuple[int, int], float]) -> Tensor:
    """Returns scores under which [CLS] has `none`, and each span of pieces its own."""
    scores = torch.full((len(features.sequences[0]), 2), -20.0)  # [T, 2]
    scores[0] = none / 2
    for (first, last), score in spans.items():
        scores[features.offset + first, 0] = score / 2
        scores[features.offset + last, 1] = score / 2
    return scores


def decoded(task: Answer, none: float, spans: dict[tuple[int, int], float]) -> Prediction:
    row = task.features(asked(), TOKENIZER, 64)
    return task.decode(asked(), row, [scored(row, none, spans)])


def test_the_answer_is_cut_out_of_the_context_as_it_is_written() -> None:
    found = decoded(Answer(options=OPTIONS), 9.0, {(4, 5): 4.0})
    assert found.answer == "The DOG"
    assert (found.more["start"], found.more["end"]) == (14, 21)
    assert "no_answer_odds" not in found.more
    assert CONTEXT[14:21] == "The DOG"


def test_the_likeliest_answers_differ_in_text_and_share_all_probability() -> None:
    found = decoded(Answer(options=OPTIONS), 0.0, {(1, 1): 4.0, (5, 5): 3.0, (9, 9): 2.0})
    n_best = found.more["n_best"]
    assert [entry["text"] for entry in n_best[:2]] == ["cat", "DOG"]
    assert len({entry["text"] for entry in n_best}) == len(n_best) == 4
    assert sum(entry["probability"] for entry in n_best) == pytest.approx(1)
    assert n_best[0]["probability"] / n_best[1]["probability"] == pytest.approx(math.e)
    assert found.more["probability"] == n_best[0]["probability"]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.0, ""), (0.9, ""), (1.0, "cat"), (5.0, "cat"), (-9.0, "")]
)
def test_none_is_answered_where_its_odds_are_above_the_threshold(
    threshold: float, expected: str
) -> None:
    found = decoded(Answer(True, threshold, OPTIONS), 5.0, {(1, 1): 4.0})
    assert found.answer == expected
    assert found.more["best_text"] == "cat"
    assert found.more["no_answer_odds"] == pytest.approx(1.0)
    none = next(entry for entry in found.more["n_best"] if entry["text"] == "")
    assert (none["start"], none["end"]) == (None, None)
    if not expected:
        assert found.more["probability"] == none["probability"]


@pytest.mark.parametrize("may_lack", [False, True])
def test_a_context_without_pieces_has_no_answer(may_lack: bool) -> None:
    task, bare = Answer(may_lack, options=OPTIONS), asked(context="\u200b")
    row = task.features(bare, TOKENIZER, 64)
    found = task.decode(bare, row, [torch.zeros(len(row.sequences[0]), 2)])
    assert (found.answer, found.more["probability"]) == ("", 1.0)


# ------------------------------------------------------------------------------ what is learnt


def test_it_is_learnt_from_the_rows_whether_answers_may_lack() -> None:
    with_answers = [asked(1, "cat"), asked(2, "DOG")]
    assert Answer.learn(with_answers, OPTIONS).may_lack is False
    assert Answer.learn([*with_answers, asked(3)], OPTIONS).may_lack is True
    task = Answer.learn([*with_answers, asked(3)], OPTIONS)
    assert task.said([*with_answers, asked(3)]) == (
        "3 questions on 1 contexts, 1 of them without an answer"
    )


@pytest.mark.parametrize("rows", [[], [asked(1)]])
def test_rows_without_any_answer_are_refused(rows: list[Question]) -> None:
    with pytest.raises(DataError, match="has an answer in its context; expected answers"):
        Answer.learn(rows, OPTIONS)


@pytest.mark.parametrize(
    "option", [{"multi_label": True}, {"class_weights": "balanced"}, {"label_smoothing": 0.1}]
)
def test_options_of_classes_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is for the task classify"):
        Answer.learn([asked(1, "cat")], TaskConfig(**option))


def test_a_model_folder_remembers_all_of_it() -> None:
    task = Answer(True, 1.25, OPTIONS)
    assert Answer.from_facts(json.loads(json.dumps(task.facts()))) == task
    assert Answer.from_facts({"task": "answer"}) == Answer()  # a foreign folder
    with pytest.raises(CheckpointError, match="threshold 'high'"):
        Answer.from_facts({"threshold": "high"})


def test_the_threshold_is_the_one_of_the_best_f1() -> None:
    task = Answer(True, options=OPTIONS)
    results = []
    # Odds of none: 1 and 2 where there is an answer, 3 and 4 where there is none.
    for number, (odds, answers) in enumerate(((1, ["cat"]), (3, []), (2, ["cat"]), (4, []))):
        row = asked(number, *answers)
        features = task.features(row, TOKENIZER, 64)
        results.append((row, features, [scored(features, 4.0 + odds, {(1, 1): 4.0})]))
    tuned = task.tuned(results)
    assert 2 <= tuned.threshold < 3
    assert tuned == replace(task, threshold=tuned.threshold)
    for chosen, expected in ((task, 50.0), (tuned, 100.0)):
        scorer = chosen.scorer()
        for row, features, outputs in results:
            scorer.add(row, chosen.decode(row, features, outputs))
        assert scorer.scores()["f1"] == expected
        assert scorer.scores()["best_f1"] == 100.0
    assert task.tuned(results[:1]) == task  # no dev row without an answer
    assert Answer().tuned(iter(())) == Answer()


def test_every_window_is_trained_on_and_those_without_the_answer_point_to_cls() -> None:
    task = Answer(True, options=TaskConfig(doc_stride=4))
    rows = [asked(1, "DOG"), asked(2)]
    features = [task.features(row, TOKENIZER, 12) for row in rows]
    targets = [task.target(row, part) for row, part in zip(rows, features, strict=True)]
    assert targets[0] == ((10, 10), (6, 6), (0, 0))
    assert targets[1] == ((0, 0), (0, 0), (0, 0))
    batch = task.collate(features, targets)
    assert batch["span_starts"].tolist() == [10, 6, 0, 0, 0, 0]
    assert len(batch["sequence_starts"]) == 7
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=14,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    assert task.head(config)(**batch)["loss"].isfinite()


# ---------------------------------------------------------------------------------- files


def answered(task: Answer) -> list[tuple[Question, Prediction]]:
    return [
        (asked(1), decoded(task, 0.0, {(1, 1): 4.0})),
        (asked(2), decoded(task, 9.0, {(1, 1): 4.0})),
    ]


def test_the_official_form_is_one_object_of_texts_by_id(tmp_path: Path) -> None:
    task = Answer(True, options=OPTIONS)
    rows = answered(task)
    assert task.write(tmp_path / "dev.json", rows, None) == 2
    assert json.loads((tmp_path / "dev.json").read_text()) == {"q1": "cat", "q2": ""}
    n_best = json.loads((tmp_path / "dev.nbest.json").read_text())
    assert n_best == {row.id: found.more["n_best"] for row, found in rows}
    odds = json.loads((tmp_path / "dev.null_odds.json").read_text())
    assert odds == pytest.approx({"q1": -4.0, "q2": 5.0})


def test_where_answers_do_not_lack_there_are_no_odds(tmp_path: Path) -> None:
    task = Answer(options=OPTIONS)
    task.write(tmp_path / "dev.json", answered(task), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.json", "dev.nbest.json"]
    assert json.loads((tmp_path / "dev.json").read_text()) == {"q1": "cat", "q2": "cat"}
    assert task.write(tmp_path / "none.json", [], None) == 0
    assert json.loads((tmp_path / "none.json").read_text()) == {}


def test_json_lines_and_csv_have_a_row_for_each_question(tmp_path: Path) -> None:
    task = Answer(True, options=OPTIONS)
    task.write(tmp_path / "dev.jsonl", answered(task), None)
    first, second = map(json.loads, (tmp_path / "dev.jsonl").read_text().splitlines())
    assert (first["id"], first["prediction"], first["start"], first["end"]) == ("q1", "cat", 4, 7)
    assert (second["prediction"], second["start"]) == ("", None)
    task.write(tmp_path / "dev.csv", answered(task), "name")
    with (tmp_path / "dev.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "prediction"], ["q1", "cat"], ["q2", ""]]


def write_squad(path: Path, *answers: str | None) -> Path:
    questions = [
        {
            "id": f"q{number}",
            "question": "Who sat?",
            "answers": [] if text is None else [{"text": text, "answer_start": 0}],
        }
        for number, text in enumerate(answers)
    ]
    paragraph = {"context": CONTEXT, "qas": questions}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    return path


def test_training_leaves_questions_out_of_its_file_then_and_later(tmp_path: Path) -> None:
    train = write_squad(tmp_path / "train.json", "cat", "cow", None)
    dev = write_squad(tmp_path / "dev.json", "cow", "cat")
    columns = ColumnsConfig()
    source = Answer.read(train, columns, None, labelled=True)
    assert [row.id for row in source.examples] == ["q0", "q2"]
    assert "1 questions are left out of training" in source.said
    again = Answer.read(train, columns, source.facts, labelled=True)
    assert [row.id for row in again.examples] == ["q0", "q2"]
    assert len(list(Answer.read(dev, columns, source.facts, labelled=True).examples)) == 2
    assert len(list(Answer.read(train, columns, source.facts, labelled=False).examples)) == 3


def test_the_columns_of_a_table_are_remembered(tmp_path: Path) -> None:
    train, dev = tmp_path / "train.csv", tmp_path / "dev.csv"
    train.write_text("q,c,a\nWho?,the cat,cat\n")
    dev.write_text("q,c,a\nWho?,the dog,dog\n")
    named = ColumnsConfig(text_column="q", pair_column="c", label_column="a")
    facts = Answer.read(train, named, None, labelled=True).facts
    (row,) = Answer.read(dev, ColumnsConfig(), facts, labelled=True).examples
    assert (row.question, row.context, row.answers) == ("Who?", "the dog", ("dog",))
