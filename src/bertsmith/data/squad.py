"""Reads questions on contexts, strictly: files in the form of SQuAD 1.1 and 2.0, and flat tables.

In SQuAD's form a `.json` file (also `.json.gz`) holds articles of paragraphs, each a context with
its questions. In a table a row is a question with its context. An answer is the text that people
marked and the character at which it begins; where the context does not hold it there, it is looked
for, and all that was mended or left out is counted, so that it can be said aloud.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.tables import Row, Table, open_table
from bertsmith.errors import DataError, MissingInputError

Purpose = Literal["training", "scoring", "predicting"]

# Names of columns in order of preference.
QUESTION_NAMES = ("question", "query", "question_text")
CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "article", "text")
ANSWER_NAMES = ("answers", "answer", "answer_text", "label", "selected_text")
START_NAMES = ("answer_start", "start")


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a context, and what people answered."""

    where: str  # the file and the path or the line in it, for messages
    id: str
    question: str
    context: str  # one object for all questions of a paragraph
    answers: tuple[str, ...] = ()  # as people gave them; none where the context holds none
    span: tuple[int, int] | None = None  # characters of the first answer found in the context


@dataclass
class Tally:
    """What was found in a file of questions, and what was mended or left out."""

    questions: int = 0
    unanswerable: int = 0
    blank: int = 0  # questions without words
    repeated: int = 0  # questions whose id stood before
    moved: int = 0  # answers that stand elsewhere than the file says
    unplaced: int = 0  # answers without an offset that stand in several places
    lost: int = 0  # answers that do not stand in their context
    dropped: int = 0  # questions left out of training, since all their answers are lost

    def said(self) -> str:
        """Returns in words what was found."""
        parts = [f"{self.questions:,} questions"]
        told = {
            "without an answer in the context": self.unanswerable,
            "empty": self.blank,
            "with an id that stood before": self.repeated,
        }
        parts += [f"{count:,} of them {what}" for what, count in told.items() if count]
        mended = {
            "answers stand elsewhere than the file says: the nearest place is taken": self.moved,
            "answers have no offset and stand more than once: the first is taken": self.unplaced,
            "answers do not stand in their context": self.lost,
            "questions are left out of training for that": self.dropped,
        }
        parts += [f"{count:,} {what}" for what, count in mended.items() if count]
        return "; ".join(parts)


@dataclass(frozen=True)
class Marked:
    """An answer as a file gives it; `start` is None where it does not say at which character."""

    text: str
    start: int | None


@dataclass(frozen=True)
class _Record:
    where: str
    id: str
    question: str
    context: str
    answers: tuple[Marked, ...]


@dataclass(frozen=True)
class QuestionFile:
    """An opened and checked file of questions, read again with each iteration."""

    tally: Tally
    columns: Columns | None  # of a table
    known_columns: tuple[str, ...]
    _records: Callable[[], Iterator[_Record]]
    _purpose: Purpose

    def __iter__(self) -> Iterator[Question]:
        """Yields the questions in file order, without those that are dropped."""
        return _questions(self._records(), self._purpose, Tally())

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
        columns = _choose(table, config, purpose, known)
        records = partial(_table_records, table, columns)
        known_columns = table.columns
    tally = Tally()
    for _ in _questions(records(), purpose, tally):
        pass
    return QuestionFile(tally, columns, known_columns, records, purpose)


def place_answer(context: str, answer: Marked) -> tuple[int, int] | None:
    """Returns the characters [start, end) of the occurrence of an answer nearest to its offset.

    White space around the answer is left out. None: the context does not hold it.
    """
    text = answer.text.strip()
    if not text:
        return None
    lead = len(answer.text) - len(answer.text.lstrip())
    wanted = max(0, (answer.start or 0) + lead)
    after = context.find(text, wanted)
    before = context.rfind(text, 0, wanted + len(text))
    places = [place for place in (after, before) if place >= 0]
    if not places:
        return None
    start = min(places, key=lambda place: abs(place - wanted))
    return start, start + len(text)


