"""What several encoders are worth: the average over five GLUE tasks, fine-tuned with three seeds.

    python benchmarks/encoders.py modern=RUN/model paper=OTHER/model --out scores.jsonl

CoLA (Matthews), SST-2 (accuracy, one epoch), MRPC (F1), STS-B (Pearson) and RTE (accuracy), on
their dev sets, the best epoch kept; beside them, as `random`, the shape of the first encoder with
random weights. The rate of each encoder is the one of `--rates` with the best average on the first
seed. Every run is written to `--out` as soon as it is done; a second call goes on after it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import FinetuneConfig, OptimizerConfig
from bertsmith.recipes.finetuning.finetune import finetune
from tasks import SETS, Set, done_before  # type: ignore[import-not-found]

NAMES = ("CoLA", "SST-2", "MRPC", "STS-B", "RTE")
RANDOM = "random"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("encoders", nargs="+", help="NAME=MODEL_FOLDER of each")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-4])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines of all runs, added to")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    encoders = dict(each.split("=", 1) for each in arguments.encoders)
    encoders = {RANDOM: next(iter(encoders.values())), **encoders}
    rows: list[Row] = done_before(arguments.out)
    rates: dict[str, float] = {}
    for name, folder in encoders.items():
        for rate in arguments.rates:
            complete(rows, name, Path(folder), rate, [0], arguments)
        rates[name] = max(arguments.rates, key=lambda rate: average(rows, name, rate, 0))
        complete(rows, name, Path(folder), rates[name], range(arguments.seeds), arguments)
    show(rows, rates, arguments.seeds)


def complete(
    rows: list[Row],
    name: str,
    folder: Path,
    rate: float,
    seeds: Iterable[int],
    arguments: argparse.Namespace,
) -> None:
    """Runs what is not among `rows` yet, and adds it to them and to the file."""
    for seed in seeds:
        for task in NAMES:
            key = {"encoder": name, "rate": rate, "seed": seed, "set": task}
            if any(key.items() <= row.items() for row in rows):
                continue
            row = {**key, "score": score(SETS[task], folder, rate, seed, name, arguments)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def score(
    one: Set, model: Path, rate: float, seed: int, name: str, arguments: argparse.Namespace
) -> float:
    """Returns the dev score of one fine-tuning."""
    one = replace(one, train=str(arguments.data / one.train), dev=str(arguments.data / one.dev))
    config = FinetuneConfig(
        epochs=one.epochs,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        seed=seed,
        threads=arguments.threads,
    )
    folder = tempfile.mkdtemp()
    done = finetune(
        one.task,
        Path(one.train),
        model,
        Path(folder) / "run",
        config,
        OptimizerConfig(learning_rate=rate),
        one.columns,
        one.options,
        dev=Path(one.dev),
        random_weights=name == RANDOM,
    )
    shutil.rmtree(folder)
    return float(done["scores"][one.metric])


def average(rows: list[Row], name: str, rate: float, seed: int) -> float:
    """Returns the mean of an encoder's scores on all tasks."""
    key = {"encoder": name, "rate": rate, "seed": seed}
    return statistics.fmean(row["score"] for row in rows if key.items() <= row.items())


def show(rows: list[Row], rates: dict[str, float], seeds: int) -> None:
    """Prints for each encoder its mean score on each task, and the averages of its seeds."""
    print(f"{'encoder':16} {'rate':>7}" + "".join(f"{task:>8}" for task in NAMES) + "  averages")
    for name, rate in rates.items():
        found = [row for row in rows if (row["encoder"], row["rate"]) == (name, rate)]
        means = [
            statistics.fmean(row["score"] for row in found if row["set"] == task) for task in NAMES
        ]
        averages = [average(rows, name, rate, seed) for seed in range(seeds)]
        print(
            f"{name:16} {rate:7.0e}"
            + "".join(f"{mean:8.4f}" for mean in means)
            + "  "
            + " ".join(f"{one:.4f}" for one in averages)
            + f"  mean {statistics.fmean(averages):.4f}"
        )


if __name__ == "__main__":
    main()
