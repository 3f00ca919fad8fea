"""A model learns to answer from a file, and the commands use what it has learnt."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.tiny import write_tiny_encoder

from bertsmith.cli import main
from bertsmith.config import FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.errors import ConfigError
from bertsmith.predict import load
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune

FILLERS = ["the", "a", "and", "so", "on", "it", "was", "film", "plot", "very"]
NUMBERS = ["one", "two", "three", "four"]
WORDS = [*FILLERS, *NUMBERS, "which", "?"]


def write_questions(path: Path, count: int, seed: int, *, lacking: float) -> Path:
    """Writes contexts in which the only number, if there is one, is the answer."""
    rng = Random(seed)
    paragraphs = []
    for number in range(count):
        words = rng.choices(FILLERS, k=rng.randint(5, 30))
        answers = []
        if rng.random() >= lacking:
            place = rng.randrange(len(words))
            words[place] = rng.choice(NUMBERS).capitalize()
            start = len(" ".join([*words[:place], ""]))
            answers = [{"text": words[place], "answer_start": start}]
        question = {"id": f"{seed}-{number}", "question": "Which?", "answers": answers}
        paragraphs.append({"context": " ".join(words), "qas": [question]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answer")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Path:
    return write_tiny_encoder(folder / "encoder", WORDS, seed=1, num_hidden_layers=1)


@pytest.fixture(scope="module")
def dev(folder: Path) -> Path:
    return write_questions(folder / "dev.json", 100, 1, lacking=0.4)


@pytest.fixture(scope="module")
def run(folder: Path, encoder: Path, dev: Path) -> Path:
    train = write_questions(folder / "train.json", 300, 0, lacking=0.4)
    config = FinetuneConfig(epochs=3, batch_size=16, max_length=20, threads=1)
    options = TaskConfig(doc_stride=8, n_best=5)
    optimizer = OptimizerConfig(learning_rate=3e-3)
    found = finetune(
        "answer", train, encoder, folder / "run", config, optimizer, options=options, dev=dev
    )
    assert found["scores"]["f1"] > 90
    return folder / "run"


def test_scores_of_the_best_epoch_are_those_of_evaluate(run: Path, dev: Path) -> None:
    facts = json.loads((run / "best" / "bertsmith.json").read_text())
    found = evaluate_task(run / "best", dev)
    assert {name: found[name] for name in facts["scores"]} == pytest.approx(
        facts["scores"], abs=1e-6
    )
    assert found["HasAns_total"] + found["NoAns_total"] == found["rows"] == 100
    assert found["best_f1"] == pytest.approx(found["f1"])  # the threshold was tuned on these
    assert facts["threshold"] == pytest.approx(found["best_f1_thresh"], abs=1e-4)


def test_a_model_answers_out_of_the_context_it_is_given(run: Path) -> None:
    model = load(run / "best")
    context = "so it was  a film " * 3 + "THREE, and so on"
    found = model.answer("Which?", context)
    assert found["text"] == "THREE" == context[found["start"] : found["end"]]
    assert [entry["text"] for entry in found["n_best"] if entry["text"]][0] == "THREE"
    assert 0 < found["probability"] <= 1
    none = model.answer("Which?", "so it was a film")
    assert (none["text"], none["start"], none["end"]) == ("", None, None)
    with pytest.raises(ConfigError, match="call answer"):
        model.predict([("Which?", context)])


def test_the_command_writes_the_official_form(run: Path, dev: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.json"
    assert main(["predict", str(run / "best"), str(dev), "--out", str(out)]) == 0
    predictions = json.loads(out.read_text())
    questions: list[dict[str, Any]] = [
        paragraph["qas"][0] for paragraph in json.loads(dev.read_text())["data"][0]["paragraphs"]
    ]
    right = sum(
        predictions[row["id"]] == (row["answers"][0]["text"] if row["answers"] else "")
        for row in questions
    )
    assert len(predictions) == len(questions) == 100
    assert right == round(evaluate_task(run / "best", dev)["exact_match"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.json", "predictions.nbest.json", "predictions.null_odds.json",
    ]  # fmt: skip


def test_paragraphs_are_long_unless_told_otherwise(
    encoder: Path, dev: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "answer", str(dev), "--model", str(encoder), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "max_length is 384, but" in capsys.readouterr().err  # this encoder reads 64


def test_other_models_do_not_answer(encoder: Path) -> None:
    from bertsmith.errors import CheckpointError

    with pytest.raises(CheckpointError, match="holds no fine-tuned model"):
        load(encoder).answer("Which?", "the film")
