"""Rows of the GLUE tasks, and what the benchmark lays down for a task that learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns
from bertsmith.data.glue import GlueTask, find_glue, glue_files, open_glue
from bertsmith.data.tables import Table
from bertsmith.errors import ConfigError, DataError, nearest
from bertsmith.tasks.forms import Source
from bertsmith.tasks.labelled import Example


def read_glue(path: Path, config: ColumnsConfig, kind: str, *, labelled: bool) -> Source:
    """Opens a file of the GLUE task `config.glue`, whose columns and labels are known.

    Of a folder it is the training file, or where no labels are read the first test file.

    Raises:
        ConfigError: there is no such task, or it is not of this kind.
        DataError: the file is not one of the task's, or a label is none of its own.
    """
    assert config.glue, "read_glue is for settings that name a task"
    glue = find_glue(config.glue, kind)
    if path.is_dir():
        path = glue_files(path, glue, "train" if labelled else "test")[0]
    table, columns, said = open_glue(path, glue, labelled=labelled, id_column=config.id_column)
    facts = {
        "columns": {"text": columns.text, "pair": columns.pair, "label": columns.label},
        "glue": glue.name,
    }
    return Source(_examples(table, columns, glue), said, facts, columns, table.columns)


def _examples(table: Table, columns: Columns, glue: GlueTask) -> Iterator[Example]:
    """Yields the rows; a text may be empty, as some of QQP's are."""
    for row in table.rows():
        label = row.value(columns.label).strip() if columns.label else None
        if label is not None and glue.labels and label not in glue.labels:
            raise DataError(
                f"{row.where}: the label {label[:40]!r} is none of {glue.name}'s"
                f"{nearest(label, glue.labels)}"
            )
        pair = row.text(columns.pair) if columns.pair else None
        name = row.value(columns.id) if columns.id else None
        yield Example(row.where, row.text(columns.text), pair, label, name)


def as_official(task: Any, glue: GlueTask) -> Any:
    """Returns a task, learnt from GLUE's rows, whose best epoch the official metric tells.

    Raises:
        ConfigError: it is to tell several labels at once.
    """
    if task.options.multi_label:
        raise ConfigError(f"multi_label is set, but every row of {glue.name} has one label")
    return replace(task, chosen_by=glue.metrics[0])


def check_labels(labels: list[str], glue: GlueTask, where: str) -> None:
    """Raises ConfigError where a model's labels are not those of a GLUE task."""
    if set(labels) != set(glue.labels):
        raise ConfigError(
            f"{where}: answers {', '.join(labels)}; expected a model that answers as "
            f"{glue.name} asks: {', '.join(glue.labels)}"
        )
