"""Pre-training on two ranks: as one would, and whatever befalls either of them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.pretraining.rank_runs import (
    PROGRAM,
    SECONDS,
    arguments,
    run_ranks,
    start_ranks,
    torchrun,
)
from tests.recipes.toy_runs import STEPS, as_killed_after, metrics_of, settings_with, weights_of
from tests.recipes.toy_text import write_text

from bertsmith.folder import load_model
from bertsmith.recipes.pretraining.pretrain import pretrain

EXACT = {"dropout": 0.0}  # each rank has dropout masks of its own, so without them


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    """Returns a finished run of two ranks, with dropout."""
    out = tmp_path_factory.mktemp("ranks") / "run"
    assert run_ranks(arguments([toy_corpus], out)).statuses == [0, 0]
    return out


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    """Returns a finished run of one rank, without dropout."""
    out = tmp_path_factory.mktemp("alone") / "run"
    pretrain([str(toy_corpus)], out, settings_with(**EXACT))
    return out


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Losses to a relative 1e-5, as sums in another order round; the same examples to the token."""
    for our, their in zip(measured(ours), measured(theirs), strict=True):
        assert {name: our[name] for name in our if type(our[name]) is not float} == {
            name: their[name] for name in their if type(their[name]) is not float
        }
        for name in our:
            if type(our[name]) is float:
                assert our[name] == pytest.approx(their[name], rel=1e-5), (our["step"], name)


def measured(run: Path) -> list[dict[str, Any]]:
    return [row for row in metrics_of(run) if row["split"] in ("train", "held_out")]


def tensors_of(run: Path, step: int = STEPS, file: str = "model") -> dict[str, Any]:
    return load_file(run / f"checkpoints/step-{step:08d}/{file}.safetensors")


# ---------------------------------------------------------------------------------- equal runs


@pytest.mark.parametrize("flags", [[], ["--shard-model"]], ids=["copies", "shards"])
def test_two_ranks_train_as_one(
    tmp_path: Path, by_one: Path, toy_corpus: Path, flags: list[str]
) -> None:
    out = tmp_path / "run"
    ended = run_ranks(arguments([toy_corpus], out, *flags, accumulate=2, **EXACT))
    assert ended.statuses == [0, 0], ended.said
    assert_same_run(out, by_one)
    assert json.loads(ended.results[0])["steps"] == STEPS
    assert (ended.results[1], ended.said[1]) == ("", "")
    for file in ("model", "optimizer"):
        ours, theirs = tensors_of(out, file=file), tensors_of(by_one, file=file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)
    one, two = (load_model(run / "model").model.state_dict() for run in (by_one, out))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_with_other_ranks(tmp_path: Path, by_one: Path, toy_corpus: Path) -> None:
    """One rank, then two that shard the model, then one again."""
    out = as_killed_after(by_one, 4, tmp_path / "run")
    command = arguments([toy_corpus], out, "--resume", "--shard-model", steps=STEPS, **EXACT)
    ended = run_ranks(command, fault="0:4:asked")
    assert ended.statuses == [75, 75], ended.said
    assert (out / "checkpoints/latest").read_text() == "step-00000008\n"
    pretrain([str(toy_corpus)], out, settings_with(**EXACT), resume=True)
    assert_same_run(out, by_one)


def test_dropout_masks_of_ranks_differ_from_those_of_one(by_two: Path, unbroken_run: Path) -> None:
    ours, theirs = (tensors_of(run, step=3) for run in (by_two, unbroken_run))
    assert any(not torch.allclose(ours[name], theirs[name], rtol=1e-3) for name in ours)


def test_replaced_pieces_are_drawn_by_every_rank_for_its_share(
    tmp_path: Path, toy_corpus: Path
) -> None:
    """The same examples as one rank reads; the dice differ, and with them the losses a little."""
    examples = {"objective": "rtd", "sentence_task": "none", **EXACT}
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_ranks(arguments([toy_corpus], one, **examples), count=1).statuses == [0]
    assert run_ranks(arguments([toy_corpus], two, **examples)).statuses == [0, 0]
    for our, their in zip(measured(two), measured(one), strict=True):
        assert our["tokens"] == their["tokens"]
        assert our["mlm_loss"] == pytest.approx(their["mlm_loss"], rel=0.02)
        assert our["rtd_loss"] == pytest.approx(their["rtd_loss"], rel=0.25)
    again = as_killed_after(two, 5, tmp_path / "again")
    assert run_ranks(arguments([toy_corpus], again, "--resume", **examples)).statuses == [0, 0]
    assert weights_of(again) == weights_of(two)


