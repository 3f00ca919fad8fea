"""How good a fine-tuned model is on a labelled file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bertsmith.config import ColumnsConfig, InferenceConfig
from bertsmith.data.glue import find_glue, glue_files
from bertsmith.engines.sample import choose_for
from bertsmith.errors import DataError
from bertsmith.folder import Loaded, load_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.tasks.answers import answer
from bertsmith.tasks.tag_scores import TagScorer
from bertsmith.tasks.task import Task, task_of


def evaluate_task(
    model: Path,
    data: Path,
    columns: ColumnsConfig | None = None,
    inference: InferenceConfig | None = None,
) -> dict[str, Any]:
    """Returns the task's metrics by their usual names, with `rows`, `seconds` and `columns`.

    Of a tagger, `types` are those of each type of entity.

    The columns are those that flags name, or that the model was trained on, or guessed. Rows are
    read, answered and scored a window at a time: memory does not grow with their number. With
    `columns.glue`, `data` is the folder of a GLUE task, or one of its files, and the official
    metrics come first; those of MNLI's second dev file end in `_mm`.

    Raises:
        DataError: there are no rows, or a label that the model does not know; its row is named.
        CheckpointError: the model has no task.
    """
    columns = columns or ColumnsConfig()
    loaded = load_model(model)
    task = task_of(loaded.facts, str(model))
    glue = find_glue(columns.glue, task.name) if columns.glue else None
    paths = glue_files(data, glue, "dev") if glue else [data]
    chosen = choose_for(loaded, inference or InferenceConfig(), paths[0], columns, str(model))
    loaded = replace(loaded, model=chosen.model)
    if not glue:
        return _evaluate_file(loaded, task, data, columns) | chosen.said
    found: dict[str, Any] = {}
    for number, path in enumerate(paths):
        result = _evaluate_file(loaded, task, path, columns)
        result = {name: result[name] for name in glue.metrics} | result
        ending = "_mm" if number else ""
        found |= {name + ending: value for name, value in result.items()}
    return found | chosen.said


def _evaluate_file(
    loaded: Loaded, task: Task, data: Path, columns: ColumnsConfig
) -> dict[str, Any]:
    started = time.monotonic()
    source = task.read(data, columns, loaded.facts, labelled=True)
    max_length = int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))
    scorer = task.scorer()
    rows = 0
    for example, found in answer(
        task, cast(TaskModel, loaded.model), loaded.tokenizer, source.examples, max_length
    ):
        scorer.add(example, found)
        rows += 1
    if not rows:
        raise DataError(f"{data}: holds no rows; expected labelled ones")
    return scorer.scores() | {
        "rows": rows,
        "seconds": time.monotonic() - started,
        "columns": source.said,
        **({"types": scorer.by_type()} if isinstance(scorer, TagScorer) else {}),
    }
