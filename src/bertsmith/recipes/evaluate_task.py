"""How good a fine-tuned model is on a labelled file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.tables import open_table
from bertsmith.errors import DataError
from bertsmith.folder import load_model
from bertsmith.model.heads import BertForClassification, BertForRegression
from bertsmith.tasks.answers import answer
from bertsmith.tasks.labelled import read_examples
from bertsmith.tasks.task import task_of


def evaluate_task(model: Path, data: Path, columns: ColumnsConfig | None = None) -> dict[str, Any]:
    """Returns the task's metrics by their usual names, with `rows`, `seconds` and `columns`.

    The columns are those that flags name, or that the model was trained on, or guessed.

    Raises:
        DataError: there are no rows, or a label that the model does not know; its row is named.
        CheckpointError: the model has no task.
    """
    started = time.monotonic()
    columns = columns or ColumnsConfig()
    loaded = load_model(model)
    task = task_of(loaded.facts, str(model))
    assert isinstance(loaded.model, BertForClassification | BertForRegression), "it has a task"
    remembered = loaded.facts.get("columns")
    known = Columns(**remembered) if remembered else None
    table = open_table(data, columns)
    chosen = choose_columns(table, columns, label_names=task.label_names, known=known)
    if known and (known.pair is None) != (chosen.pair is None):
        raise DataError(
            f"{data}: {chosen.said()}; expected as in training, {known.said()}: "
            f"name the columns by flags"
        )
    examples = list(read_examples(table, chosen))
    if not examples:
        raise DataError(f"{data}: holds no rows; expected labelled ones")
    for example in examples:
        task.encode(example)  # refuses an unknown label before the model runs
    max_length = int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))
    answers = answer(task, loaded.model, loaded.tokenizer, examples, max_length)
    predictions = [found for _, found in answers]
    return task.score(examples, predictions) | {
        "rows": len(examples),
        "seconds": time.monotonic() - started,
        "columns": chosen.said(),
    }
