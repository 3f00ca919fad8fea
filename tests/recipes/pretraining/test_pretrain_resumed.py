"""Pre-training stopped, killed, damaged and resumed; and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.toy_runs import (
    PREPARE,
    RUN,
    SETTINGS,
    STEPS,
    as_killed_after,
    environment,
    metrics_of,
    program,
    settings_with,
    state_of,
    weights_of,
)
from tests.recipes.toy_text import write_text, write_vocabulary

from bertsmith.config import (
    CorpusConfig,
    OptimizerConfig,
)
from bertsmith.data.shards import open_corpus
from bertsmith.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FolderInUseError,
    MissingInputError,
    NotFiniteError,
)
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.data import (
    StepStream,
    StreamState,
)
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.train.run_folder import open_run_folder

# ---------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resumed_after_any_step_a_run_ends_as_the_unbroken_one(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, step: int
) -> None:
    """The steps pass two epochs' ends and the turn to the second phase."""
    out = as_killed_after(unbroken_run, step, tmp_path / "run")
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken_run)
    assert metrics_of(out) == metrics_of(unbroken_run)
    assert state_of(out) == state_of(unbroken_run)


def test_the_steps_pass_epochs_and_phases(unbroken_run: Path) -> None:
    streams = [state_of(unbroken_run, step)["stream"] for step in range(1, STEPS + 1)]
    places = {(stream["phase"], stream["position"]["epoch"]) for stream in streams}
    assert {(0, 0), (0, 1), (1, 0)} <= places


