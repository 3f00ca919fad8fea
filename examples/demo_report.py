"""The report of the demonstration: one HTML file that needs nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertsmith.report.charts import Series, line_chart
from bertsmith.report.page import (
    Bar,
    Markup,
    Section,
    cards,
    page,
    paragraph,
    preformatted,
    side_by_side,
    table,
)

STARTS = {"pretrained": "from the pre-trained weights", "random": "from random weights"}


def write_report(path: Path, out: Path, story: dict[str, Any]) -> None:
    """Writes the report of the commands whose results are in `story`, run in folder `out`."""
    sizes, pretraining = story["sizes"], story["pretraining"]
    lead = (
        f"{sizes['characters'] / 1e6:.1f} MB of text, {pretraining['tokens']:,} tokens seen in "
        f"{pretraining['seconds'] / 60:.1f} minutes of pre-training; "
        f"{story['seconds'] / 60:.1f} minutes in all."
    )
    filled = [part for text, masks in story["filled"] for part in _filled(text, masks)]
    sections = [
        Section("Which library is this docstring from?", _scores(story)),
        Section("What the encoder puts behind a mask", filled),
        Section("How it learned", [_curves(out, pretraining)]),
        Section("The commands that did it", [preformatted("\n".join(story["commands"]))]),
    ]
    title = "A BERT, made from this Python's own documentation"
    path.write_text(page(title, sections, lead=paragraph(lead, is_quiet=True)), encoding="utf-8")


def _scores(story: dict[str, Any]) -> list[Markup]:
    accuracies = {STARTS[name]: story[name]["scores"]["accuracy"] for name in STARTS}
    best = max(accuracies, key=accuracies.__getitem__)
    told = (
        f"Accuracy on {story['sizes']['test']:,} docstrings that neither the encoder nor the "
        f"classifiers had seen; the same model, rows, order and rate."
    )
    shown = [(name, f"{accuracy:.1%}") for name, accuracy in accuracies.items()]
    return [cards(shown, best=best), paragraph(told, is_quiet=True)]


def _filled(text: str, masks: list[list[dict[str, Any]]]) -> list[Markup]:
    rows = [
        (guess["piece"], f"{guess['probability']:.1%}", Bar(guess["probability"]))
        for guesses in masks
        for guess in guesses
    ]
    return [paragraph(text), table((), rows)]


def _curves(out: Path, pretraining: dict[str, Any]) -> Markup:
    rows = _read_rows(out / "run" / "metrics.jsonl")
    losses = [
        Series(
            split.replace("_", " "),
            [(row["step"], row["mlm_loss"]) for row in rows if row.get("split") == split],
        )
        for split in ("train", "held_out")
    ]
    unigram = pretraining["unigram_loss"]
    losses.append(Series("unigram", [(0, unigram), (rows[-1]["step"], unigram)]))
    accuracies = [
        Series(
            name,
            [
                (row["epoch"], row["dev"]["accuracy"])
                for row in _read_rows(out / name / "metrics.jsonl")
                if "dev" in row
            ],
            has_marks=True,
        )
        for name in STARTS
    ]
    return side_by_side(
        [
            line_chart("masked pieces: loss (nats)", losses, x_label="step"),
            line_chart("classifier: accuracy on unseen docstrings", accuracies, x_label="epoch"),
        ]
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
