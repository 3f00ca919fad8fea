"""Tagging with and without a CRF: entity F1 on rows that neither saw, for several seeds.

    python benchmarks/crf.py --model minilm --sets ATIS CoNLL-2003 --seeds 3 --sentences 500

Both sides have the same rows in the same order, the same drawn head and the same settings; both
keep the best epoch by the last tenth of the training rows, and are scored on the whole dev file.
With `--sentences` the training rows are so many, drawn from the file in an order of their own;
without, all. `torn` is how many tags are not as their scheme has them, such as an I- that begins an
entity, for each predicted entity.

With `--out FILE` every run is written down as soon as it is done, and a second call goes on where
the first was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.data.tagged_outputs import TaggedAnswer, write_tagged
from bertsmith.folder import load_model
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.tasks.answers import answer
from bertsmith.tasks.schemes import respelt, spans_of
from bertsmith.tasks.tag import Tag
from tasks import SETS, Set, done_before, minilm  # type: ignore[import-not-found]

TAGGED = [name for name, one in SETS.items() if one.task == "tag"]
SIDES = {"softmax": TaskConfig(), "crf": TaskConfig(crf=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="minilm", help="model folder, or minilm")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=TAGGED, choices=TAGGED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sentences", type=int, help="training rows; all by default")
    parser.add_argument("--epochs", type=int, help="those of benchmarks/tasks.py by default")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="JSON lines of all runs, added to")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = minilm() if arguments.model == "minilm" else Path(arguments.model)
    results = done_before(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        for name, seed, side in runs(arguments, results):
            one = drawn(SETS[name], arguments.data, Path(folder), arguments.sentences)
            place = Path(folder) / f"{name}-{seed}-{side}"
            row = {"set": name, "sentences": arguments.sentences, "seed": seed, "side": side}
            results.append(row | run(one, model, place, seed, side, arguments))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    show(results)


def runs(
    arguments: argparse.Namespace, results: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, int, str]]:
    """Yields the set, seed and side of each run that is not among the results."""
    done = {(row["set"], row["sentences"], row["seed"], row["side"]) for row in results}
    for name in arguments.sets:
        for seed in range(arguments.seeds):
            for side in SIDES:
                if (name, arguments.sentences, seed, side) not in done:
                    yield name, seed, side


def drawn(one: Set, data: Path, folder: Path, sentences: int | None) -> Set:
    """Returns the set with whole paths, its training file with so many sentences, at random."""
    one = replace(one, train=str(data / one.train), dev=str(data / one.dev))
    if sentences is None:
        return one
    rows = list(Tag.read(Path(one.train), one.columns, None, labelled=True).examples)
    random.Random(0).shuffle(rows)
    place = folder / f"{Path(one.train).parent.name}-{sentences}.jsonl"
    kept = ((row, TaggedAnswer(row.tags, row.intent, [None] * len(row.words))) for row in rows)
    write_tagged(place, (pair for _, pair in zip(range(sentences), kept, strict=False)))
    return replace(one, train=str(place))


def run(
    one: Set, model: Path, out: Path, seed: int, side: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Returns the scores on the dev file, the torn entities, and how long training took."""
    config = FinetuneConfig(
        epochs=arguments.epochs or one.epochs,
        batch_size=arguments.batch_size,
        max_length=one.max_length,
        seed=seed,
        threads=arguments.threads,
        restarts=0,
        train_anyway=True,  # of few rows those split off may have tags that the others lack
    )
    optimizer = OptimizerConfig(learning_rate=arguments.learning_rate)
    options = SIDES[side]
    started = time.monotonic()
    finetune(one.task, Path(one.train), model, out, config, optimizer, one.columns, options)
    seconds = time.monotonic() - started
    return scored(out / "best", Path(one.dev), one.columns) | {"seconds": seconds}


def scored(folder: Path, data: Path, columns: ColumnsConfig) -> dict[str, float]:
    """Returns the scores on a file, the torn entities, and how long the answers took."""
    loaded = load_model(folder)
    known = Tag.from_facts(loaded.facts)
    assert known.scheme and known.learnt, "the sets have entities"
    task = replace(known, scheme=None)  # so that tags come as the model gave them
    source = task.read(data, columns, loaded.facts, labelled=True)
    model: Any = loaded.model
    longest = int(loaded.facts["max_length"])
    scorer, entities, wrong = known.scorer(), 0, 0
    started = time.monotonic()
    for row, found in answer(task, model, loaded.tokenizer, source.examples, longest):
        right = respelt(found.answer, known.learnt)
        entities += len(spans_of(found.answer))
        wrong += sum(one != other for one, other in zip(found.answer, right, strict=True))
        scorer.add(row, replace(found, answer=tuple(respelt(right, known.scheme))))
    scores = scorer.scores()
    return {
        "score": scores["f1"],
        "accuracy": scores["accuracy"],
        "torn": wrong / max(1, entities),
        "predicting_seconds": time.monotonic() - started,
    }


def show(results: list[dict[str, Any]]) -> None:
    """Prints means and deviations of both sides for each set and number of sentences."""
    print(f"{'set':12} {'sentences':>9} {'side':8} {'F1':>16} {'torn %':>7} {'seconds':>8}")
    for key in dict.fromkeys((row["set"], row["sentences"]) for row in results):
        for side in SIDES:
            found = [r for r in results if (r["set"], r["sentences"], r["side"]) == (*key, side)]
            if not found:
                continue
            each = [100 * row["score"] for row in found]
            deviation = statistics.stdev(each) if len(each) > 1 else 0.0
            score = f"{statistics.fmean(each):8.2f} ± {deviation:4.2f}"
            broken = statistics.fmean(100 * row["torn"] for row in found)
            took = statistics.fmean(row["seconds"] for row in found)
            count = key[1] or "all"
            print(f"{key[0]:12} {count:>9} {side:8} {score:>16} {broken:7.2f} {took:8.0f}")


if __name__ == "__main__":
    main()
