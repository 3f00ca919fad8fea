"""What a budget is spent on when no size is given, and that a run keeps to it and to its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bertsmith.cli import main
from bertsmith.recipes.pretraining import budget as pretraining_budget
from bertsmith.recipes.pretraining.budget import LAW, RUNS, suitable_batch

TOY = ["--threads", "1", "--long-sequence-share", "0", "--evaluate-examples", "8"]


@pytest.fixture(autouse=True)
def two_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining_budget, "SIZES", ("L1-H16", "L2-H16"))


@pytest.mark.parametrize(("weights", "tokens", "loss"), RUNS)
def test_the_law_goes_through_the_runs_that_it_was_fitted_to(
    weights: int, tokens: int, loss: float
) -> None:
    assert LAW.loss(weights, tokens) == pytest.approx(loss, abs=0.01)


def test_a_batch_is_the_smallest_of_which_the_optimizer_takes_a_fifth_or_less() -> None:
    sizes = (1024, 2048, 4096, 8192)
    assert suitable_batch(sizes, 1e-4, 0.001, left=1e6) == 1024
    assert suitable_batch(sizes, 1e-4, 0.1, left=1e6) == 4096  # 0.1 s beside 0.41 s
    assert suitable_batch(sizes, 1e-4, 10.0, left=1e6) == 8192


def test_a_batch_leaves_a_thousand_steps_if_any_does() -> None:
    sizes = (1024, 2048, 4096, 8192)
    assert suitable_batch(sizes, 1e-4, 0.1, left=310.0) == 2048  # of 0.305 s each
    assert suitable_batch(sizes, 1e-4, 0.1, left=1.0) == 1024


def test_without_a_size_one_is_chosen_and_a_resumed_run_keeps_to_it(
    tmp_path: Path,
    toy_corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "6s", "--out", str(out), *TOY]
    assert main(command) == 0
    assert "a rough estimate, from 3 runs" in capsys.readouterr().err
    settings = json.loads((out / "settings.json").read_text())
    choice = json.loads((out / "choice.json").read_text())
    assert choice["chosen"].keys() == {"size", "sequence_length", "tokens_per_batch"}
    assert all(settings[name] == value for name, value in choice["chosen"].items())
    assert choice["measured"][0]["tokens_per_second"] > 0

    def fail(*_: object) -> None:
        raise AssertionError("a resumed run measures nothing")

    monkeypatch.setattr(pretraining_budget, "measure", fail)
    assert main([*command, "--resume"]) == 0
    assert "keeps to what was chosen: " in capsys.readouterr().err
    assert json.loads((out / "settings.json").read_text()) == settings


def test_a_size_that_does_not_fit_the_memory_ends_the_choice_and_not_the_run(
    tmp_path: Path,
    toy_corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretraining_budget, "SIZES", ("L1-H16", "L200-H16384"))
    monkeypatch.setattr(pretraining_budget, "MOST_MEASURING", 10)
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "3s", "--out", str(out), *TOY]
    assert main(command) == 0
    assert "L200-H16384: does not fit into the memory" in capsys.readouterr().err
    assert json.loads((out / "choice.json").read_text())["chosen"]["size"] == "L1-H16"


def test_what_is_given_is_not_chosen(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "4s", "--out", str(out), *TOY]
    assert main([*command, "--tokens-per-batch", "320", "--sequence-length", "20"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["tokens_per_batch"], settings["sequence_length"]) == (320, 20)
    assert json.loads((out / "choice.json").read_text())["chosen"].keys() == {"size"}


def test_with_a_size_nothing_is_measured(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "2s", "--out", str(out), *TOY]
    assert main([*command, "--size", "L1-H16", "--tokens-per-batch", "320"]) == 0
    assert not (out / "choice.json").exists()


def test_a_budget_is_that_of_the_whole_command(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "8s", "--out", str(out), *TOY]
    started = time.monotonic()
    assert main(command) == 0
    # Torch is loaded already; a step of this size takes milliseconds, and other work is about.
    assert 6 < time.monotonic() - started < 11
