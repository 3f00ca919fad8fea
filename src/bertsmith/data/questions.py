"""A question on a context, with the answers that people marked; what is wrong is mended or counted.

An answer is its text and the character at which it begins. Where the context does not hold it
there, it is looked for, and all that was mended or left out is counted, so that it can be said
aloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from bertsmith.errors import DataError

Purpose = Literal["training", "scoring", "predicting"]


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
class Record:
    """A question as a file gives it."""

    where: str
    id: str
    question: str
    context: str
    answers: tuple[Marked, ...]


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


def mended_questions(
    records: Iterator[Record], purpose: Purpose, tally: Tally
) -> Iterator[Question]:
    """Yields the questions of a file with their answers found in the context; fills `tally`.

    For training, questions none of whose answers is found are left out.

    Raises:
        DataError: for predictions, an id stands twice.
    """
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


def checked_text(text: str, key: str, where: str) -> str:
    """Returns the text.

    Raises:
        DataError: it holds half a character, so that it could not be written.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key!r} holds half a surrogate pair at character {error.start}; "
            f"expected whole characters"
        ) from None
    return text


def refuse(where: str, key: str, found: Any, expected: str) -> NoReturn:
    """Raises DataError, which tells what stands at `key` and what was expected."""
    raise DataError(f"{where}: {key!r} holds {shown_kind(found)}; expected {expected}")


def shown_kind(found: Any) -> str:
    """Returns in words what stands where something else was expected."""
    if isinstance(found, dict | list):
        return "an object" if isinstance(found, dict) else "a list"
    return "nothing" if found is None else f"{type(found).__name__} {str(found)[:40]!r}"
