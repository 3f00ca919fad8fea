"""Draws held-out loss and next-sentence accuracy of pre-training runs over their minutes.

python benchmarks/learning_curves.py run --out docs/learning.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bertsmith"  # the same runs, the same bytes
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for run in arguments.runs:
        rows = read_rows(run)
        for axes, kind in ((left, "mlm_loss"), (right, "nsp_accuracy")):
            points = [(row["seconds"] / 60, row[kind]) for row in rows if kind in row]
            axes.plot(*zip(*points, strict=True), lw=2, marker="o", ms=3, label=run.name)
        left.axhline(rows[-1]["unigram_loss"], color="#b0622b", ls="--", lw=1)
    left.annotate(
        "unigram model",
        (0.98, rows[-1]["unigram_loss"]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="#b0622b",
    )
    left.set(xlabel="minutes", title="masked pieces, held out: loss (nats)")
    right.set(xlabel="minutes", title="next sentence, held out: accuracy", ylim=(0.4, 1.0))
    right.axhline(0.5, color="#b0622b", ls="--", lw=1)
    if len(arguments.runs) > 1:
        left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, metadata={"Date": None})


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Returns the held-out evaluations of a run."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [row for row in rows if row.get("split") == "held_out"]


if __name__ == "__main__":
    main()