def test_resumed_before_its_first_checkpoint_a_run_starts_again(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = as_killed_after(unbroken_run, 0, tmp_path / "run")
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    assert "before its first checkpoint: it starts at the beginning" in capsys.readouterr().err
    assert weights_of(out) == weights_of(unbroken_run)
    assert metrics_of(out) == metrics_of(unbroken_run)


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = as_killed_after(unbroken_run, 7, tmp_path / "run")
    damaged = out / "checkpoints/step-00000007/optimizer.safetensors"
    os.truncate(damaged, 100)
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    said = capsys.readouterr().err
    assert "passed over a damaged checkpoint" in said
    assert "optimizer.safetensors: holds 100 bytes" in said
    assert "goes on from" in said and "step-00000006" in said
    assert weights_of(out) == weights_of(unbroken_run)


def test_where_every_checkpoint_is_damaged_the_run_does_not_start_again(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path
) -> None:
    out = as_killed_after(unbroken_run, 2, tmp_path / "run")
    for path in out.glob("checkpoints/step-*/model.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints verifies"):
        pretrain([str(toy_corpus)], out, SETTINGS, resume=True)


def test_accumulation_cuts_the_same_steps_into_parts(toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    seen = {}
    for parts in (1, 3):
        with StepStream(
            opened,
            opened.read_tokenizer().vocabulary,
            replace(RUN, accumulate=parts),
            SETTINGS.examples,
            phase=lambda: 0,
            state=StreamState(),
            device=torch.device("cpu"),
        ) as stream:
            steps = [next(stream) for _ in range(4)]
            assert {len(step) for step in steps} == {parts}
            seen[parts] = [torch.cat([part["piece_ids"] for part in step]) for step in steps]
    assert all(map(torch.equal, seen[1], seen[3]))


def test_killed_at_any_moment_and_resumed_the_weights_are_the_same(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path
) -> None:
    """SIGKILL falls where it may, twice; then the run is let go on to its end."""
    out = tmp_path / "run"
    for already in (1, 5):
        child = subprocess.Popen(
            program(toy_corpus, out), env=environment(), stderr=subprocess.DEVNULL
        )
        place = out / "checkpoints" / f"step-{already:08d}"
        deadline = time.monotonic() + 120
        while not place.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        child.kill()
        assert child.wait() in (-signal.SIGKILL, 0)
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken_run)
    assert metrics_of(out) == metrics_of(unbroken_run)


def test_signals_make_a_run_save_or_save_and_stop_with_75(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    child = subprocess.Popen(
        program(toy_corpus, out, steps=1_000_000, checkpoint_every=1_000_000, log_every=1),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )

    def wait_for(path: Path) -> None:
        deadline = time.monotonic() + 120
        while not path.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    wait_for(out / "metrics.jsonl")
    child.send_signal(signal.SIGUSR1)
    wait_for(out / "checkpoints" / "latest")
    saved = (out / "checkpoints" / "latest").read_text()
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate()
    assert child.returncode == 75
    assert time.monotonic() - asked < 20
    assert "stopped by SIGTERM after step" in said
    assert f"go on with: bertsmith pretrain --config {out}/settings.json --out {out}" in said
    last = metrics_of(out)[-1]["step"]
    assert (out / "checkpoints" / "latest").read_text() == f"step-{last:08d}\n" >= saved


@pytest.mark.parametrize("at", ["learns a vocabulary", "prepares the corpus"])
def test_a_signal_before_the_first_step_stops_with_75_and_the_same_command_goes_on(
    tmp_path: Path, at: str
) -> None:
    text, out = write_text(tmp_path / "text.txt", 20_000), tmp_path / "run"
    command = program(text, out, steps=1)
    with subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stderr is not None
        said = ""
        while at not in said:
            line = child.stderr.readline()
            assert line, said
            said += line
        os.killpg(child.pid, signal.SIGTERM)  # as a terminal or a service manager does: to all
        said += child.stderr.read()
    assert child.returncode == 75, said
    assert said.count("\n") < 5 and f"{out}: stopped by SIGTERM" in said
    assert "the same command with --resume goes on" in said
    assert not (out / "corpus").exists()
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "prepares the corpus" in again.stderr
    assert (out / "model/config.json").is_file()


# ---------------------------------------------------------------------------------- refusals


def test_a_run_that_diverges_stops_before_its_weights_do(tmp_path: Path, toy_corpus: Path) -> None:
    settings = replace(
        settings_with(checkpoint_every=STEPS),
        optimizer=OptimizerConfig(learning_rate=1e38, warmup=0.9, weight_decay=0.0),
    )
    told = r"step \d+: .* the weights are those of step .* before [\d,]+ of epoch \d in phase \d"
    with pytest.raises(NotFiniteError, match=told):
        pretrain([str(toy_corpus)], tmp_path / "run", settings)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("held_out", [PREPARE.held_out, 0.0])
def test_weights_that_a_step_broke_are_written_nowhere(
    tmp_path: Path, toy_vocabulary: Path, steps: int, held_out: float
) -> None:
    """Neither at the end of a run nor at a checkpoint, with text set aside or without."""
    text, corpus = write_text(tmp_path / "text.txt", 20), tmp_path / "corpus"
    settings = replace(PREPARE, held_out=held_out)
    prepare([str(text)], read_tokenizer(toy_vocabulary), corpus, CorpusConfig(), settings)
    broken = replace(
        settings_with(steps=steps, checkpoint_every=1),
        optimizer=OptimizerConfig(learning_rate=1e38, warmup=0.0, weight_decay=0.0),
    )
    out = tmp_path / "run"
    with pytest.raises(NotFiniteError, match="after step 1 the .* nothing of them is written"):
        pretrain([str(corpus)], out, broken)
    assert not (out / "model").exists()
    assert not list(out.glob("checkpoints/step-*"))


def test_after_a_step_that_breaks_the_weights_a_run_goes_on_from_the_checkpoint_before(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path
) -> None:
    out = as_killed_after(unbroken_run, 3, tmp_path / "run")
    broken = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, learning_rate=1e38))
    with pytest.raises(NotFiniteError, match="after step 4 the"):
        pretrain([str(toy_corpus)], out, broken, resume=True)
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken_run)


def test_two_runs_do_not_share_a_folder(tmp_path: Path, toy_corpus: Path) -> None:
    with (
        open_run_folder(tmp_path / "run", resume=False),
        pytest.raises(FolderInUseError, match=rf"in use by process {os.getpid()} on"),
    ):
        pretrain([str(toy_corpus)], tmp_path / "run", SETTINGS, resume=True)


