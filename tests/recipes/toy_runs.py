"""The pre-training run that the tests stop, kill, damage and resume, and how they look into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertsmith.config import (
    CorpusConfig,
    ExamplesConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
)
from bertsmith.recipes.pretraining.settings import PretrainSettings

STEPS = 12
TIMES = ("seconds", "step_seconds", "ending_seconds", "tokens_per_second", "time")
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