def _questions(records: Iterator[_Record], purpose: Purpose, tally: Tally) -> Iterator[Question]:
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen and purpose == "predicting":
            raise DataError(
                f"{record.where}: the id {record.id!r} stands already at {seen[record.id]}; "
                f"expected each id once, since answers are told apart by it"
            )
        span = None
        for answer in record.answers:
            place = place_answer(record.context, answer)
            _count_place(tally, record.context, answer, place)
            span = span or place
        if purpose == "training" and record.answers and span is None:
            tally.dropped += 1
            continue
        tally.questions += 1
        tally.unanswerable += purpose != "predicting" and not record.answers
        tally.blank += not record.question.strip()
        tally.repeated += record.id in seen
        seen.setdefault(record.id, record.where)
        texts = tuple(answer.text for answer in record.answers)
        yield Question(record.where, record.id, record.question, record.context, texts, span)


def _count_place(tally: Tally, context: str, answer: Marked, place: tuple[int, int] | None) -> None:
    if place is None:
        tally.lost += 1
    elif answer.start is None:
        tally.unplaced += context.find(answer.text.strip(), place[0] + 1) >= 0
    else:
        lead = len(answer.text) - len(answer.text.lstrip())
        tally.moved += place[0] != answer.start + lead


# ---------------------------------------------------------------------------------- SQuAD's form


def _squad_records(path: str, articles: list[Any], purpose: Purpose) -> Iterator[_Record]:
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
                yield _Record(
                    at_question,
                    _identity(question, at_question),
                    _text(question, "question", at_question),
                    context,
                    answers,
                )


def _squad_answers(question: Any, where: str) -> tuple[Marked, ...]:
    is_impossible = isinstance(question, dict) and question.get("is_impossible", False)
    if not isinstance(is_impossible, bool):
        _refuse(where, "is_impossible", is_impossible, "true or false")
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
        _refuse(f"{where}.answers[{place}]", "answer_start", start, "a whole number")
    return start


def _identity(question: Any, where: str) -> str:
    found = _member(question, "id", (str, int), where)
    return _checked(str(found), "id", where)


def _text(holder: Any, key: str, where: str) -> str:
    return _checked(_member(holder, key, str, where), key, where)


def _checked(text: str, key: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key!r} holds half a surrogate pair at character {error.start}; "
            f"expected whole characters"
        ) from None
    return text


def _member(holder: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Returns a member of a JSON object after a look at its type."""
    if not isinstance(holder, dict):
        raise DataError(f"{where}: holds {_kind(holder)}; expected an object with {key!r}")
    if key not in holder:
        raise DataError(
            f"{where}: has no {key!r}; found {', '.join(map(repr, holder)) or 'nothing'}: "
            f"expected the form of SQuAD"
        )
    found = holder[key]
    if not isinstance(found, kind) or isinstance(found, bool):
        _refuse(where, key, found, "a list" if kind is list else "text")
    return found


def _refuse(where: str, key: str, found: Any, expected: str) -> NoReturn:
    raise DataError(f"{where}: {key!r} holds {_kind(found)}; expected {expected}")


def _kind(found: Any) -> str:
    if isinstance(found, dict | list):
        return "an object" if isinstance(found, dict) else "a list"
    return "nothing" if found is None else f"{type(found).__name__} {str(found)[:40]!r}"


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
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data":
            hint = ": a file of one object a line is named .jsonl"
        raise DataError(
            f"{path}:{error.lineno}: {error.msg} at column {error.colno}; "
            f"expected one JSON object in the form of SQuAD{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: {reason}; expected the form of SQuAD") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# ---------------------------------------------------------------------------------- tables


def _choose(
    table: Table, config: ColumnsConfig, purpose: Purpose, known: Columns | None
) -> Columns:
    """Returns the columns of a table: the question as text, the context as its pair."""
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


def _table_records(table: Table, columns: Columns) -> Iterator[_Record]:
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
        yield _Record(
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
        _refuse(row.where, column, cell, "a text, a list of texts, or lists 'text', 'answer_start'")
    for text, start in itertools.zip_longest(texts, starts):
        if not isinstance(text, str):
            _refuse(row.where, column, text, "a text for each answer")
        yield Marked(_checked(text, column, row.where), _whole(row, start))


def _whole(row: Row, start: Any) -> int | None:
    if start is None or start == "":
        return None
    try:
        if isinstance(start, str) or (isinstance(start, float) and start.is_integer()):
            return int(start)
    except ValueError:
        pass
    if type(start) is not int:
        _refuse(row.where, "answer_start", start, "a whole number")
    return start
