"""Rows that are hard to learn from: a rare label, several labels at once, documents of 5,000 words.

    python benchmarks/hard_rows.py --model run/model

- rare: one row in a hundred of AG News is of the label that is asked for; without class weights,
  and with `--class-weights balanced`.
- several: which kinds of entity a sentence of CoNLL-2003 names, none to four of them; beside
  logistic regression on TF-IDF of words and pairs of words, a model for each kind.
- long: which novel 5,000 words in a row come from; cut to `--max-length`, and in windows.

Shown are the scores on rows never seen; the best epoch is chosen by rows split off in training.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.data.tagged_forms import open_tagged
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune, usual_learning_rate
from bertsmith.tasks.schemes import kinds_of

Row = tuple[str, str]  # text, label
RARE_LABEL = "Sports"
RARE_SHARE = 0.01
NOVELS = 10
WORDS = 5_000  # in a document
COLUMNS = ColumnsConfig(text_column="text", label_column="label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder to start from")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--which", nargs="+", default=list(TRIALS), choices=list(TRIALS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, help="by default the encoder's usual one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for which in arguments.which:
            TRIALS[which](arguments, Path(folder))


def rare(arguments: argparse.Namespace, folder: Path) -> None:
    """Finds one label among rows of others, with and without weights."""
    with (arguments.data / "agnews/train-10k.tsv").open(encoding="utf-8", newline="") as file:
        found = [line.rstrip("\n").split("\t") for line in file]
    others = [(text, "other") for text, label in found if label != RARE_LABEL]
    wanted = [(text, RARE_LABEL) for text, label in found if label == RARE_LABEL]
    random.Random(0).shuffle(others)
    half = len(others) // 2
    few = round(half * RARE_SHARE / (1 - RARE_SHARE))
    train = mixed([*others[:half], *wanted[:few]])
    test = mixed([*others[half:], *wanted[few : 2 * few]])
    print(f"rare: {few} of {len(train):,} training rows are {RARE_LABEL}, as of the test rows")
    for weights in (None, "balanced"):
        options = TaskConfig(class_weights=weights)
        tried(f"rare, class weights {weights}", train, test, options, arguments, folder)


def several(arguments: argparse.Namespace, folder: Path) -> None:
    """Names the kinds of entity in each sentence."""
    train, test = (
        named_kinds(arguments.data / "conll2003" / name) for name in ("eng.train", "eng.testa")
    )
    counts = [len(label.split(",")) if label else 0 for _, label in train]
    shown = ", ".join(f"{number}: {counts.count(number):,}" for number in range(5))
    print(f"several: {len(train):,} training rows, by number of labels {shown}")
    options = TaskConfig(multi_label=True)
    tried("several labels", train, test, options, arguments, folder)
    print(json.dumps({"what": "several labels, TF-IDF", **of_single_words(train, test)}))


def long(arguments: argparse.Namespace, folder: Path) -> None:
    """Tells novels by 5,000 words in a row."""
    train, test = [], []
    for path in sorted((arguments.data / "pretrain-en/novels").glob("*.txt"))[:NOVELS]:
        words = path.read_text(encoding="utf-8-sig").split()
        documents = [
            (" ".join(words[start : start + WORDS]), path.stem)
            for start in range(0, len(words) - WORDS + 1, WORDS)
        ]
        cut = len(documents) * 3 // 4  # so that no document is next to one of the other part
        train += documents[: cut - 1]
        test += documents[cut:]
    print(f"long: {len(train)} training rows and {len(test)} test rows of {WORDS:,} words")
    for texts in ("cut", "windows"):
        options = TaskConfig(long_texts=texts)
        tried(f"long texts {texts}", mixed(train), test, options, arguments, folder)


TRIALS = {"rare": rare, "several": several, "long": long}


def mixed(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows in an order of their own, the same every time."""
    found = list(rows)
    random.Random(1).shuffle(found)
    return found


def named_kinds(path: Path) -> list[Row]:
    """Returns the sentences of a CoNLL file with the kinds of entity in each, as a,b,c."""
    file = open_tagged(path, ColumnsConfig(), None, labelled=True)
    return [(" ".join(row.words), ",".join(kinds_of(row.tags or ()))) for row in file.sentences()]


def tried(
    what: str,
    train: Sequence[Row],
    test: Sequence[Row],
    options: TaskConfig,
    arguments: argparse.Namespace,
    folder: Path,
) -> None:
    """Fine-tunes with each seed and prints the scores on the test rows, a line of JSON each."""
    paths = {"train": folder / "train.csv", "test": folder / "test.csv"}
    for path, rows in zip(paths.values(), (train, test), strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    rate = arguments.learning_rate or usual_learning_rate(arguments.model)
    for seed in range(arguments.seeds):
        out = folder / f"{what}-{seed}"
        done = finetune(
            "classify",
            paths["train"],
            arguments.model,
            out,
            FinetuneConfig(
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                max_length=arguments.max_length,
                seed=seed,
            ),
            OptimizerConfig(learning_rate=rate),
            COLUMNS,
            options,
        )
        scores: dict[str, Any] = evaluate_task(out / "best", paths["test"])
        row = {"what": what, "seed": seed, "seconds": done["seconds"], **scores}
        print(json.dumps(row), flush=True)
        print(f"{what}: seed {seed} took {done['seconds']:.0f} s", file=sys.stderr)


def of_single_words(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Returns the F1 of logistic regression on words and pairs of words, a model for each label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MultiLabelBinarizer

    labels = MultiLabelBinarizer()
    wanted, right = (
        [set(filter(None, label.split(","))) for _, label in rows] for rows in (train, test)
    )
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        OneVsRestClassifier(LogisticRegression(C=10, max_iter=1000)),
    )
    model.fit([text for text, _ in train], labels.fit_transform(wanted))
    found, true = model.predict([text for text, _ in test]), labels.transform(right)
    return {f"f1_{kind}": float(f1_score(true, found, average=kind)) for kind in ("micro", "macro")}


if __name__ == "__main__":
    main()
