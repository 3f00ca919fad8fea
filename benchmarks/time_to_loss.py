"""Held-out loss over the seconds of training, of several sets of settings, on the same masks.

    python benchmarks/time_to_loss.py SHARDS --sets sets.toml --budget 40m --out curves

where `sets.toml` has a table of `bertsmith pretrain`'s settings for each name:

    [paper]
    size = "L2-H128"

    [modern]
    recipe = "modern"
    size = "L2-H128"

Each set is a run of the command itself, one after the other, with the thread settings that it was
given. Every so many seconds it is asked for a checkpoint, and no loss is measured while it trains.
Afterwards all checkpoints are measured on the same held-out pieces, all hidden: `mlm_loss` on the
paper's pairs of texts, `packed_mlm_loss` on packed documents. So evaluations do not count in the
seconds of any side, and saving counts in those of all. What was done is not done again.

OUT/NAME/          the run        OUT/NAME.jsonl   a row for each checkpoint
OUT/curves.svg     all curves     printed at last: when each reaches what the first set reached
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bertsmith.config import ExamplesConfig, seconds_of
from bertsmith.data.packing import PackedBatch
from bertsmith.data.shards import open_corpus
from bertsmith.errors import CheckpointError
from bertsmith.folder import load_model
from bertsmith.recipes.pretraining.data import held_out_batches, unigram_loss
from bertsmith.report.charts import Series, line_file
from bertsmith.train.loop import evaluate
from bertsmith.train.run_folder import read_metrics
from bertsmith.train.sealed import verify_sealed

TOKENS_PER_BATCH = 4096
NEVER = 10**9  # steps
KINDS = {  # of held-out examples: what a figure's name begins with, and the examples
    "": ExamplesConfig(),
    "packed_": ExamplesConfig(layout="packed", sentence_task="none"),
}
Row = dict[str, Any]


def main() -> None:
    arguments = parsed()
    sets = tomllib.loads(arguments.sets.read_text(encoding="utf-8"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[Row]] = {}
    for name, settings in sets.items():
        table = arguments.out / f"{name}.jsonl"
        if not table.exists():
            folder = arguments.out / name
            train(arguments, folder, {"budget": arguments.budget, **settings})
            rows = list(measured(arguments, folder))
            table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        curves[name] = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    draw(curves, arguments.out / "curves.svg")
    report(curves, arguments.at)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shards", type=Path, help="folder that `prepare` wrote, with held-out text")
    parser.add_argument("--sets", type=Path, required=True, help="TOML file, a table for each run")
    parser.add_argument("--budget", default="40m", help="of each run, unless its table has one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", default="60s", help="time between two points of a curve")
    parser.add_argument("--at", help="time of the first set whose loss is aimed at; by default all")
    parser.add_argument("--examples", type=int, default=1024, help="held-out ones of each kind")
    return parser.parse_args()


# ---------------------------------------------------------------------------------- training


def train(arguments: argparse.Namespace, folder: Path, settings: Row) -> None:
    """Runs `bertsmith pretrain`, or goes on with it, asking for checkpoints by its signal."""
    wanted = {
        **settings,
        "checkpoint_every": NEVER,
        "keep_checkpoints": NEVER,
        "evaluate_every": NEVER,
    }
    path = folder.with_name(f"{folder.name}.settings.json")
    path.write_text(json.dumps(wanted), encoding="utf-8")
    words = ["pretrain", str(arguments.shards), "--config", str(path), "--out", str(folder)]
    resume = ["--resume"] if folder.exists() else []
    print(f"{folder.name}: {settings}", file=sys.stderr)
    metrics, started = folder / "metrics.jsonl", time.time()
    with subprocess.Popen([sys.executable, "-m", "bertsmith", *words, *resume]) as run:
        # Until the run has written its first row it does not listen, and a signal would end it.
        while run.poll() is None and not (metrics.exists() and metrics.stat().st_mtime > started):
            time.sleep(0.2)
        while True:
            try:
                run.wait(seconds_of(arguments.every, "every"))
                break
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGUSR1)
    if run.returncode:
        sys.exit(f"{folder.name} ended with status {run.returncode}; start this again to go on")


# --------------------------------------------------------------------------------- measuring


def measured(arguments: argparse.Namespace, folder: Path) -> Iterable[Row]:
    """Yields the figures of every checkpoint of a run, in the order of its steps."""
    loaded = load_model(folder / "model")
    corpus = open_corpus(arguments.shards, verify=False)
    batches = {
        kind: held_out_batches(
            corpus,
            loaded.tokenizer.vocabulary,
            examples,
            most_examples=arguments.examples,
            tokens_per_batch=TOKENS_PER_BATCH,
        )
        for kind, examples in KINDS.items()
    }
    unigram = {kind: unigram_loss(corpus, found) for kind, found in batches.items()}
    last = [row for row in read_metrics(folder) if row["split"] == "train"][-1]
    for place in sorted((folder / "checkpoints").glob("step-*")):
        try:
            verify_sealed(place, contents=False)
        except CheckpointError:  # cut short as the run was ended; it has been trained again
            continue
        saved = json.loads((place / "state.json").read_text(encoding="utf-8"))
        state = saved["state"]
        fill(loaded.model, load_file(place / "model.safetensors"))
        row = {"name": folder.name, "step": saved["step"], "tokens": state["stream"]["tokens"]}
        # The last one is saved after the run's own evaluation, which is not training.
        seconds = last["seconds"] if saved["step"] == last["step"] else state["seconds"]
        row["seconds"] = round(seconds, 3)
        for kind, found in batches.items():
            figures = evaluate(loaded.model, (tensors_of(batch) for batch in found))
            for name in ("mlm_loss", "mlm_accuracy"):
                row[kind + name] = round(figures[name], 5)
            row[kind + "unigram_loss"] = round(unigram[kind], 5)
        print(json.dumps(row), file=sys.stderr)
        yield row


def fill(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Puts the weights of a checkpoint into a model of the same shape."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def tensors_of(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """Returns a batch with labels for a next-sentence head, which is not looked at."""
    labels = batch.next_labels
    if labels is None:
        labels = torch.zeros(batch.num_sequences, dtype=torch.int64)
    return replace(batch, next_labels=labels).tensors()


# --------------------------------------------------------------------------------- telling


def draw(curves: dict[str, list[Row]], path: Path) -> None:
    series = [
        Series(name, [(row["seconds"] / 60, row["mlm_loss"]) for row in rows], has_marks=True)
        for name, rows in curves.items()
    ]
    unigram = next(iter(curves.values()))[-1]["unigram_loss"]
    ends = (0.0, max(point[0] for one in series for point in one.points))
    series.append(Series("piece frequencies alone", [(end, unigram) for end in ends]))
    title = "Held-out masked pieces: loss (nats)"
    path.write_text(line_file(title, series, x_label="minutes of training"), encoding="utf-8")


def report(curves: dict[str, list[Row]], at: str | None) -> None:
    """Prints when each set reaches the loss of the first one, its last or that at a time."""
    name, first = next(iter(curves.items()))
    seconds = first[-1]["seconds"] if at is None else seconds_of(at, "at")
    result: dict[str, Any] = {"aim": name, "aim_seconds": round(seconds, 1)}
    for figure in ("mlm_loss", "packed_mlm_loss"):
        aim = loss_at(first, seconds, figure)
        result[figure] = round(aim, 4)
        result[f"seconds_to_{figure}"] = {
            other: seconds_to(rows, aim, figure) for other, rows in curves.items()
        }
    print(json.dumps(result, indent=1))


def loss_at(rows: Sequence[Row], seconds: float, figure: str) -> float:
    """Returns the loss at a time, on the line between the two points around it."""
    before = after = rows[0]
    for row in rows:
        after = row
        if row["seconds"] >= seconds:
            break
        before = row
    width = after["seconds"] - before["seconds"]
    share = min(1.0, max(0.0, (seconds - before["seconds"]) / width)) if width else 0.0
    return float(before[figure] + share * (after[figure] - before[figure]))


def seconds_to(rows: Sequence[Row], aim: float, figure: str) -> float | None:
    """Returns when a curve first comes down to a loss, or None where it never does."""
    before: Row | None = None
    for row in rows:
        if row[figure] <= aim:
            if before is None or before[figure] == row[figure]:
                return float(row["seconds"])
            share = (before[figure] - aim) / (before[figure] - row[figure])
            gone = row["seconds"] - before["seconds"]
            return round(float(before["seconds"] + share * gone), 1)
        before = row
    return None


if __name__ == "__main__":
    main()
