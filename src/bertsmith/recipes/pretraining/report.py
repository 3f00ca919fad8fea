"""The report of a pre-training run: its curves and what it learnt to say, as one HTML file.

bertsmith report RUN

It is made of `metrics.jsonl` alone (and of `settings.json`, where that is there), so it can be
made of a run that is still at work, too.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bertsmith.errors import BertsmithError, MissingInputError
from bertsmith.progress import duration
from bertsmith.recipes.pretraining.alarms import UNREPLACED
from bertsmith.report.charts import Series, line_chart
from bertsmith.report.page import (
    Cell,
    Markup,
    Section,
    cards,
    page,
    paragraph,
    preformatted,
    readable,
    side_by_side,
    table,
)
from bertsmith.storage import read_json, replace_file
from bertsmith.train.run_folder import read_metrics

REPORT, SETTINGS = "report.html", "settings.json"
MOST_FILLED = 12  # evaluations whose guesses are shown

Rows = Sequence[Mapping[str, Any]]

OBJECTIVES = {
    "mlm": "masked pieces",
    "lm": "next pieces",
    "nsp": "next sentence",
    "rtd": "replaced pieces",
}
NEVER_REPLACED = "saying 'not replaced' of every piece"
MEASURES = {"loss": "loss (nats)", "accuracy": "accuracy"}
COURSES = {  # of the steps themselves
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm, before clipping",
    "tokens_per_second": "tokens a second",
    "real_token_share": "share of the batch that is tokens",
    "flop_share": "share of the machine's peak (MFU)",
}
CHECKS = {
    "new_loss": "loss of the new weights on the pieces to predict",
    "expected_loss": "what it must be near",
    "new_rtd_loss": "loss of the new weights on which pieces were replaced",
    "expected_rtd_loss": "what that must be near",
    "examples": "examples looked at",
    "random_next": "share of them with a random next sentence",
    "packed_difference": "states packed and one by one: largest difference",
    "gradient_difference": "gradients whole and accumulated: difference",
}


def write_report(run: Path) -> Path:
    """Writes the report of a pre-training run and returns its place, `run/report.html`.

    Raises:
        MissingInputError: the folder holds no rows of such a run.
        DataError: a row of its metrics is none.
        StorageError: it cannot be written.
    """
    rows = [row for row in read_metrics(run) if "split" in row]
    if not rows:
        raise MissingInputError(
            f"{run}: holds no metrics of a pre-training run; expected the folder that "
            f"`bertsmith pretrain --out` named, after its first rows"
        )
    settings = read_json(run / SETTINGS) if (run / SETTINGS).is_file() else {}
    sections = [
        Section("Where it stands", _standing(rows)),
        Section("How it learned", [_curves(rows), *_remarks(rows)]),
        *_filled(rows),
        *_warnings(rows),
        *_checks(rows),
        *_settings(settings),
        Section("The commands", [preformatted("\n".join(_commands(run)))]),
    ]
    lead = paragraph(_lead(rows), is_quiet=True)
    title = f"Pre-training: {settings.get('size') or ''} {run.resolve().name}".replace(":  ", ": ")
    replace_file(run / REPORT, page(title, sections, lead=lead).encode("utf-8"))
    return run / REPORT


def leave_report(run: Path, say: Callable[[str], None]) -> None:
    """Writes the report of a run that ends, however it ends; where it cannot, that is said."""
    try:
        if read_metrics(run):
            write_report(run)
    except BertsmithError as error:  # the run's own end must not be lost for it
        say(f"warning: there is no report of this run: {error}")


# ----------------------------------------------------------------------------------- sections


def _lead(rows: Rows) -> str:
    last = rows[-1]
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    told = f"{last['step']:,} steps, {last.get('tokens', 0):,} tokens"
    if "seconds" in last:
        told += f", {duration(last['seconds'])}"
    if speeds:
        told += f", at {sum(speeds) / len(speeds):,.0f} tokens a second"
    return f"{told}."


def _standing(rows: Rows) -> list[Markup]:
    found = _of(rows, "held_out") or _of(rows, "train")
    if not found:
        return [paragraph("No step is logged yet.")]
    last = found[-1]
    names = [name for name, _ in _figures([last])]
    shown = [
        (_title(name), f"{last[name]:.1%}" if name.endswith("_accuracy") else readable(last[name]))
        for name in names
    ]
    if "unigram_loss" in last:
        shown.insert(1, ("loss of piece frequencies alone", readable(last["unigram_loss"])))
    if UNREPLACED in last:
        shown.append((NEVER_REPLACED, f"{last[UNREPLACED]:.1%}"))
    told = (
        f"Held out, at step {last['step']:,}: every piece to be told is hidden. A model that knows "
        f"how frequent pieces are, and nothing else, has the loss of piece frequencies alone."
    )
    if last["split"] == "train":
        told = f"Of the training text itself, at step {last['step']:,}: no text was set aside."
    return [cards(shown), paragraph(told, is_quiet=True)]


def _curves(rows: Rows) -> Markup:
    train, held_out = _of(rows, "train"), _of(rows, "held_out")
    charts: list[Markup] = []
    for name, title in _figures([*train, *held_out]):
        series = [
            Series("train", _points(train, name)),
            Series("held out", _points(held_out, name), has_marks=True),
        ]
        unigram = [row["unigram_loss"] for row in held_out if "unigram_loss" in row]
        if unigram and not charts:  # the first is that on pieces
            ends = (rows[0]["step"], rows[-1]["step"])
            series.append(Series("piece frequencies alone", [(step, unigram[-1]) for step in ends]))
        if name == "rtd_accuracy":
            series.append(Series(NEVER_REPLACED, _points(held_out or train, UNREPLACED)))
        charts.append(line_chart(title, series, x_label="step"))
    for name, title in COURSES.items():
        points = _points(train, name)
        if points:
            charts.append(line_chart(title, [Series(title, points)], x_label="step"))
    return side_by_side(charts)


def _remarks(rows: Rows) -> list[Markup]:
    if not _of(rows, "held_out"):
        return []
    told = (
        "In training a tenth of the pieces to be told stand where they were and a tenth are "
        "replaced; held out all are hidden. So the two losses are not the same measure."
    )
    return [paragraph(told, is_quiet=True), *_remarks_on_replacing(rows)]


def _remarks_on_replacing(rows: Rows) -> list[Markup]:
    if not _has_generator(rows):
        return []
    told = (
        "Masked pieces are told by the generator, and replaced ones by the encoder, which is what "
        "is kept. The better the generator, the fewer pieces are replaced and the harder they are "
        "to find: read the accuracy on replaced pieces beside what saying 'not replaced' of every "
        "piece would give."
    )
    return [paragraph(told, is_quiet=True)]


def _filled(rows: Rows) -> Iterator[Section]:
    evaluations = [row for row in rows if row["split"] == "filled" and row.get("filled")]
    if not evaluations:
        return
    count = len(evaluations)
    chosen = sorted({round(n * (count - 1) / (MOST_FILLED - 1)) for n in range(MOST_FILLED)})
    parts = []
    for number, sentence in enumerate(evaluations[-1]["filled"]):
        lines: list[tuple[Cell, ...]] = []
        for row in (evaluations[place] for place in chosen):
            one = next(islice(row["filled"], number, None), None)
            if one:
                said = zip(one["pieces"], one["shares"], strict=True)
                lines.append((row["step"], *(f"{piece} {share:.0%}" for piece, share in said)))
        header = ["step", "likeliest", *[""] * (max(map(len, lines)) - 2)]
        parts.append(paragraph(f"{sentence['text']}  (hidden: {sentence['word']})"))
        parts.append(table(header, lines))
    subject = "the generator" if _has_generator(rows) else "it"
    yield Section(f"What {subject} puts behind a mask", parts)


def _warnings(rows: Rows) -> Iterator[Section]:
    alarms = [(row["step"], row["message"]) for row in rows if row["split"] == "alarm"]
    if alarms:
        shown = table(("step", "warning"), alarms)
        yield Section("What it was warned of", [shown])


def _checks(rows: Rows) -> Iterator[Section]:
    found = _of(rows, "start")
    if found:
        shown = [(told, found[0][name]) for name, told in CHECKS.items() if name in found[0]]
        yield Section("Before the first step", [table((), shown)])


def _settings(settings: Mapping[str, Any]) -> Iterator[Section]:
    shown = [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in settings.items()
        if value is not None
    ]
    if shown:
        yield Section("The settings", [table(("setting", "value"), shown)])


def _commands(run: Path) -> list[str]:
    words = ["bertsmith", "pretrain", "--config", str(run / SETTINGS), "--out"]
    return [
        shlex.join([*words, str(run), "--resume"]) + "    # go on",
        shlex.join([*words, f"{run}-again"]) + "    # begin again in a new folder",
    ]


# -------------------------------------------------------------------------------------- rows


def _of(rows: Rows, split: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["split"] == split]


def _has_generator(rows: Rows) -> bool:
    return any(UNREPLACED in row for row in rows)


def _figures(rows: Rows) -> list[tuple[str, str]]:
    """Returns name and title of every objective's loss and accuracy that rows hold."""
    names = dict.fromkeys(name for row in rows for name in row if name != "unigram_loss")
    return [(name, _title(name)) for name in names if name.rpartition("_")[2] in MEASURES]


def _title(name: str) -> str:
    objective, _, measure = name.rpartition("_")
    return f"{OBJECTIVES.get(objective, objective)}: {MEASURES[measure]}"


def _points(rows: Rows, name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]
