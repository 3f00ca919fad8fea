"""What is wrong, or may be, with the folder of a run: is it whole, finished, and has it learnt."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bertsmith.errors import BertsmithError
from bertsmith.folder import load_model
from bertsmith.recipes.finetuning.data_check import Finding
from bertsmith.storage import read_json
from bertsmith.train.sealed import verify_sealed

SETTINGS, METRICS = "settings.json", "metrics.jsonl"
LOSSES = ("loss", "mlm_loss", "lm_loss")  # of a fine-tuning run, of pre-training runs
FEWEST_POINTS = 20  # with fewer losses nothing is said of their course
STILL_FALLING = 0.03  # share by which the last quarter's mean loss lies below that of the third
NOT_FALLEN = 0.02  # share by which a loss that has learnt nothing has fallen at most


def is_run(path: Path) -> bool:
    """Returns whether a path is the folder of a run."""
    return (path / SETTINGS).is_file()


def check_run(run: Path) -> tuple[int, list[Finding]]:
    """Returns the rows of a run's metrics, and what was found in its folder.

    Raises:
        MissingInputError, CheckpointError: its settings cannot be read.
    """
    settings = read_json(run / SETTINGS)
    rows, found = _read_metrics(run / METRICS)
    found += _check_whole(run)
    found += _check_losses(run, rows)
    found += _alarms(run, rows)
    found += _check_end(run, settings, rows)
    return len(rows), found


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    if not path.is_file():
        what = "is not there: the run has not taken a step"
        return [], [Finding("error", what, str(path), "go on with it by --resume")]
    rows, found = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            is_last = number == len(lines)  # a fault may cut a row short, but not one before it
            found.append(
                Finding(
                    "note" if is_last else "error",
                    "is no JSON object" + (": it was cut short" if is_last else ""),
                    f"{path}:{number}",
                    "" if is_last else "restore the file from a copy",
                )
            )
    return rows, found


def _check_whole(run: Path) -> Iterable[Finding]:
    """Verifies every checkpoint and model folder against the sums that were kept of them."""
    checks: list[tuple[Path, Callable[[Path], object]]] = [
        (place, verify_sealed) for place in sorted((run / "checkpoints").glob("step-*"))
    ]
    checks += [(run / name, load_model) for name in ("model", "best") if (run / name).is_dir()]
    sound = []
    for place, check in checks:
        try:
            check(place)
            sound.append(place.name)
        except BertsmithError as error:
            yield Finding(
                "error", str(error), str(place), "restore it from a copy, or go on by --resume"
            )
    if sound:
        yield Finding("note", f"whole and unaltered: {', '.join(sound)}", str(run), "")


def _check_losses(run: Path, rows: Sequence[dict[str, Any]]) -> Iterable[Finding]:
    where = str(run / METRICS)
    losses = [
        row[name]
        for row in rows
        for name in LOSSES
        if name in row and row.get("split", "train") == "train"
    ]
    odd = next((row["step"] for row in rows if not all(map(math.isfinite, _numbers(row)))), None)
    if odd is not None:
        yield Finding(
            "error",
            f"a figure of step {odd} is not finite",
            where,
            "start anew with a lower --learning-rate",
        )
        return
    if len(losses) < FEWEST_POINTS:
        return
    quarter = len(losses) // 4
    first = statistics.fmean(losses[: max(1, len(losses) // 20)])
    third, last = (
        statistics.fmean(part) for part in (losses[-2 * quarter : -quarter], losses[-quarter:])
    )
    course = f"the training loss began at {first:.3g} and ended at {last:.3g}"
    if last > first * (1 - NOT_FALLEN):
        yield Finding(
            "warning",
            f"{course}: the run sits on a plateau and has learnt nothing",
            where,
            "try a lower --learning-rate, another --seed, or look at the labels",
        )
    elif last < third * (1 - STILL_FALLING):
        yield Finding(
            "note",
            f"{course}: it was still falling, by {1 - last / third:.0%} over the last quarter",
            where,
            "a longer run may score better",
        )
    else:
        yield Finding("note", f"{course}, where it no longer falls", where, "")


def _alarms(run: Path, rows: Sequence[dict[str, Any]]) -> Iterable[Finding]:
    """Yields what the run itself has warned of."""
    for row in rows:
        if row.get("split") == "alarm":
            what, _, mend = row["message"].partition("; ")
            yield Finding("warning", what, f"{run / METRICS}, step {row['step']:,}", mend)


def _check_end(
    run: Path, settings: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> Iterable[Finding]:
    last = rows[-1] if rows else {"step": 0}
    is_short = last["step"] < (settings.get("steps") or 0)
    if settings.get("epochs") and not settings.get("early_stopping"):
        is_short = last.get("epoch", 0) < settings["epochs"]
    if is_short or not (run / "model").is_dir():
        command = "finetune" if "epochs" in settings else "pretrain"
        yield Finding(
            "warning",
            f"is not finished: it stands at step {last['step']:,}",
            str(run),
            f"go on with: bertsmith {command} --config {run / SETTINGS} --out {run} --resume",
        )
    scores = [row["dev"] for row in rows if "dev" in row]
    ends = [name for score in scores if (name := _says_one_thing(score))]
    if scores and len(ends) == len(scores):
        yield Finding(
            "warning",
            f"has collapsed: dev {ends[-1]} is 0 throughout, as it is where every row gets the "
            f"same answer, or every word the same tag",
            str(run),
            "begin again with another --seed, a lower --learning-rate or more --epochs",
        )


def _says_one_thing(scores: dict[str, float]) -> str | None:
    """Returns the name of a score that is 0 where all answers are alike; None if none is."""
    return next((name for name in ("mcc", "pearson", "recall") if scores.get(name) == 0), None)


def _numbers(row: dict[str, Any]) -> list[float]:
    return [value for value in row.values() if isinstance(value, int | float)]
