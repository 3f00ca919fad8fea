"""What pre-training is worth: one encoder fine-tuned from its weights, and from random ones.

    python benchmarks/downstream.py --model run/model

Two sets, SST-2 and disaster tweets, three seeds each from both. The epoch is chosen by rows split
off from the training set; the accuracy shown is that on rows never seen: the dev set of SST-2, and
a fixed fifth of the tweets or, with `--folds 5`, each fifth in its turn, so that every tweet is
predicted once by every seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from bertsmith.config import FinetuneConfig, OptimizerConfig
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune, usual_learning_rate

STARTS = {"pre-trained": False, "random": True}
FOLDS = 5  # parts of the tweets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder of a run")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["sst2", "tweets"])
    parser.add_argument("--rows", type=int, default=20_000, help="most training rows of a set")
    parser.add_argument("--folds", type=int, choices=range(1, FOLDS + 1), default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, help="by default the encoder's usual one")
    parser.add_argument("--dropout", type=float, default=FinetuneConfig.dropout)
    parser.add_argument("--reinit-layers", type=int, default=0, help="of the pre-trained encoder")
    arguments = parser.parse_args()
    rate = arguments.learning_rate or usual_learning_rate(arguments.model)
    results = []
    for result in measured(arguments, rate):
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
    show(results, rate)


def measured(arguments: argparse.Namespace, rate: float) -> Iterator[dict[str, Any]]:
    """Yields the scores of one run after another, the two starts of a pair side by side."""
    with tempfile.TemporaryDirectory() as folder:
        for name, seed, fold, start in product(
            arguments.sets, range(arguments.seeds), range(arguments.folds), STARTS
        ):
            if fold and name == "sst2":
                continue  # its dev set is given
            train, test = SETS[name](arguments.data, Path(folder), arguments.rows, fold)
            out = Path(folder) / f"{name}-{start}-{seed}-{fold}"
            random_weights = STARTS[start]
            config = FinetuneConfig(
                epochs=arguments.epochs,
                max_length=arguments.max_length,
                dropout=arguments.dropout,
                reinit_layers=0 if random_weights else arguments.reinit_layers,
                seed=seed,
            )
            done = finetune(
                "classify",
                train,
                arguments.model,
                out,
                config,
                OptimizerConfig(learning_rate=rate),
                random_weights=random_weights,
            )
            scores = evaluate_task(out / "best", test)
            shutil.rmtree(out)
            yield {
                "set": name,
                "start": start,
                "seed": seed,
                "fold": fold,
                **{score: scores[score] for score in ("accuracy", "f1")},
                **{fact: done[fact] for fact in ("best_epoch", "seconds", "train_rows")},
                "test_rows": scores["rows"],
            }


def sst2(data: Path, folder: Path, rows: int, fold: int) -> tuple[Path, Path]:
    """Returns the first rows of the training set, and the dev set, whatever the fold."""
    lines = (data / "glue/SST-2/train.tsv").read_bytes().split(b"\n")
    (folder / "sst2.tsv").write_bytes(b"\n".join(lines[: rows + 1]) + b"\n")
    return folder / "sst2.tsv", data / "glue/SST-2/dev.tsv"


def tweets(data: Path, folder: Path, rows: int, fold: int = 0) -> tuple[Path, Path]:
    """Returns four fifths and one fifth of the labelled tweets, the same ones for a fold."""
    with (data / "disaster-tweets/train.csv").open(encoding="utf-8", newline="") as file:
        header, *labelled = csv.reader(file)
    random.Random(0).shuffle(labelled)
    fifth = len(labelled) // FOLDS
    begin, end = fold * fifth, len(labelled) if fold == FOLDS - 1 else (fold + 1) * fifth
    rest = labelled[:begin] + labelled[end:]
    parts = {"tweets-test.csv": labelled[begin:end], "tweets.csv": rest[:rows]}
    for name, part in parts.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *part])
    return folder / "tweets.csv", folder / "tweets-test.csv"


SETS = {"sst2": sst2, "tweets": tweets}


def show(results: list[dict[str, Any]], rate: float) -> None:
    """Prints the scores of each seed, means over its folds, and by how much the one side leads."""
    print(f"{'set':8} {'start':12} {'of each seed':28} {'mean':>7}")
    for name, score in product(dict.fromkeys(row["set"] for row in results), ("accuracy", "f1")):
        found = [row for row in results if row["set"] == name]
        for start in STARTS:
            each = [
                statistics.fmean(
                    row[score] for row in found if (row["seed"], row["start"]) == (seed, start)
                )
                for seed in dict.fromkeys(row["seed"] for row in found)
            ]
            shown = "  ".join(f"{value:.4f}" for value in each)
            print(f"{name:8} {start:12} {shown:28} {statistics.fmean(each):.4f}  {score}")
        both = [[row[score] for row in found if row["start"] == start] for start in STARTS]
        leads = [pretrained - random for pretrained, random in zip(*both, strict=True)]
        error = statistics.stdev(leads) / len(leads) ** 0.5 if len(leads) > 1 else float("nan")
        print(f"{name:8} leads by {statistics.fmean(leads):+.4f}, standard error {error:.4f}")
    print(json.dumps({"learning_rate": rate, "results": results}))


if __name__ == "__main__":
    main()
