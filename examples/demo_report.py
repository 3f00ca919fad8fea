"""The report of the demonstration: one HTML file that needs nothing beside it."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.scores { display: flex; gap: 1rem; flex-wrap: wrap }
.score { flex: 1 1 12rem; border: 1px solid #d6dbe3; border-radius: 10px; padding: 1rem }
.score b { display: block; font-size: 2.2rem; line-height: 1.2 }
.score.best { border-color: #2563a8; background: #f2f7fd }
table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #e3e7ed; padding: .35rem .6rem; text-align: left }
td.bar { width: 40% } .bar i { display: block; height: .8rem; background: #2563a8;
         border-radius: 3px }
pre { background: #f5f6f8; border-radius: 8px; padding: .8rem 1rem; overflow-x: auto }
svg { max-width: 100%; height: auto } .note { color: #5b6675 }
"""


def write_report(path: Path, out: Path, story: dict[str, Any]) -> None:
    """Writes the report of the commands whose results are in `story`, run in folder `out`."""
    sizes, pretraining = story["sizes"], story["pretraining"]
    parts = [
        "<h1>A BERT, made from this Python's own documentation</h1>",
        f"<p class=note>{sizes['characters'] / 1e6:.1f} MB of text, "
        f"{pretraining['tokens']:,} tokens seen in {pretraining['seconds'] / 60:.1f} minutes of "
        f"pre-training; {story['seconds'] / 60:.1f} minutes in all.</p>",
        "<h2>Which library is this docstring from?</h2>",
        _scores(story),
        "<h2>What the encoder puts behind a mask</h2>",
        "".join(_filled(text, masks) for text, masks in story["filled"]),
        "<h2>How it learned</h2>",
        _curves(out, pretraining),
        "<h2>The commands that did it</h2>",
        f"<pre>{html.escape(chr(10).join(story['commands']))}</pre>",
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Bertsmith: demonstration</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    path.write_text(page, encoding="utf-8")


def _scores(story: dict[str, Any]) -> str:
    cards = []
    for name, title in (("pretrained", "from the pre-trained weights"), ("random", "from random")):
        accuracy = story[name]["scores"]["accuracy"]
        best = " best" if accuracy == max(_accuracies(story)) else ""
        cards.append(f"<div class='score{best}'><b>{accuracy:.1%}</b>{title}</div>")
    return (
        f"<div class=scores>{''.join(cards)}</div><p class=note>Accuracy on "
        f"{story['sizes']['test']:,} docstrings that neither the encoder nor the classifiers had "
        "seen; the same model, rows, order and rate.</p>"
    )


def _accuracies(story: dict[str, Any]) -> list[float]:
    return [story[name]["scores"]["accuracy"] for name in ("pretrained", "random")]


def _filled(text: str, masks: list[list[dict[str, Any]]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(guess['piece'])}</td><td>{guess['probability']:.1%}</td>"
        f"<td class=bar><i style='width:{100 * guess['probability']:.1f}%'></i></td></tr>"
        for guesses in masks
        for guess in guesses
    )
    return f"<p><b>{html.escape(text)}</b></p><table>{rows}</table>"


def _curves(out: Path, pretraining: dict[str, Any]) -> str:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    rows = _read_rows(out / "run" / "metrics.jsonl")
    for split, color, width in (("train", "#9db7d5", 1), ("held_out", "#2563a8", 2)):
        points = [(row["step"], row["mlm_loss"]) for row in rows if row.get("split") == split]
        left.plot(*zip(*points, strict=True), color=color, lw=width, label=split.replace("_", " "))
    left.axhline(pretraining["unigram_loss"], color="#b0622b", ls="--", lw=1, label="unigram")
    left.set(xlabel="step", title="masked pieces: loss (nats)")
    left.legend(frameon=False)
    for name, color in (("pretrained", "#2563a8"), ("random", "#b0622b")):
        rows = _read_rows(out / name / "metrics.jsonl")
        points = [(row["epoch"], row["dev"]["accuracy"]) for row in rows if "dev" in row]
        right.plot(*zip(*points, strict=True), color=color, marker="o", ms=3, label=name)
    right.set(xlabel="epoch", title="classifier: accuracy on unseen docstrings", ylim=(0, 1))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    pyplot.close(figure)
    return drawing.getvalue()[drawing.getvalue().index("<svg") :]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
