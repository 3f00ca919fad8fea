"""What a tuned threshold is worth where questions may have no answer.

    python benchmarks/squad2.py --model run/model

The published dev set of SQuAD 2.0 is split by article: half of its questions to train on, of which
a fifth chooses the epoch and the threshold, and half to test on. Shown are the test scores with the
threshold 0, with the tuned one, and with the one that would have been best for the test questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, cast

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.folder import load_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.recipes.finetuning.finetune import finetune, usual_learning_rate
from bertsmith.tasks.answer import Answer
from bertsmith.tasks.answers import results_of
from bertsmith.tasks.pieces import windows

SHARES = {"test": 0.5, "dev": 0.1, "train": 0.4}  # of all questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder to start from")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/squad/dev-v2.0-part.json")
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--questions", type=int, help="most questions of a part; by default all")
    parser.add_argument("--learning-rate", type=float, help="by default the encoder's usual one")
    arguments = parser.parse_args()
    rate = arguments.learning_rate or usual_learning_rate(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        parts = split_by_article(arguments.data, Path(folder), arguments.questions)
        for seed in range(arguments.seeds):
            config = FinetuneConfig(
                epochs=arguments.epochs, max_length=arguments.max_length, seed=seed
            )
            done = finetune(
                "answer",
                parts["train"],
                arguments.model,
                Path(folder) / f"seed-{seed}",
                config,
                OptimizerConfig(learning_rate=rate),
                options=TaskConfig(),
                dev=parts["dev"],
            )
            scores = test_scores(Path(folder) / f"seed-{seed}" / "best", parts["test"])
            show(seed, scores, done)
            print(json.dumps({"seed": seed, "learning_rate": rate, "scores": scores, "run": done}))


def split_by_article(source: Path, folder: Path, most: int | None) -> dict[str, Path]:
    """Returns files of whole articles, drawn so that each part has about its share of questions."""
    articles = json.loads(source.read_bytes())["data"]
    Random(0).shuffle(articles)
    total = sum(map(count_questions, articles))
    found = {}
    for name, share in SHARES.items():
        part: list[Any] = []
        while articles and (name == "train" or sum(map(count_questions, part)) < share * total):
            part.append(articles.pop())
        found[name] = folder / f"{name}.json"
        found[name].write_text(json.dumps({"version": "v2.0", "data": shortened(part, most)}))
        print(f"{name}: {len(part)} articles", file=sys.stderr)
    return found


def count_questions(article: dict[str, Any]) -> int:
    return sum(len(paragraph["qas"]) for paragraph in article["paragraphs"])


def shortened(articles: list[Any], most: int | None) -> list[Any]:
    """Returns the first paragraphs of all articles in turn, until there are enough questions."""
    if most is None:
        return articles
    kept = []
    for place in range(max(len(article["paragraphs"]) for article in articles)):
        for article in articles:
            if most > 0 and place < len(article["paragraphs"]):
                paragraph = article["paragraphs"][place]
                kept.append({"paragraphs": [paragraph | {"qas": paragraph["qas"][:most]}]})
                most -= len(paragraph["qas"])
    return kept


def test_scores(model: Path, test: Path) -> dict[str, dict[str, float]]:
    """Returns the scores on the test questions with the threshold 0 and with the tuned one."""
    loaded = load_model(model)
    tuned = Answer.from_facts(loaded.facts)
    tasks = {"zero": replace(tuned, threshold=0.0), "tuned": tuned}
    scorers = {name: task.scorer() for name, task in tasks.items()}
    source = tuned.read(test, ColumnsConfig(), loaded.facts, labelled=True)
    for window in windows(source.examples):
        rows = [
            tuned.features(example, loaded.tokenizer, int(loaded.facts["max_length"]))
            for example in window
        ]
        for example, row, outputs in results_of(cast(TaskModel, loaded.model), window, rows):
            for name, task in tasks.items():
                scorers[name].add(example, task.decode(example, row, outputs))
    return {
        name: scorer.scores() | {"threshold": tasks[name].threshold}
        for name, scorer in scorers.items()
    }


def show(seed: int, scores: dict[str, dict[str, float]], done: dict[str, Any]) -> None:
    print(f"seed {seed}: {done['train_rows']:,} questions, {done['seconds']:.0f} s")
    print(f"{'threshold':>16} {'EM':>6} {'F1':>6} {'F1 HasAns':>9} {'F1 NoAns':>9}")
    for name, found in scores.items():
        print(
            f"{name:>7} {found['threshold']:8.3f} {found['exact_match']:6.2f} {found['f1']:6.2f} "
            f"{found.get('HasAns_f1', 0):9.2f} {found.get('NoAns_f1', 0):9.2f}"
        )
    best = scores["tuned"]
    print(f"{'best':>7} {best['best_f1_thresh']:8.3f} {'':6} {best['best_f1']:6.2f}")


if __name__ == "__main__":
    main()