def test_what_the_first_rank_chooses_for_a_budget_all_train(
    tmp_path: Path, toy_corpus: Path
) -> None:
    out = tmp_path / "run"
    command = ["pretrain", str(toy_corpus), "--budget", "8s", "--out", str(out), "--json"]
    ended = run_ranks([*command, "--threads", "1", "--evaluate-examples", "8"])
    assert ended.statuses == [0, 0], ended.said
    assert "chosen after" in ended.said[0] and not ended.said[1]
    chosen = json.loads((out / "choice.json").read_text())["chosen"]
    assert chosen["tokens_per_batch"] >= 2 * 1024
    settings = json.loads((out / "settings.json").read_text())
    assert {name: settings[name] for name in chosen} == chosen
    assert json.loads(ended.results[0])["steps"] > 1
    again = run_ranks([*command, "--threads", "1", "--evaluate-examples", "8", "--resume"])
    assert again.statuses == [0, 0], again.said
    assert "keeps to what was chosen" in again.said[0]


# ---------------------------------------------------------------------------------- faults


def test_a_signal_to_one_rank_stops_all_and_resumed_they_end_alike(
    tmp_path: Path, by_two: Path, toy_corpus: Path
) -> None:
    out = tmp_path / "run"
    ended = run_ranks(arguments([toy_corpus], out), fault="1:5:asked")
    assert ended.statuses == [75, 75], ended.said
    assert "stopped by SIGTERM after step 5" in "".join(ended.said)
    assert "".join(ended.said).count("stopped by") == 1
    assert (out / "checkpoints/latest").read_text() == "step-00000005\n"
    assert run_ranks(arguments([toy_corpus], out, "--resume")).statuses == [0, 0]
    assert weights_of(out) == weights_of(by_two)
    assert metrics_of(out) == metrics_of(by_two)


def test_a_loss_that_is_not_finite_stops_all_before_the_step(
    tmp_path: Path, by_two: Path, toy_corpus: Path
) -> None:
    out = tmp_path / "run"
    ended = run_ranks(arguments([toy_corpus], out), fault="1:5:nan")
    assert ended.statuses == [71, 71], ended.said
    assert "".join(ended.said).count("step 6: mlm_loss is nan") == 1
    assert sorted(path.name for path in out.glob("checkpoints/step-*"))[-1] == "step-00000005"
    assert weights_of(out, 5) == weights_of(by_two, 5)


def test_a_save_that_fails_on_the_first_rank_fails_on_all(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    ended = run_ranks(arguments([toy_corpus], out), fault="0:5:full")
    assert ended.statuses == [74, 74], ended.said
    said = "".join(ended.said)
    assert said.count("bertsmith: ") == 1 and "File too large" in said
    assert sorted(path.name for path in out.glob("checkpoints/step-*"))[-1] == "step-00000004"


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_others_after_the_timeout(
    tmp_path: Path, toy_corpus: Path
) -> None:
    command = arguments([toy_corpus], tmp_path / "run", "--rank-timeout", "20s")
    first, frozen = start_ranks(command, fault="1:5:frozen")
    try:
        _, said = first.communicate(timeout=SECONDS)
    finally:
        frozen.kill()
        frozen.communicate()
    assert first.returncode == 69
    assert "rank 0 of 2, after step 5: another rank has gone, or has not answered for 20 s" in said


def test_killed_under_torchrun_and_restarted_the_weights_are_the_same(
    tmp_path: Path, by_two: Path, toy_corpus: Path
) -> None:
    out = tmp_path / "run"
    program = [str(PROGRAM), "1:5:killed", *arguments([toy_corpus], out, log_every=1)]
    agent = torchrun(program, "--max-restarts=1")
    result, said = agent.communicate(timeout=SECONDS)
    assert agent.returncode == 0, said
    assert json.loads(result)["steps"] == STEPS
    assert weights_of(out) == weights_of(by_two)


def test_torchrun_asked_to_stop_saves_and_raw_text_is_prepared_by_the_first_rank(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text, out = write_text(tmp_path / "text.txt", 40), tmp_path / "run"
    flags = ("--vocab", str(toy_vocabulary))
    command = arguments([text], out, *flags, steps=1_000_000, checkpoint_every=1_000_000)
    agent = torchrun(["-m", "bertsmith", *command])
    wait_until(out / "metrics.jsonl", agent)
    agent.send_signal(signal.SIGTERM)
    _, said = agent.communicate(timeout=SECONDS)
    assert "prepares the corpus" in said and said.count("stopped by SIGTERM") == 1
    last = metrics_of(out)[-1]["step"]
    saved = int((out / "checkpoints/latest").read_text().removeprefix("step-"))
    assert saved > 0 and saved >= last


def wait_until(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.slow
def test_a_run_that_the_first_rank_refuses_is_refused_once(by_two: Path, toy_corpus: Path) -> None:
    ended = run_ranks(arguments([toy_corpus], by_two))
    assert ended.statuses == [73, 73]
    assert "".join(ended.said).count("go on with that run by --resume") == 1
