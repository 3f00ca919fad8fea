"""Pre-training from text to model folder, stopped and resumed in every way."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.toy_text import write_text, write_vocabulary

from bertsmith.config import (
    CorpusConfig,
    ExamplesConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    bert_of_size,
)
from bertsmith.data.batches import Position, pack
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.shards import open_corpus
from bertsmith.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FolderInUseError,
    NotFiniteError,
)
from bertsmith.folder import load_model, read_tokenizer
from bertsmith.model.heads import BertForPreTraining
from bertsmith.recipes.evaluate import evaluate
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretrain import PretrainSettings, paper_optimizer, pretrain
from bertsmith.recipes.pretraining_data import (
    StepStream,
    StreamState,
    held_out_batches,
    phases,
    unigram_loss,
)
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps
from bertsmith.train.run_folder import open_run_folder

STEPS = 12
TIMES = ("seconds", "step_seconds", "tokens_per_second", "time")
PREPARE = PrepareConfig(workers=1, held_out=0.15, shard_pieces=1000)
RUN = PretrainConfig(
    size="L1-H16",
    steps=STEPS,
    tokens_per_batch=240,
    long_sequence_length=40,
    long_sequence_share=0.25,
    checkpoint_every=1,
    keep_checkpoints=100,
    evaluate_every=4,
    evaluate_examples=8,
    log_every=3,
    threads=1,
)
SETTINGS = PretrainSettings(
    run=RUN,
    examples=ExamplesConfig(sequence_length=20),
    optimizer=OptimizerConfig(learning_rate=0.01, warmup=0.2, bias_correction=False),
    corpus=CorpusConfig(),
    prepare=PREPARE,
)


def settings_with(**changes: Any) -> PretrainSettings:
    return replace(SETTINGS, run=replace(RUN, **changes))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """Returns a corpus of about five steps' tokens, so that runs pass several epochs."""
    folder = tmp_path_factory.mktemp("corpus")
    text = write_text(folder / "text.txt", 20)
    tokenizer = read_tokenizer(vocabulary)
    prepare([str(text)], tokenizer, folder / "corpus", CorpusConfig(), PREPARE)
    return folder / "corpus"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    pretrain([str(corpus)], out, SETTINGS)
    return out


def weights_of(run: Path, step: int = STEPS) -> dict[str, str]:
    """Returns the digests of the tensors of a checkpoint."""
    place = run / "checkpoints" / f"step-{step:08d}"
    return {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "optimizer.safetensors")
    }


def metrics_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


def state_of(run: Path, step: int = STEPS) -> dict[str, Any]:
    content = json.loads((run / f"checkpoints/step-{step:08d}/state.json").read_text())
    state = {key: value for key, value in content["state"].items() if key not in TIMES}
    state["window"].pop("seconds")
    return state


def as_killed_after(run: Path, step: int, out: Path) -> Path:
    """Copies a run as SIGKILL would have left it: the metrics are ahead of the checkpoints."""
    shutil.copytree(run, out)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(out / "checkpoints" / f"step-{later:08d}")
    return out


def program(corpus: Path, out: Path, **changes: Any) -> list[str]:
    source = Path(__file__).with_name("pretrain_program.py")
    return [sys.executable, str(source), str(corpus), str(out), json.dumps(changes)]


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}


# ---------------------------------------------------------------------------------- learning


