"""The report of a run holds what the run did, and shows texts without running them."""

from __future__ import annotations

import csv
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from tests.report.reading import Page, is_inert, read_page

from bertsmith.cli import main
from bertsmith.config import TaskConfig
from bertsmith.folder import load_model
from bertsmith.predict import load
from bertsmith.recipes.finetuning.data_check import Finding
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.report import command_of, write_report
from bertsmith.recipes.finetuning.views import EYES, mistake_in, shortened
from bertsmith.storage import read_json
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.regress import Regress
from bertsmith.tasks.task import TASKS, task_of

RESULT = {
    "scores": {"accuracy": 0.75, "f1": 0.5},
    "chosen_by": "accuracy",
    "best_epoch": 2,
    "seconds": 61.0,
    "tokens_per_second": 1234.5,
    "train_rows": 300,
    "dev_rows": 100,
    "cut_texts": 30,
}
EVIL = "<img src=x onerror=alert(1)>"


def report_of(run: Path, out: Path, task: Any, answered: list[tuple[Any, Prediction]]) -> Page:
    out.mkdir()
    for name in ("settings.json", "metrics.jsonl"):
        shutil.copy(run / name, out / name)
    findings = [Finding("warning", EVIL, "train.csv:3", "mend it")]
    return read_page(write_report(out, task, answered, findings, RESULT).read_text("utf-8"))


def test_a_run_leaves_a_report_with_all_its_sections(finished_run: Path) -> None:
    page = read_page((finished_run / "report.html").read_text("utf-8"))
    assert is_inert(page)
    assert page.headings == [
        "Scores on the dev rows",
        "How it learned",
        "Which labels are confused",
        "Label by label",
        "Do probabilities come true?",
        "The worst mistakes",
        "What was cut off",
        "What the data check found",
        "The command",
    ]
    assert page.count("svg") == 4  # loss, scores, and reliability twice
    assert "2 labels: praise (" in page.text or "2 labels: blame (" in page.text


