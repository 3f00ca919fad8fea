"""Reads questions from tables, of which each row is a question with its context."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.questions import Marked, Purpose, Record, checked_text, refuse
from bertsmith.data.tables import Row, Table
from bertsmith.errors import DataError

# Names of columns in order of preference.
QUESTION_NAMES = ("question", "query", "question_text")
CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "article", "text")
ANSWER_NAMES = ("answers", "answer", "answer_text", "label", "selected_text")
START_NAMES = ("answer_start", "start")


def choose_question_columns(
    table: Table, config: ColumnsConfig, purpose: Purpose, known: Columns | None
) -> Columns:
    """Returns the columns of a table: the question as text, the context as its pair.

    Raises:
        MissingInputError: a column that a flag names is not there.
        DataError: the question, the context or the answer cannot be guessed.
    """
    free = [name for name in table.columns if name not in (config.label_column, config.id_column)]
    plain = {name.strip().casefold().replace(" ", "_"): name for name in free}
    found: dict[str, Any] = {}
    for flag, names, remembered in (
        ("text_column", QUESTION_NAMES, known and known.text),
        ("pair_column", CONTEXT_NAMES, known and known.pair),
    ):
        if getattr(config, flag):
            continue
        name = remembered if remembered in table.columns else None
        name = name or next((plain[other] for other in names if other in plain), None)
        if name is None:
            what = "question" if flag == "text_column" else "context"
            raise DataError(
                f"{table.path}: no column is known to hold the {what}; found "
                f"{', '.join(map(repr, table.columns[:12]))}: name it with "
                f"--{flag.replace('_', '-')}"
            )
        found[flag] = name
    label_names = None if purpose == "predicting" else ANSWER_NAMES
    columns = choose_columns(table, replace(config, **found), label_names=label_names, known=known)
    guessed = {"text": "text_column" in found, "pair": "pair_column" in found} if not known else {}
    told = tuple(role for role, is_guessed in guessed.items() if is_guessed)
    return replace(columns, guessed=tuple(dict.fromkeys((*told, *columns.guessed))))


def table_records(table: Table, columns: Columns) -> Iterator[Record]:
    """Yields the questions of a table, with their answers where a column of these is chosen.

    Raises:
        DataError: a cell is not as it must be; the message names file and line.
    """
    assert columns.pair is not None, "a table of questions has contexts"
    start_column = None
    if columns.label:
        start_column = next((name for name in START_NAMES if name in table.columns), None)
    wanted = [*columns.names(), *([start_column] if start_column else [])]
    context = ""
    for row in table.rows(wanted):
        text = row.text(columns.pair)
        if not text.strip():
            raise DataError(
                f"{row.where}: {columns.pair!r} is empty; expected a text: fill it or drop the row"
            )
        context = context if context == text else text  # one object for neighbours that share it
        yield Record(
            row.where,
            row.value(columns.id) if columns.id else str(row.number),
            row.text(columns.text),
            context,
            tuple(_cell_answers(row, columns.label, start_column)) if columns.label else (),
        )


def _cell_answers(row: Row, column: str, start_column: str | None) -> Iterator[Marked]:
    """Yields the answers of one row: a text, a list of texts, or what `datasets` makes of SQuAD."""
    cell = row.cells.get(column)
    if cell is None or cell == "":
        return
    starts: list[Any] = [row.cells.get(start_column) if start_column else None]
    texts: list[Any] = [cell]
    if isinstance(cell, dict):
        texts, starts = cell.get("text"), cell.get("answer_start") or []  # type: ignore[assignment]
    elif isinstance(cell, list):
        objects = [answer if isinstance(answer, dict) else {"text": answer} for answer in cell]
        texts = [answer.get("text") for answer in objects]
        starts = [answer.get("answer_start") for answer in objects]
    if not isinstance(texts, list) or not isinstance(starts, list):
        refuse(row.where, column, cell, "a text, a list of texts, or lists 'text', 'answer_start'")
    for text, start in itertools.zip_longest(texts, starts):
        if not isinstance(text, str):
            refuse(row.where, column, text, "a text for each answer")
        yield Marked(checked_text(text, column, row.where), _whole(row, start))


def _whole(row: Row, start: Any) -> int | None:
    if start is None or start == "":
        return None
    try:
        if isinstance(start, str) or (isinstance(start, float) and start.is_integer()):
            return int(start)
    except ValueError:
        pass
    if type(start) is not int:
        refuse(row.where, "answer_start", start, "a whole number")
    return start
