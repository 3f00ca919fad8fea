"""Several runs side by side: seeds, folds, what is kept of them, and going on after a stop."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.recipes.finetuning.test_finetune import FAST, opinions, write_encoder, write_rows
from tests.recipes.toy_runs import environment
from tests.report.reading import Page, is_inert, read_page

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.errors import BertsmithError, ConfigError, DataError, FolderInUseError
from bertsmith.folder import load_model
from bertsmith.predict import load
from bertsmith.predictions import predict_file
from bertsmith.progress import duration
from bertsmith.recipes.finetuning.crossval import crossval
from bertsmith.recipes.finetuning.joint_report import Shown, write_joint_report
from bertsmith.recipes.finetuning.rows import Fold, split_fold
from bertsmith.recipes.finetuning.trials import (
    Trial,
    finetune_several,
    over_the_papers_grid,
    summarize,
    with_seeds,
)
from bertsmith.report.page import readable
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.labelled import Example

CONFIG = FinetuneConfig(epochs=1, batch_size=16, max_length=24, threads=1, restarts=0)


def trial(folder: Path, count: int = 120, **changes: Any) -> Trial:
    encoder = write_encoder(folder / "encoder")
    rows = write_rows(folder / "train.csv", opinions(count, 1))
    fields: dict[str, Any] = {
        "name": "",
        "task": "classify",
        "train": rows,
        "model": encoder,
        "config": CONFIG,
        "optimizer": FAST,
        "columns": ColumnsConfig(),
        "options": TaskConfig(),
    }
    return Trial(**(fields | changes))


def test_the_papers_grid_is_that_of_appendix_a_3(tmp_path: Path) -> None:
    found = over_the_papers_grid(trial(tmp_path))
    assert len(found) == len({one.name for one in found}) == 18
    assert {one.config.batch_size for one in found} == {16, 32}
    assert {one.optimizer.learning_rate for one in found} == {5e-5, 3e-5, 2e-5}
    assert {one.config.epochs for one in found} == {2, 3, 4}


def test_seeds_follow_the_first(tmp_path: Path) -> None:
    found = with_seeds(trial(tmp_path, config=FinetuneConfig(seed=5)), 3)
    assert [one.config.seed for one in found] == [5, 6, 7]
    assert [one.name for one in found] == ["seed-5", "seed-6", "seed-7"]


def test_several_seeds_give_mean_deviation_and_the_best_model(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    found = finetune_several(trial(tmp_path), out, seeds=2)
    each = [run["scores"]["accuracy"] for run in found["runs"].values()]
    assert len(each) == 2
    assert found["scores"]["accuracy"] == statistics.fmean(each)
    assert found["deviations"]["accuracy"] == statistics.stdev(each)
    assert found["runs"][found["winner"]]["scores"]["accuracy"] == max(each)
    assert load_model(out / "best").facts["scores"]["accuracy"] == max(each)
    page = read_page(Path(found["report"]).read_text("utf-8"))
    assert is_inert(page)
    assert links_in(page) == ["./seed-0/report.html", "./seed-1/report.html"]
    assert all((out / link).is_file() for link in links_in(page))
    assert page.headings == ["Mean", "From run to run", "Every run"]
    assert page.texts.count("winner") == 1 and page.count("svg") == 1
    with pytest.raises(FolderInUseError, match="go on with it by --resume"):
        finetune_several(trial(tmp_path), out, seeds=2)
    (out / "seed-1/result.json").unlink()  # as a run that was stopped
    again = finetune_several(trial(tmp_path), out, seeds=2, resume=True)
    assert again["scores"] == found["scores"]
    assert (
        json.loads((out / "seed-0/result.json").read_text())["scores"]
        == (found["runs"]["seed-0"]["scores"])
    )


def test_cross_validation_predicts_every_row_once_and_writes_a_submission(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    with test.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        rows = opinions(20, 9)
        writer.writerows([f"t{number}", row["text"]] for number, row in enumerate(rows))
    out, submission = tmp_path / "folds", tmp_path / "submission.csv"
    config = FinetuneConfig(epochs=8, batch_size=8, max_length=24, threads=1)
    found = crossval(
        trial(tmp_path, 300, config=config), out, folds=2, test=test, submission=submission
    )
    assert set(found["runs"]) == {"fold-0", "fold-1"}
    page = read_page((out / "report.html").read_text("utf-8"))
    assert page.headings[:2] == ["Mean over the folds", "All rows together"]
    assert links_in(page) == ["./fold-0/report.html", "./fold-1/report.html"]
    assert readable(found["out_of_fold"]["accuracy"]) in page.texts
    with (out / "out_of_fold.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert len({row["row"] for row in predicted}) == len(predicted) == 300
    assert found["out_of_fold"]["accuracy"] > 0.9
    with submission.open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert [row["id"] for row in answers] == [f"t{number}" for number in range(20)]
    labels = [row["label"] for row in answers]
    hits = sum(label == row["label"] for label, row in zip(labels, rows, strict=True))
    assert hits >= 18


def test_each_fold_tunes_its_threshold_and_their_mean_judges_the_test_rows(tmp_path: Path) -> None:
    """Three rows in ten are praised, and their words tell nothing of it."""
    rng = Random(0)
    rows = opinions(120, 1)
    for row in rows:
        row["label"] = "praise" if rng.random() < 0.3 else "blame"
    given = trial(tmp_path, options=TaskConfig(tune_thresholds=True))
    write_rows(given.train, rows)
    test = write_rows(
        tmp_path / "test.csv", [{k: row[k] for k in ("id", "text")} for row in opinions(40, 9)]
    )
    out, submission = tmp_path / "folds", tmp_path / "submission.csv"
    crossval(given, out, folds=2, test=test, submission=submission)
    thresholds = []
    shares: list[list[float]] = []
    for number in range(2):
        model = load(out / f"fold-{number}/best")
        thresholds += model.facts["thresholds"]
        predict_file(model, test, tmp_path / "one.csv")
        with (tmp_path / "one.csv").open(newline="") as file:
            shares.append([float(row["probability_praise"]) for row in csv.DictReader(file)])
    assert len(thresholds) == 2 and thresholds != [0.5, 0.5]
    with (out / "out_of_fold.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            is_praise = float(row["praise"]) > thresholds[int(row["fold"])]
            assert row["prediction"] == ("praise" if is_praise else "blame")
    with submission.open(newline="") as file:
        answers = [row["label"] for row in csv.DictReader(file)]
    bar = statistics.fmean(thresholds)
    means = [statistics.fmean(each) for each in zip(*shares, strict=True)]
    assert answers == ["praise" if mean > bar else "blame" for mean in means]


def finished(score: float, **settings: float) -> Shown:
    """Returns a run as it is told of; the second epoch of each is the best."""
    whole = {"fold": 0, "learning_rate": 1e-4, "batch_size": 16, "epochs": 2, "seed": 0} | settings
    result = {"scores": {"accuracy": score, "f1": 0.5}, "chosen_by": "accuracy", "best_epoch": 2}
    result |= {"seconds": 60.0, "restarts": int(score < 0.5), "collapsed": score < 0.2}
    return Shown("-".join(f"{key}-{value:g}" for key, value in settings.items()), whole, result)


def test_settings_of_a_search_are_shown_by_their_means_over_the_seeds(tmp_path: Path) -> None:
    scores = {(5e-5, 0): 0.9, (5e-5, 1): 0.8, (3e-5, 0): 0.1, (3e-5, 1): 0.4}
    runs = [finished(score, learning_rate=r, seed=s) for (r, s), score in scores.items()]
    best = {"scores": {"accuracy": 0.85, "f1": 0.5}, "deviations": {"accuracy": 0.0707, "f1": 0}}
    path = write_joint_report(tmp_path, "search", runs, best, runs[0].name)
    page = read_page(path.read_text("utf-8"))
    assert page.headings == [
        "Mean of the best setting",
        "Settings",
        "From run to run",
        "Every run",
    ]
    assert "0.85 ± 0.071" in page.texts
    place = page.texts.index("learning_rate")
    assert page.texts[place : place + 12] == [
        *("learning_rate", "runs", "mean accuracy", "deviation"),
        *("5e-05", "2", "0.85", "0.07071"),
        *("3e-05", "2", "0.25", "0.2121"),
    ]
    place = page.texts.index("learning_rate-5e-05-seed-0")
    assert page.texts[place + 1] == "winner"
    assert page.texts.count("no") == 2
    assert page.texts.count("once") == 1
    assert page.texts.count("once; has learnt nothing") == 1
    assert f"4 runs, compared by accuracy on the dev rows; together they took {duration(240)}" in (
        page.text
    )


@pytest.mark.parametrize("to_all", [False, True])
def test_asked_to_stop_all_runs_save_themselves_and_the_same_command_goes_on(
    tmp_path: Path, to_all: bool
) -> None:
    """The signal comes to the command alone, or as from a terminal to all that it has started."""
    one = trial(tmp_path, 400, config=replace(CONFIG, epochs=400))
    flags = ["--model", str(one.model), "--text-column", "text", "--label-column", "label"]
    flags += ["--epochs", "400", "--batch-size", "16", "--max-length", "24", "--threads", "1"]
    command = [sys.executable, "-m", "bertsmith", "finetune", "classify", str(one.train), *flags]
    command += ["--seeds", "2", "--out", str(tmp_path / "runs")]
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        metrics = [tmp_path / f"runs/seed-{seed}/metrics.jsonl" for seed in (0, 1)]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not any(path.exists() for path in metrics):
            time.sleep(0.05)
        (os.killpg if to_all else os.kill)(child.pid, signal.SIGTERM)
        assert child.stderr is not None
        said = child.stderr.read()  # to its end: until nobody is left that could write to it
    assert child.returncode == 75, said
    assert "stopped and saved; go on with --resume" in said
    begun = [path.parent for path in metrics if path.exists()]
    assert begun and all((run / "checkpoints/latest").is_file() for run in begun)


def test_scores_that_a_run_lacks_have_no_mean() -> None:
    one, other = finished(0.5).result, finished(0.6).result
    other = {**other, "scores": {"accuracy": 0.6}}
    whole = [{**found, "tokens_per_second": 1.0} for found in (one, other)]
    assert summarize(whole, ["one", "other"])["scores"] == {"accuracy": pytest.approx(0.55)}


def links_in(page: Page) -> list[str]:
    return [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]


def examples(labels: str, groups: str = "") -> list[Example]:
    return [
        Example(f"f:{place}", "text", None, label, groups[place] if groups else None)
        for place, label in enumerate(labels)
    ]


def test_folds_hold_every_row_once_and_the_same_mixture() -> None:
    rows = examples("a" * 30 + "b" * 12)
    Random(0).shuffle(rows)
    task = Classify(("a", "b"))
    inside = [split_fold(task, rows, Fold(number, 3), seed=4)[1] for number in range(3)]
    assert sorted(row.where for part in inside for row in part) == sorted(r.where for r in rows)
    for part in inside:
        assert Counter(row.label for row in part) == {"a": 10, "b": 4}
    again = [split_fold(task, rows, Fold(number, 3), seed=4)[1] for number in range(3)]
    assert again == inside


def test_rows_of_a_group_stay_together() -> None:
    rows = examples("ab" * 12, "ppqqrrssttuuvvwwxxyyzz00")
    task = Classify(("a", "b"))
    for number in range(3):
        rest, inside = split_fold(task, rows, Fold(number, 3, by_group=True), seed=0)
        assert inside and not {row.id for row in rest} & {row.id for row in inside}


def test_too_few_rows_for_the_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 rows cannot be split into 5 folds; .* --folds"):
        split_fold(Classify(("a", "b")), examples("ab"), Fold(0, 5), seed=0)
    with pytest.raises(ConfigError, match="test and submission belong together"):
        crossval(trial(tmp_path), tmp_path / "out", test=tmp_path / "test.csv")


def test_a_failing_run_says_why(tmp_path: Path) -> None:
    broken = trial(tmp_path, optimizer=OptimizerConfig(learning_rate=1e30))
    with pytest.raises(Exception, match="loss is|gradient_norm is"):
        finetune_several(broken, tmp_path / "runs", seeds=2)


def test_what_is_given_stays_out_of_the_papers_grid(tmp_path: Path) -> None:
    given = trial(tmp_path)
    found = over_the_papers_grid(given, kept={"batch_size", "epochs"})
    assert [one.optimizer.learning_rate for one in found] == [5e-5, 3e-5, 2e-5]
    assert {(one.config.batch_size, one.config.epochs) for one in found} == {(16, 1)}
    (only,) = over_the_papers_grid(given, kept={"batch_size", "epochs", "learning_rate"})
    assert (only.config, only.optimizer) == (given.config, given.optimizer)


def test_given_threads_are_those_of_every_run(tmp_path: Path) -> None:
    config = replace(CONFIG, threads=1)
    out = tmp_path / "runs"
    finetune_several(trial(tmp_path, 40, config=config), out, seeds=2)
    for number in range(2):
        assert json.loads((out / f"seed-{number}/settings.json").read_text())["threads"] == 1


@pytest.mark.parametrize("seeds", [0, -3])
def test_no_runs_at_all_are_refused(tmp_path: Path, seeds: int) -> None:
    with pytest.raises(ConfigError, match=f"seeds is {seeds}; expected 1 or more"):
        finetune_several(trial(tmp_path), tmp_path / "runs", seeds=seeds)


@pytest.mark.parametrize("folds", [1, 0, -1])
def test_fewer_than_two_folds_are_refused(tmp_path: Path, folds: int) -> None:
    with pytest.raises(ConfigError, match=f"folds is {folds}; expected 2 or more"):
        crossval(trial(tmp_path), tmp_path / "runs", folds=folds)


def test_out_of_fold_has_ids_labels_and_the_order_of_the_file(tmp_path: Path) -> None:
    given = trial(tmp_path, 40)
    rows = opinions(40, 1)
    for number, row in enumerate(rows):
        row["writer"] = f"writer-{number % 8}"
    write_rows(given.train, rows)
    out = tmp_path / "folds"
    crossval(given, out, folds=2, group_column="writer")
    with (out / "out_of_fold.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == [str(row["id"]) for row in rows]
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    assert [row["row"].rpartition(":")[2] for row in found] == [str(n + 2) for n in range(40)]
    folds_of = {(row["fold"], mate["writer"]) for row, mate in zip(found, rows, strict=True)}
    assert len(folds_of) == 8  # each writer's rows are in one fold
    assert {row["fold"] for row in found} == {"0", "1"}


def bad_requests(folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Returns what is wrong with what is asked for besides training, and what is said of it."""
    test = write_rows(folder / "test.csv", opinions(4, 9))
    headless = folder / "none.csv"
    headless.write_text("a,b\n1,2\n")
    sample = folder / "sample.csv"
    sample.write_text("id,label\nother,blame\n")
    twice = write_rows(folder / "twice.csv", opinions(2, 9) * 2)
    both = {"test": test, "submission": folder / "out.csv"}
    return {
        "no test file": (both | {"test": folder / "no.csv"}, "no.csv: there is no such file"),
        "no text": (both | {"test": headless}, "none.csv.*--text-column"),
        "suffix": (both | {"submission": folder / "out.parquet"}, "ends in .csv"),
        "sample of others": (both | {"like": sample}, "ids do not stand in"),
        "id twice": (both | {"test": twice}, "stands twice"),
        "group": ({"group_column": "wrighter"}, "train.csv: group_column is 'wrighter'; .*columns"),
    }


@pytest.mark.parametrize(
    "name", ["no test file", "no text", "suffix", "sample of others", "id twice", "group"]
)
def test_what_is_wrong_besides_training_is_said_before_it(tmp_path: Path, name: str) -> None:
    flags, message = bad_requests(tmp_path)[name]
    with pytest.raises(BertsmithError, match=message):
        crossval(trial(tmp_path), tmp_path / "runs", folds=2, **flags)
    assert not (tmp_path / "runs").exists()