def test_one_batch_is_learnt_to_nearly_zero_loss(corpus: Path) -> None:
    vocabulary = open_corpus(corpus).read_tokenizer().vocabulary
    examples = PretrainingExamples(
        open_corpus(corpus), vocabulary, ExamplesConfig(sequence_length=20), seed=0
    )
    batch = pack([examples.example(0, index) for index in range(6)]).tensors()
    torch.manual_seed(0)
    model = BertForPreTraining(
        bert_of_size(
            "L2-H32",
            vocab_size=len(vocabulary.pieces),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    config = OptimizerConfig(learning_rate=0.005)
    rows: list[dict[str, float]] = []
    train(
        Run(model, adamw(model, config)),
        iter([[batch]] * 150),
        pace=by_steps(150),
        schedule=warmup_then_decay(config),
        max_gradient_norm=1.0,
        seed=0,
        after_step=lambda run, figures: rows.append(figures),
    )
    assert rows[0]["mlm_loss"] > 3.0
    assert rows[-1]["mlm_loss"] < 0.05
    assert rows[-1]["nsp_loss"] < 0.05


def test_a_short_run_passes_the_unigram_model(tmp_path: Path, vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", 300)
    settings = PretrainSettings(
        run=PretrainConfig(
            size="L2-H32",
            steps=250,
            tokens_per_batch=512,
            long_sequence_share=0.0,
            evaluate_every=250,
            threads=1,
        ),
        examples=ExamplesConfig(sequence_length=32),
        optimizer=OptimizerConfig(learning_rate=0.003, warmup=0.1, bias_correction=False),
        corpus=CorpusConfig(),
        prepare=PREPARE,
    )
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=vocabulary)
    assert result["split"] == "held_out"
    assert result["mlm_loss"] < 0.9 * result["unigram_loss"]


def test_the_result_tells_what_was_done_and_the_model_folder_holds_it(unbroken: Path) -> None:
    result = pretrain(
        [str(json.loads((unbroken / "settings.json").read_text())["data"][0])],
        unbroken,
        SETTINGS,
        resume=True,
    )  # a finished run says its result again
    assert list(result) == [
        *("steps", "tokens", "seconds", "tokens_per_second", "split"),
        *("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "unigram_loss", "out"),
    ]
    assert result["steps"] == STEPS
    assert 0.7 * 240 * STEPS < result["tokens"] <= 240 * STEPS
    loaded = load_model(unbroken / "model")
    assert isinstance(loaded.model, BertForPreTraining)
    assert loaded.facts["scores"]["mlm_loss"] == result["mlm_loss"]
    assert loaded.facts["settings"]["tokens_per_batch"] == 240
    assert loaded.config.max_position_embeddings == 512


def test_a_model_is_measured_on_raw_text(unbroken: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 30, seed=9)
    found = evaluate(
        unbroken / "model",
        [str(text)],
        CorpusConfig(),
        examples=ExamplesConfig(sequence_length=20),
    )
    assert found["perplexity"] == pytest.approx(math.exp(found["mlm_loss"]))
    assert found["mlm_loss"] < math.log(len(read_tokenizer(unbroken / "model").vocabulary.pieces))
    assert found["examples"] > 30
    assert found["tokens"] > 10 * found["examples"]


def test_the_unigram_loss_is_that_of_counted_pieces(corpus: Path) -> None:
    opened = open_corpus(corpus)
    vocabulary = opened.read_tokenizer().vocabulary
    batches = held_out_batches(
        opened, vocabulary, SETTINGS.examples, most_examples=10, tokens_per_batch=240
    )
    counts = Counter(range(opened.vocab_size))
    for number in range(len(opened.shards("train"))):
        counts.update(opened.open_shard("train", number).pieces.tolist())
    total = sum(counts.values())
    labels = [label for batch in batches for label in batch.tensors()["masked_labels"].tolist()]
    expected = -sum(math.log(counts[label] / total) for label in labels) / len(labels)
    assert unigram_loss(opened, batches) == pytest.approx(expected)


# ---------------------------------------------------------------------------------- phases


def test_the_last_phase_reads_long_sequences_in_batches_as_large(corpus: Path) -> None:
    opened = open_corpus(corpus)
    done = 0
    with StepStream(
        opened,
        opened.read_tokenizer().vocabulary,
        RUN,
        SETTINGS.examples,
        phase=lambda: int(done >= 5),
        state=StreamState(),
        device=torch.device("cpu"),
    ) as stream:
        longest = []
        for step in range(8):
            done = step
            (part,) = next(stream)
            longest.append(int(part["sequence_starts"].diff().max()))
            assert 240 * 0.5 < len(part["piece_ids"]) <= 240
    assert longest == [20] * 5 + [40] * 3
    assert stream.state.phase == 1
    assert stream.state.position.epoch == 0


def test_a_cap_on_predictions_grows_with_the_length() -> None:
    """The published commands have 20 predictions in 128 pieces and 80 in 512."""
    first, last = phases(PretrainConfig(), ExamplesConfig(max_predictions_per_seq=20))
    assert (first.sequence_length, first.max_predictions_per_seq) == (128, 20)
    assert (last.sequence_length, last.max_predictions_per_seq) == (512, 80)
    assert len(phases(PretrainConfig(long_sequence_share=0.0), ExamplesConfig())) == 1
    assert len(phases(PretrainConfig(), ExamplesConfig(sequence_length=512))) == 1


def test_a_batch_too_small_for_a_long_sequence_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match="tokens_per_batch is 30; expected .* sequence's 40"):
        pretrain([str(corpus)], tmp_path / "run", settings_with(tokens_per_batch=30))


def test_a_run_by_the_clock_ends_on_time_with_its_rate_at_zero(
    tmp_path: Path, corpus: Path
) -> None:
    settings = settings_with(steps=None, budget="2s", checkpoint_every=10_000, log_every=1)
    started = time.monotonic()
    result = pretrain([str(corpus)], tmp_path / "run", settings)
    assert time.monotonic() - started < 20
    rows = [row for row in metrics_of(tmp_path / "run") if row["split"] == "train"]
    assert result["seconds"] >= 2.0
    assert result["steps"] == len(rows) > 5
    assert rows[-1]["learning_rate"] < 0.1 * SETTINGS.optimizer.learning_rate
    again = pretrain([str(corpus)], tmp_path / "run", settings, resume=True)
    assert again["steps"] == result["steps"]


def test_by_default_a_run_is_one_epoch(tmp_path: Path, corpus: Path) -> None:
    pieces = open_corpus(corpus).total("train").pieces
    result = pretrain([str(corpus)], tmp_path / "run", settings_with(steps=None))
    assert result["steps"] == round(pieces / 240)


# ---------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resumed_after_any_step_a_run_ends_as_the_unbroken_one(
    tmp_path: Path, unbroken: Path, corpus: Path, step: int
) -> None:
    """The steps pass two epochs' ends and the turn to the second phase."""
    out = as_killed_after(unbroken, step, tmp_path / "run")
    pretrain([str(corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken)
    assert metrics_of(out) == metrics_of(unbroken)
    assert state_of(out) == state_of(unbroken)


def test_the_steps_pass_epochs_and_phases(unbroken: Path) -> None:
    streams = [state_of(unbroken, step)["stream"] for step in range(1, STEPS + 1)]
    places = {(stream["phase"], stream["position"]["epoch"]) for stream in streams}
    assert {(0, 0), (0, 1), (1, 0)} <= places


def test_resumed_before_its_first_checkpoint_a_run_starts_again(
    tmp_path: Path, unbroken: Path, corpus: Path
) -> None:
    out = as_killed_after(unbroken, 0, tmp_path / "run")
    pretrain([str(corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken)
    assert metrics_of(out) == metrics_of(unbroken)


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    tmp_path: Path, unbroken: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = as_killed_after(unbroken, 7, tmp_path / "run")
    damaged = out / "checkpoints/step-00000007/optimizer.safetensors"
    os.truncate(damaged, 100)
    pretrain([str(corpus)], out, SETTINGS, resume=True)
    said = capsys.readouterr().err
    assert "passed over a damaged checkpoint" in said
    assert "optimizer.safetensors: holds 100 bytes" in said
    assert "goes on from" in said and "step-00000006" in said
    assert weights_of(out) == weights_of(unbroken)


def test_where_every_checkpoint_is_damaged_the_run_does_not_start_again(
    tmp_path: Path, unbroken: Path, corpus: Path
) -> None:
    out = as_killed_after(unbroken, 2, tmp_path / "run")
    for path in out.glob("checkpoints/step-*/model.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints verifies"):
        pretrain([str(corpus)], out, SETTINGS, resume=True)


def test_accumulation_cuts_the_same_steps_into_parts(corpus: Path) -> None:
    opened = open_corpus(corpus)
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
    tmp_path: Path, unbroken: Path, corpus: Path
) -> None:
    """SIGKILL falls where it may, twice; then the run is let go on to its end."""
    out = tmp_path / "run"
    for already in (1, 5):
        child = subprocess.Popen(program(corpus, out), env=environment(), stderr=subprocess.DEVNULL)
        place = out / "checkpoints" / f"step-{already:08d}"
        deadline = time.monotonic() + 120
        while not place.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        child.kill()
        assert child.wait() in (-signal.SIGKILL, 0)
    pretrain([str(corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken)
    assert metrics_of(out) == metrics_of(unbroken)


def test_asked_to_stop_a_run_saves_says_how_to_go_on_and_exits_with_75(
    tmp_path: Path, corpus: Path
) -> None:
    out = tmp_path / "run"
    child = subprocess.Popen(
        program(corpus, out, steps=1_000_000, checkpoint_every=1_000_000, log_every=1),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate()
    assert child.returncode == 75
    assert time.monotonic() - asked < 20
    assert "stopped by SIGTERM after step" in said
    assert f"go on with: bertsmith pretrain --config {out}/settings.json --out {out}" in said
    last = metrics_of(out)[-1]["step"]
    assert (out / "checkpoints" / "latest").read_text() == f"step-{last:08d}\n"


# ---------------------------------------------------------------------------------- refusals


def test_a_run_that_diverges_stops_before_its_weights_do(tmp_path: Path, corpus: Path) -> None:
    settings = replace(
        SETTINGS, optimizer=OptimizerConfig(learning_rate=1e38, warmup=0.9, weight_decay=0.0)
    )
    with pytest.raises(NotFiniteError, match=r"step \d+: .* the weights are those of step"):
        pretrain([str(corpus)], tmp_path / "run", settings)


def test_two_runs_do_not_share_a_folder(tmp_path: Path, corpus: Path) -> None:
    with (
        open_run_folder(tmp_path / "run", resume=False),
        pytest.raises(FolderInUseError, match=rf"in use by process {os.getpid()} on"),
    ):
        pretrain([str(corpus)], tmp_path / "run", SETTINGS, resume=True)


def test_a_finished_run_is_not_written_over(unbroken: Path, corpus: Path) -> None:
    with pytest.raises(FolderInUseError, match="go on with that run by --resume"):
        pretrain([str(corpus)], unbroken, SETTINGS)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"size": "L2-H16"}, "size: 'L1-H16' -> 'L2-H16'"),
        ({"seed": 4}, "seed: 0 -> 4"),
        ({"long_sequence_share": 0.5}, "long_sequence_share: 0.25 -> 0.5"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    tmp_path: Path, unbroken: Path, corpus: Path, changes: dict[str, Any], shown: str
) -> None:
    out = as_killed_after(unbroken, 3, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"cannot go on .*{shown}"):
        pretrain([str(corpus)], out, settings_with(**changes), resume=True)


def test_a_run_may_be_made_longer_which_is_said(
    tmp_path: Path, unbroken: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = as_killed_after(unbroken, STEPS, tmp_path / "run")
    result = pretrain([str(corpus)], out, settings_with(steps=STEPS + 2), resume=True)
    assert result["steps"] == STEPS + 2
    assert "goes on with a changed setting: steps: 12 -> 14" in capsys.readouterr().err


def test_a_vocabulary_that_did_not_make_the_corpus_is_refused(tmp_path: Path, corpus: Path) -> None:
    other = write_vocabulary(tmp_path / "vocab", "zebra")
    theirs = read_tokenizer(other).fingerprint[:16]
    ours = open_corpus(corpus).tokenizer_fingerprint[:16]
    with pytest.raises(DataError, match=f"{ours}, but that of {other} is {theirs}"):
        pretrain([str(corpus)], tmp_path / "run", SETTINGS, vocab=other)


def test_a_run_is_not_resumed_on_another_corpus(
    tmp_path: Path, unbroken: Path, corpus: Path, vocabulary: Path
) -> None:
    out = as_killed_after(unbroken, 3, tmp_path / "run")
    text = write_text(tmp_path / "other.txt", 20, seed=1)
    moved = tmp_path / "moved"
    corpus.rename(moved)
    try:
        prepare([str(text)], read_tokenizer(vocabulary), corpus, CorpusConfig(), PREPARE)
        with pytest.raises(DataError, match="was trained on corpus"):
            pretrain([str(corpus)], out, SETTINGS, resume=True)
    finally:
        shutil.rmtree(corpus, ignore_errors=True)
        moved.rename(corpus)


# ---------------------------------------------------------------------------------- raw text


def test_raw_text_is_prepared_once_inside_the_run(tmp_path: Path, vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", 40)
    out = tmp_path / "run"
    pretrain([str(text)], out, settings_with(steps=3), vocab=vocabulary)
    assert open_corpus(out / "corpus").total("train").documents > 20
    text.unlink()  # what is prepared needs the text no more
    result = pretrain([str(text)], out, settings_with(steps=5), vocab=vocabulary, resume=True)
    assert result["steps"] == 5


def test_from_text_alone_a_vocabulary_is_learnt_first(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 40)
    out = tmp_path / "run"
    pretrain([str(text)], out, settings_with(steps=2, vocab_size=60))
    assert len(read_tokenizer(out / "vocab").vocabulary.pieces) <= 60
    assert read_tokenizer(out / "model").decode([5]) == read_tokenizer(out / "vocab").decode([5])
    with pytest.raises(ConfigError, match="vocab_size is given, but .* vocabulary of its own"):
        pretrain([str(out / "corpus")], tmp_path / "other", settings_with(vocab_size=60))


def test_without_text_set_aside_the_figures_are_those_of_training(
    tmp_path: Path, vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    settings = replace(settings_with(steps=3), prepare=replace(PREPARE, held_out=0.0))
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=vocabulary)
    assert result["split"] == "train"
    assert result["mlm_loss"] > 0
    assert "unigram_loss" not in result
    assert load_model(tmp_path / "run" / "model").facts["step"] == 3


def test_the_position_of_a_stream_survives_json() -> None:
    state = StreamState(phase=1, position=Position(epoch=3, index=17), tokens=99)
    assert StreamState.from_mapping(json.loads(json.dumps(state.to_mapping()))) == state


def test_the_papers_recipe_has_no_bias_correction() -> None:
    assert OptimizerConfig(**paper_optimizer(PretrainConfig())).bias_correction is False