def test_the_matrix_is_that_of_the_best_models_predictions(finished_run: Path) -> None:
    with (finished_run.parent / "dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [one.answer for one in load(finished_run / "best").predict(row["text"] for row in rows)]
    labels = ["blame", "praise"]
    expected = confusion_matrix([row["label"] for row in rows], found, labels=labels)
    page = read_page((finished_run / "report.html").read_text("utf-8"))
    told = [str(have["title"]) for tag, have in page.elements if tag == "td" and "title" in have]
    assert told == [
        f"{right} called {said}: {expected[i, j]:,}"
        for i, right in enumerate(labels)
        for j, said in enumerate(labels)
    ]


def test_the_temperature_is_remembered_and_used(finished_run: Path) -> None:
    task = task_of(load_model(finished_run / "best").facts, "best")
    assert isinstance(task, Classify)
    page = read_page((finished_run / "report.html").read_text("utf-8"))
    assert f"with temperature {task.temperature:.3g}" in page.texts


def test_the_calibration_error_is_kept_without_the_temperature_and_with_it(
    finished_run: Path,
) -> None:
    facts = load_model(finished_run / "best").facts
    dev = finished_run.parent / "dev.csv"
    with dev.open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = load(finished_run / "best").predict(row["text"] for row in rows)
    shares = np.array([[one.probabilities[name] for name in facts["labels"]] for one in answers])
    right = np.array([facts["labels"].index(row["label"]) for row in rows])
    hotter = shares ** facts["temperature"]  # takes the temperature away again
    hotter /= hotter.sum(axis=1, keepdims=True)
    found = facts["calibration"]
    assert found == pytest.approx(
        {"ece_before": calibration_error(hotter, right), "ece": calibration_error(shares, right)},
        abs=1e-4,
    )
    assert evaluate_task(finished_run / "best", dev)["ece"] == pytest.approx(found["ece"])


def calibration_error(shares: np.ndarray, right: np.ndarray) -> float:
    """Returns equation 3 of Guo et al. 2017, of 15 bins, row by row."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(shares, right, strict=True):
        said = int(row.argmax())
        bins.setdefault(math.ceil(row[said] * 15), []).append((float(row[said]), said == label))
    return sum(abs(sum(sure - hit for sure, hit in one)) for one in bins.values()) / len(right)


def test_texts_labels_and_findings_are_shown_and_not_run(
    tmp_path: Path, finished_run: Path
) -> None:
    labels = (EVIL, "b")
    answered = [
        (
            Example(f"{EVIL}.csv:{row}", f"{row} {EVIL}", None, EVIL),
            Prediction("b", {EVIL: 0.1, "b": 0.9}),
        )
        for row in range(50)
    ]
    page = report_of(finished_run, tmp_path / "run", Classify(labels), answered)
    assert is_inert(page)
    assert f"7 {EVIL}" in page.texts


def test_the_surest_mistakes_come_first_and_right_rows_do_not(
    tmp_path: Path, finished_run: Path
) -> None:
    def answered() -> Iterator[tuple[Example, Prediction]]:
        for row in range(100):
            share = 0.5 + row / 250
            label = "b" if row % 10 == 0 else "a"
            yield (
                Example(f"data/dev.csv:{row}", f"text {row}", None, label),
                Prediction("b", {"a": 1 - share, "b": share}, was_cut=row < 7),
            )

    page = report_of(finished_run, tmp_path / "run", Classify(("a", "b")), list(answered()))
    shown = [word for word in page.texts if word.startswith("dev.csv:")]
    assert shown == [f"dev.csv:{row}" for row in range(99, 0, -1) if row % 10][:30]
    assert "90 of 100 dev rows are not right; these are the surest." in page.texts
    assert "30 of 300 training rows (10.0%) and 7 of 100 dev rows" in page.text


def test_numbers_are_drawn_against_what_was_wanted(tmp_path: Path, finished_run: Path) -> None:
    answered = [
        (Example(f"dev.csv:{row}", f"text {row}", None, str(row)), Prediction(row * 1.1))
        for row in range(20)
    ]
    page = report_of(finished_run, tmp_path / "run", Regress(), answered)
    assert "Predicted and wanted" in page.headings
    assert "Which labels are confused" not in page.headings
    assert [word for word in page.texts if word.startswith("dev.csv:")][0] == "dev.csv:19"


def test_several_labels_are_judged_each_by_itself(tmp_path: Path, finished_run: Path) -> None:
    task = Classify(("blue", "red"), TaskConfig(multi_label=True), thresholds=(0.25, 0.5))
    answered = [
        (
            Example("dev.csv:2", "one", None, "blue,red"),
            Prediction(["red"], {"blue": 0.2, "red": 0.7}),
        ),
        (Example("dev.csv:3", "two", None, ""), Prediction(["blue"], {"blue": 0.9, "red": 0.1})),
        (
            Example("dev.csv:4", "three", None, "blue"),
            Prediction(["blue"], {"blue": 0.6, "red": 0.1}),
        ),
    ]
    page = report_of(finished_run, tmp_path / "run", task, answered)
    assert "Which labels are confused" not in page.headings
    assert [word for word in page.texts if word.startswith("dev.csv:")] == [
        "dev.csv:3",
        "dev.csv:2",
    ]
    assert "A label is said above a probability of: blue 0.25, red 0.5." in page.texts
    table = page.texts[page.texts.index("recall") + 2 :][:12]
    assert table == ["blue", "2", "2", "0.5", "0.5", "0.5", "red", "1", "1", "1", "1", "1"]


def test_the_command_says_what_is_not_as_by_default(finished_run: Path) -> None:
    command = command_of(read_json(finished_run / "settings.json"), finished_run)
    folder = finished_run.parent
    assert command == (
        f"bertsmith finetune classify {folder}/train.csv --model {folder}/encoder "
        f"--out {finished_run} --dev {folder}/dev.csv --epochs 4 --batch-size 16 --max-length 24 "
        f"--threads 1 --learning-rate 0.002"
    )
    settings = {"task": "classify", "train": "a b.csv", "model": "m", "bias_correction": False}
    assert command_of(settings | {"freeze_encoder": True}, Path("out")) == (
        "bertsmith finetune classify 'a b.csv' --model m --out out --freeze-encoder "
        "--no-bias-correction"
    )


def test_the_command_can_be_typed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = read_json(finished_run / "settings.json") | {"epochs": 1, "bias_correction": False}
    words = shlex.split(command_of(settings, tmp_path / "again"))
    assert main(words[1:]) == 0
    assert "report.html" in capsys.readouterr().out


# ------------------------------------------------------------------------------ views of rows


def test_the_rows_of_every_task_can_be_looked_at() -> None:
    assert TASKS.keys() <= EYES.keys()


def test_wrong_words_of_a_sentence_are_shown_with_their_tags() -> None:
    example = SimpleNamespace(
        where="dev.txt:4", words=("Paris", "in", "May"), tags=("B-LOC", "O", "O")
    )
    task: Any = SimpleNamespace(name="tag")
    more = {"probabilities": [0.9, 0.8, 0.7]}
    found = mistake_in(task, example, Prediction(("B-PER", "O", "B-MISC"), more=more))
    assert found is not None
    assert (found.text, found.size) == ("Paris in May", 0.9)
    assert (found.wanted, found.found) == ("Paris/B-LOC May/O", "Paris/B-PER May/B-MISC")
    assert mistake_in(task, example, Prediction(("B-LOC", "O", "O"), more=more)) is None


def test_a_wrong_choice_is_shown_by_the_texts_of_the_endings() -> None:
    from bertsmith.data.choices import Choice
    from bertsmith.tasks.choose import Choose

    example = Choice("dev.csv:2", "She sat", "", ("down", "up"), ("0", "1"), 0)
    wrong = Prediction("1", {"0": 0.2, "1": 0.8}, more={"index": 1, "ending": "up"})
    found = mistake_in(Choose(), example, wrong)
    assert found is not None
    assert (found.text, found.wanted, found.found) == ("She sat | down | up", "down", "up")
    right = Prediction("0", {"0": 0.8, "1": 0.2}, more={"index": 0, "ending": "down"})
    assert mistake_in(Choose(), example, right) is None


def test_an_answer_that_shares_no_word_is_a_mistake() -> None:
    from bertsmith.data.questions import Question
    from bertsmith.tasks.answer import Answer

    example = Question("dev.json", "7", "Who came?", "Ann and Bob came.", ("Ann", "Ann and Bob"))

    def said(text: str) -> Prediction:
        return Prediction(text, more={"probability": 0.6, "best_text": text})

    found = mistake_in(Answer(), example, said("came"))
    assert found is not None
    assert (found.wanted, found.found, found.size) == ("Ann / Ann and Bob", "came", 0.6)
    assert mistake_in(Answer(), example, said("Bob")) is None


@pytest.mark.parametrize("length", [10, 239, 240, 241, 2000, 1_000_000])
def test_a_shortened_text_keeps_its_ends_and_takes_no_longer_for_a_long_one(length: int) -> None:
    text = ("begin " + "word \n" * length)[: length - 4] + " end"
    found = shortened(text)
    assert len(found) <= 240
    assert found.startswith("begin"[: len(found)])
    assert found.endswith("end")
    assert "\n" not in found
