"""The report of several fine-tuning runs: OUT/report.html, with a line for each and what they mean.

Each run has a report of its own, to which this one leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertsmith.progress import duration
from bertsmith.report.charts import Series, line_chart
from bertsmith.report.page import (
    Cell,
    Link,
    Section,
    cards,
    page,
    paragraph,
    readable,
    side_by_side,
    table,
)
from bertsmith.storage import replace_file

REPORT = "report.html"
MOST_SCORES = 4  # columns of a table; the rest stands in each run's own report


def report_together(
    out: Path, title: str, runs: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any]
) -> Path:
    """Writes the report of runs that were made side by side; returns its place.

    Args:
        out: the folder above them.
        title: of the page.
        runs: the result of each, as `finetune` returns it, by the name of its folder.
        found: `scores` and `deviations`; `winner`, where one was kept; `out_of_fold`, the scores
            of all rows together, where each is predicted by the run that has not seen it.

    Raises:
        StorageError: it cannot be written.
    """
    chosen_by = next(iter(runs.values()))["chosen_by"]
    winner = found.get("winner")
    means = [
        (name, f"{readable(score)} ± {found['deviations'][name]:.2g}")
        for name, score in found["scores"].items()
    ]
    sections = [Section("Mean and deviation", [cards(means, best=chosen_by)])]
    if "out_of_fold" in found:
        shown = [(name, readable(score)) for name, score in found["out_of_fold"].items()]
        told = (
            "Each row is predicted by the model that has not seen it; all rows are scored at once."
        )
        sections.append(
            Section(
                "All rows together", [paragraph(told, is_quiet=True), cards(shown, best=chosen_by)]
            )
        )
    sections.append(Section("Run by run", [_table(runs, chosen_by), _chart(runs, chosen_by)]))
    lead = f"{len(runs)} runs, chosen by {chosen_by}"
    seconds = sum(run["seconds"] for run in runs.values())
    lead += f"; together they took {duration(seconds)}"
    lead += f"; best/ is the model of {winner}." if winner else "."
    content = page(title, sections, lead=paragraph(lead, is_quiet=True))
    replace_file(out / REPORT, content.encode("utf-8"))
    return out / REPORT


def _table(runs: Mapping[str, Mapping[str, Any]], chosen_by: str) -> Any:
    first = next(iter(runs.values()))["scores"]
    names = [chosen_by, *(name for name in first if name != chosen_by)][:MOST_SCORES]
    rows: list[tuple[Cell, ...]] = [
        (
            Link(name, f"{name}/{REPORT}"),
            *(float(run["scores"][score]) for score in names),
            float(run["best_epoch"]),
            int(run.get("restarts", 0)),
            duration(run["seconds"]),
        )
        for name, run in runs.items()
    ]
    return table(("run", *names, "best epoch", "restarts", "time"), rows)


def _chart(runs: Mapping[str, Mapping[str, Any]], chosen_by: str) -> Any:
    points = [
        (float(number), float(run["scores"][chosen_by]))
        for number, run in enumerate(runs.values(), start=1)
    ]
    return side_by_side([line_chart(chosen_by, [Series(chosen_by, points, True)], x_label="run")])
