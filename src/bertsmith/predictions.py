"""A model's predictions for every row of a file: a table, a submission, or a leaderboard file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.glue import GlueTask, find_glue, glue_files, write_leaderboard
from bertsmith.data.outputs import (
    Answered,
    check_excel_safe,
    check_suffix,
    read_layout,
    write_submission,
)
from bertsmith.errors import ConfigError
from bertsmith.predict import Model
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.glue import check_labels
from bertsmith.tasks.tag import Tag


def predict_file(
    model: Model,
    data: Path,
    out: Path,
    columns: ColumnsConfig | None = None,
    *,
    like: Path | None = None,
    excel_safe: bool = False,
) -> dict[str, Any]:
    """Writes a prediction for every row of a file; returns `rows` and `seconds`.

    `out` is CSV or JSON lines by its name: the id, where the file has ids, the prediction, and
    the probability of each label; what else a task may be written as, `Task.suffixes` tells.
    With `like`, a sample submission, it has that file's columns and order, and its ids are
    checked. With `columns.glue`, `data` is the folder of a GLUE task, whose test file is
    answered, and `out` is TSV as the leaderboard takes it. With `excel_safe`, texts of CSV or TSV
    that a spreadsheet would run as formulas have a quote before them.

    Raises:
        ConfigError: flags contradict each other, or the name of `out` ends otherwise.
        DataError: the file has no texts as in training, or not the ids of the sample.
    """
    started = time.monotonic()
    task = model.task
    columns = columns or ColumnsConfig()
    glue = find_glue(columns.glue, task.name) if columns.glue else None
    if glue:
        check_suffix(out, ".tsv")
        data = _glue_test(model, data, glue, like)
    else:
        check_suffix(out, *((".csv",) if like else task.suffixes))
    if excel_safe:
        if glue:
            raise ConfigError(
                "excel_safe and glue are both given; expected one of them: leaderboards take "
                "their files to the letter"
            )
        check_excel_safe(out)
    source = task.read(data, columns, model.facts, labelled=False)
    layout = None
    if like:
        layout = read_layout(like, source.known_columns, model.facts.get("labels", []))
        columns = replace(columns, id_column=layout.id_column)
        source = task.read(data, columns, model.facts, labelled=False)
    num_cut = num_empty = num_bare = 0

    def answered() -> Iterator[tuple[Any, Prediction]]:
        nonlocal num_cut, num_empty, num_bare
        for example, found in model.answers(task, source.examples):
            num_cut += found.was_cut
            num_empty += not str(getattr(example, "text", "-")).strip()
            num_bare += found.more.get("words_without_pieces", 0)
            yield example, found

    def spelt(answer: Any) -> Any:
        return task.spelt(answer) if isinstance(task, Classify) else answer

    plain = (
        Answered(example.id, spelt(found.answer), found.probabilities)
        for example, found in answered()
    )
    if layout:
        rows = write_submission(out, plain, layout, excel_safe=excel_safe)
    elif glue:
        rows = write_leaderboard(out, plain)
    else:
        id_column = source.columns.id if source.columns else None
        rows = task.write(out, answered(), id_column, excel_safe=excel_safe)
    return {
        "rows": rows,
        "seconds": time.monotonic() - started,
        "empty_texts": num_empty,
        "cut_texts": num_cut,
        "columns": source.said,
        "out": str(out),
        **model.engine_said,
        **({"words_without_pieces": num_bare} if isinstance(task, Tag) else {}),
    }


def _glue_test(model: Model, place: Path, glue: GlueTask, like: Path | None) -> Path:
    """Returns the test file of a GLUE task, whose labels this model must have."""
    if like:
        raise ConfigError(f"like is {str(like)!r}, but GLUE has a layout of its own: drop it")
    if glue.labels:
        check_labels(model.facts.get("labels", []), glue, model.where)
    files = glue_files(place, glue, "test")
    if len(files) > 1:
        raise ConfigError(
            f"glue is {glue.name!r}, which has {len(files)} test files; expected one of them: "
            f"give --glue {glue.name}-m, then --glue {glue.name}-mm"
        )
    return files[0]