def test_a_finished_run_is_not_written_over(unbroken_run: Path, toy_corpus: Path) -> None:
    with pytest.raises(FolderInUseError, match="go on with that run by --resume"):
        pretrain([str(toy_corpus)], unbroken_run, SETTINGS)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"size": "L2-H16"}, "size: 'L1-H16' -> 'L2-H16'"),
        ({"seed": 4}, "seed: 0 -> 4"),
        ({"long_sequence_share": 0.5}, "long_sequence_share: 0.25 -> 0.5"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, changes: dict[str, Any], shown: str
) -> None:
    out = as_killed_after(unbroken_run, 3, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"cannot go on .*{shown}"):
        pretrain([str(toy_corpus)], out, settings_with(**changes), resume=True)


def test_the_same_path_in_another_spelling_is_the_same_input(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path
) -> None:
    out = as_killed_after(unbroken_run, STEPS, tmp_path / "run")
    spelt = f"{toy_corpus.parent}/./{toy_corpus.name}/"
    assert pretrain([spelt], out, SETTINGS, resume=True)["steps"] == STEPS


def test_text_that_cannot_be_read_does_not_block_the_folder(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(MissingInputError):
        pretrain([str(tmp_path / "absent.txt")], out, SETTINGS, vocab=toy_vocabulary)
    text = write_text(tmp_path / "text.txt", 20)
    assert pretrain([str(text)], out, settings_with(steps=1), vocab=toy_vocabulary)["steps"] == 1


def test_a_run_may_be_made_longer_which_is_said(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = as_killed_after(unbroken_run, STEPS, tmp_path / "run")
    result = pretrain([str(toy_corpus)], out, settings_with(steps=STEPS + 2), resume=True)
    assert result["steps"] == STEPS + 2
    assert "goes on with a changed setting: steps: 12 -> 14" in capsys.readouterr().err


def test_a_vocabulary_that_did_not_make_the_corpus_is_refused(
    tmp_path: Path, toy_corpus: Path
) -> None:
    other = write_vocabulary(tmp_path / "vocab", "zebra")
    theirs = read_tokenizer(other).fingerprint[:16]
    ours = open_corpus(toy_corpus).tokenizer_fingerprint[:16]
    with pytest.raises(DataError, match=f"{ours}, but that of {other} is {theirs}"):
        pretrain([str(toy_corpus)], tmp_path / "run", SETTINGS, vocab=other)


def test_a_run_is_not_resumed_on_another_corpus(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path, toy_vocabulary: Path
) -> None:
    out = as_killed_after(unbroken_run, 3, tmp_path / "run")
    text = write_text(tmp_path / "other.txt", 20, seed=1)
    moved = tmp_path / "moved"
    toy_corpus.rename(moved)
    try:
        prepare([str(text)], read_tokenizer(toy_vocabulary), toy_corpus, CorpusConfig(), PREPARE)
        with pytest.raises(DataError, match="was trained on corpus"):
            pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    finally:
        shutil.rmtree(toy_corpus, ignore_errors=True)
        moved.rename(toy_corpus)


def test_a_run_that_is_resumed_at_its_end_without_a_logged_row_tells_what_it_knows(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    """Its only step was counted, not logged; nothing is left to do, and no text is set aside."""
    text, corpus, out = write_text(tmp_path / "text.txt", 20), tmp_path / "corpus", tmp_path / "run"
    settings = replace(PREPARE, held_out=0.0)
    prepare([str(text)], read_tokenizer(toy_vocabulary), corpus, CorpusConfig(), settings)
    pretrain([str(corpus)], out, settings_with(log_every=100))
    as_killed_after(out, 4, tmp_path / "killed")
    found = pretrain(
        [str(corpus)], tmp_path / "killed", settings_with(steps=3, log_every=100), resume=True
    )
    assert found["steps"] == 4
    assert found["split"] == "train"
    assert found["mlm_loss"] > 0
