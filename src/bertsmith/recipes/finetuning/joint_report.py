"""The report of several runs together: OUT/report.html, which leads to the report of each of them.

It shows the mean scores, every run with what it differs in, settings by rank where several were
tried, and a curve of the score over seeds, folds or rates.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.progress import duration
from bertsmith.recipes.finetuning.report import REPORT
from bertsmith.report.charts import Series, line_chart
from bertsmith.report.page import (
    Cell,
    Link,
    Markup,
    Section,
    cards,
    page,
    paragraph,
    readable,
    side_by_side,
    table,
)
from bertsmith.storage import replace_file

# What runs may differ in. The first of them that does is the axis of the drawing.
AXES = ("fold", "learning_rate", "batch_size", "epochs", "seed")
CHANCE = "seed"  # of all, what is no choice: settings are compared by their mean over it


@dataclass(frozen=True)
class Shown:
    """A finished run as the page shows it."""

    name: str  # of its folder
    settings: Mapping[str, float]  # by the names in AXES
    result: Mapping[str, Any]  # as `finetune` returns it

    def score(self, chosen_by: str) -> float:
        """Returns the score of its best epoch."""
        return float(self.result["scores"][chosen_by])


def write_joint_report(
    out: Path,
    title: str,
    runs: Sequence[Shown],
    found: Mapping[str, Any],
    winner: str | None = None,
) -> Path:
    """Writes the report of finished runs and returns its place, `out/report.html`.

    Args:
        out: the folder above the runs.
        title: of the page.
        runs: one or more, by one metric.
        found: of what is shown at the top: `scores` and `deviations`, and `out_of_fold` scores.
        winner: the name of the run whose model is kept as the best; None where none is.

    Raises:
        StorageError: it cannot be written.
    """
    by = runs[0].result["chosen_by"]
    differing = [name for name in AXES if len({run.settings[name] for run in runs}) > 1]
    sections = [Section(_of_whom(differing, winner), [_means(found, by)])]
    if "out_of_fold" in found:
        told = "Every row is predicted by the model of the fold that it was not trained in."
        shown = [(name, readable(score)) for name, score in found["out_of_fold"].items()]
        sections.append(
            Section("All rows together", [paragraph(told, is_quiet=True), cards(shown, best=by)])
        )
    choices = [name for name in differing if name not in ("fold", CHANCE)]
    if choices:
        sections.append(Section("Settings", [_settings(runs, choices, by)]))
    if differing:
        sections.append(Section("From run to run", [side_by_side([_chart(runs, differing, by)])]))
    sections.append(Section("Every run", [_table(runs, differing, by, winner)]))
    seconds = sum(run.result["seconds"] for run in runs)
    lead = paragraph(
        f"{len(runs)} runs, compared by {by} on the dev rows; together they took "
        f"{duration(seconds)}."
        + (f" The best model, that of {winner}, is in best/." if winner else ""),
        is_quiet=True,
    )
    replace_file(out / REPORT, page(title, sections, lead=lead).encode("utf-8"))
    return out / REPORT


def _of_whom(differing: Sequence[str], winner: str | None) -> str:
    if "fold" in differing:
        return "Mean over the folds"
    return "Mean of the best setting" if winner and set(differing) - {CHANCE} else "Mean"


def _means(found: Mapping[str, Any], by: str) -> Markup:
    deviations = found["deviations"]
    shown = [
        (name, f"{readable(score)} ± {deviations[name]:.2g}")
        for name, score in found["scores"].items()
    ]
    return cards(shown, best=by)


def _settings(runs: Sequence[Shown], choices: Sequence[str], by: str) -> Markup:
    """Returns a row for each setting, in the order in which they were tried."""
    rows: list[tuple[Cell, ...]] = []
    for setting, group in _grouped(runs, choices).items():
        scores = [run.score(by) for run in group]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append((*map(_spelt, setting), len(scores), statistics.fmean(scores), spread))
    return table((*choices, "runs", f"mean {by}", "deviation"), rows)


def _chart(runs: Sequence[Shown], differing: Sequence[str], by: str) -> Markup:
    axis, *others = differing
    lines = [name for name in others if name != CHANCE]
    series = []
    for setting, group in _grouped(runs, lines).items():
        named = ", ".join(
            f"{name} {_spelt(value)}" for name, value in zip(lines, setting, strict=True)
        )
        points = [
            (float(place), statistics.fmean(run.score(by) for run in alike))
            for (place,), alike in sorted(_grouped(group, [axis]).items())
        ]
        series.append(Series(named or by, points, has_marks=True))
    return line_chart(f"dev {by}", series, x_label=axis)


def _table(runs: Sequence[Shown], differing: Sequence[str], by: str, winner: str | None) -> Markup:
    names = [by, *(name for name in runs[0].result["scores"] if name != by)]
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        scores = run.result["scores"]
        rows.append(
            (
                Link(run.name, f"{run.name}/{REPORT}"),
                "winner" if run.name == winner else "",
                *(_spelt(run.settings[name]) for name in differing),
                *(scores.get(name, "") for name in names),
                run.result["best_epoch"],
                duration(run.result["seconds"]),
                _restarted(run.result),
            )
        )
    header = ("run", "", *differing, *names, "best epoch", "time", "restarted")
    return table(header, rows)


def _restarted(result: Mapping[str, Any]) -> str:
    times = result["restarts"]
    told = {0: "no", 1: "once"}.get(times, f"{times} times")
    return f"{told}; has learnt nothing" if result["collapsed"] else told


def _grouped(runs: Sequence[Shown], names: Sequence[str]) -> dict[tuple[float, ...], list[Shown]]:
    """Returns the runs by their settings of these names, in the order of the first of each."""
    found: dict[tuple[float, ...], list[Shown]] = {}
    for run in runs:
        found.setdefault(tuple(run.settings[name] for name in names), []).append(run)
    return found


def _spelt(value: float) -> str:
    return f"{value:g}"
