"""Reads files of questions, strictly: those in the form of SQuAD 1.1 and 2.0, and tables.

In SQuAD's form a `.json` file (also `.json.gz`) holds articles of paragraphs, each a context with
its questions.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns
from bertsmith.data.question_tables import choose_question_columns, table_records
from bertsmith.data.questions import (
    Marked,
    Purpose,
    Question,
    Record,
    Tally,
    checked_text,
    mended_questions,
    refuse,
    shown_kind,
)
from bertsmith.data.tables import open_table
from bertsmith.errors import DataError, MissingInputError
from bertsmith.storage import strict_json


@dataclass(frozen=True)
class QuestionFile:
    """An opened and checked file of questions, read again with each iteration."""

    tally: Tally
    columns: Columns | None  # of a table
    known_columns: tuple[str, ...]
    _records: Callable[[], Iterator[Record]]
    _purpose: Purpose

    def __iter__(self) -> Iterator[Question]:
        """Yields the questions in file order, without those that are dropped."""
        return mended_questions(self._records(), self._purpose, Tally())

    def said(self) -> str:
        """Returns in words what is read as what, and what was found."""
        columns = [self.columns.said()] if self.columns else []
        return "; ".join([*columns, self.tally.said()])


def open_questions(
    path: Path, config: ColumnsConfig, purpose: Purpose, known: Columns | None = None
) -> QuestionFile:
    """Returns a file's questions, after one pass over all of them that checks and counts.

    For training, a question none of whose answers stands in its context is left out. For scoring
    it stays, since official metrics count it. For predictions answers are not read.

    Args:
        path: `.json` in the form of SQuAD, or a table.
        config: columns that flags name: the question is `text_column`, the context `pair_column`,
            the answer `label_column`.
        purpose: what the questions are read for.
        known: the columns that were read in training.

    Raises:
        MissingInputError: the file or a column is not there.
        DataError: it is not of that form, or, for predictions, an id stands twice.
    """
    name = path.name.lower().removesuffix(".gz")
    columns: Columns | None = None
    known_columns: tuple[str, ...] = ("id",)
    if name.endswith(".json"):
        articles = _member(_read_json(path, config.file_encoding), "data", list, str(path))
        records = partial(_squad_records, str(path), articles, purpose)
    else:
        table = open_table(path, config)
        columns = choose_question_columns(table, config, purpose, known)
        records = partial(table_records, table, columns)
        known_columns = table.columns
    tally = Tally()
    for _ in mended_questions(records(), purpose, tally):
        pass
    return QuestionFile(tally, columns, known_columns, records, purpose)


# ---------------------------------------------------------------------------------- SQuAD's form


def _squad_records(path: str, articles: list[Any], purpose: Purpose) -> Iterator[Record]:
    for number, article in enumerate(articles):
        at_article = f"{path}: data[{number}]"
        paragraphs = _member(article, "paragraphs", list, at_article)
        for place, paragraph in enumerate(paragraphs):
            at_paragraph = f"{at_article}.paragraphs[{place}]"
            context = _text(paragraph, "context", at_paragraph)
            if not context.strip():
                raise DataError(f"{at_paragraph}: 'context' is empty; expected a text")
            questions = _member(paragraph, "qas", list, at_paragraph)
            for index, question in enumerate(questions):
                at_question = f"{at_paragraph}.qas[{index}]"
                answers: tuple[Marked, ...] = ()
                if purpose != "predicting":
                    answers = _squad_answers(question, at_question)
                yield Record(
                    at_question,
                    _identity(question, at_question),
                    _text(question, "question", at_question),
                    context,
                    answers,
                )


def _squad_answers(question: Any, where: str) -> tuple[Marked, ...]:
    is_impossible = isinstance(question, dict) and question.get("is_impossible", False)
    if not isinstance(is_impossible, bool):
        refuse(where, "is_impossible", is_impossible, "true or false")
    if is_impossible and "answers" not in question:
        return ()
    answers = _member(question, "answers", list, where)
    if is_impossible and answers:
        raise DataError(
            f"{where}: is_impossible is true, but there are {len(answers)} answers; "
            f"expected none, or is_impossible false"
        )
    return tuple(
        Marked(_text(answer, "text", f"{where}.answers[{place}]"), _start(answer, where, place))
        for place, answer in enumerate(answers)
    )


def _start(answer: Mapping[str, Any], where: str, place: int) -> int | None:
    start = answer.get("answer_start")
    if start is not None and type(start) is not int:
        refuse(f"{where}.answers[{place}]", "answer_start", start, "a whole number")
    return start


def _identity(question: Any, where: str) -> str:
    found = _member(question, "id", (str, int), where)
    return checked_text(str(found), "id", where)


def _text(holder: Any, key: str, where: str) -> str:
    return checked_text(_member(holder, key, str, where), key, where)


def _member(holder: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns a member of a JSON object after a look at its type."""
    if not isinstance(holder, dict):
        raise DataError(f"{where}: holds {shown_kind(holder)}; expected an object with {key!r}")
    if key not in holder:
        raise DataError(
            f"{where}: has no {key!r}; found {', '.join(map(repr, holder)) or 'nothing'}: "
            f"expected the form of SQuAD"
        )
    found = holder[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        refuse(where, key, found, "a list" if kind is list else "text")
    return found


def _read_json(path: Path, encoding: str) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: is not a whole gzip file ({error}); fetch it again") from None
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte 0x{content[error.start]:02x} at offset {error.start} is not {encoding} "
            f"({error.reason}); name the right encoding with --file-encoding"
        ) from None
    try:
        return strict_json(text)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data":
            hint = ": a file of one object a line is named .jsonl"
        raise DataError(
            f"{path}:{error.lineno}: {error.msg} at column {error.colno}; "
            f"expected one JSON object in the form of SQuAD{hint}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected the form of SQuAD") from None
