"""Rows of each task as a person looks at them: what was read, wanted and answered, and how wrongly.

Tasks differ in the form of their rows; data checks and reports look at all of them through the
table at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bertsmith.tasks.forms import Features, Prediction
from bertsmith.tasks.schemes import kinds_of
from bertsmith.tasks.task import Task


@dataclass(frozen=True, slots=True)
class View:
    """What a row holds; the texts are whole."""

    texts: tuple[str, ...]
    wanted: str  # empty where nothing is wanted
    labels: tuple[str, ...] | None = None  # those of the row, where `wanted` does not spell them


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row that was answered wrongly, shortened."""

    where: str
    text: str
    wanted: str
    found: str
    size: float  # how sure the model was, or how far off: to compare within a task


@dataclass(frozen=True)
class Eye:
    """How the rows of one task are looked at."""

    view: Callable[[Any], View]
    # How sure the model was of a wrong answer, or how far off it is; None where it is right.
    size: Callable[[Any, Any, Prediction], float | None]
    size_name: str
    # What was wanted and what was found, of a wrong answer; None: the view's, and the answer.
    sides: Callable[[Any, Prediction], tuple[str, str]] | None = None
    # What was wanted, as answers spell it; None: the view's.
    label: Callable[[Any], str] | None = None


def mistake_in(task: Task, example: Any, prediction: Prediction) -> Mistake | None:
    """Returns what is wrong with a prediction; None where nothing is."""
    eye = EYES[task.name]
    size = eye.size(task, example, prediction)
    if size is None:
        return None
    view = eye.view(example)
    wanted, found = view.wanted, _spelt(prediction.answer)
    if eye.sides:
        wanted, found = eye.sides(example, prediction)
    text = " | ".join(map(shortened, view.texts))
    return Mistake(example.where, text, shortened(wanted), shortened(found), size)


def label_of_row(task: Task, example: Any) -> str:
    """Returns what is wanted of a row, spelt as the task's answers are."""
    eye = EYES[task.name]
    return eye.label(example) if eye.label else eye.view(example).wanted


def shortened(text: str, longest: int = 240) -> str:
    """Returns a text in one line, its middle left out where it is long."""
    if len(text) > 4 * longest:  # what is far longer is not looked at as a whole
        text = f"{text[: 2 * longest]} {text[-2 * longest :]}"
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    head = longest * 2 // 3
    return f"{line[:head].rstrip()} … {line[head - longest + 3 :].lstrip()}"


def _spelt(answer: Any) -> str:
    if isinstance(answer, float):
        return f"{answer:.4g}"
    if isinstance(answer, str):
        return answer or "(none)"
    return ", ".join(answer) or "(none)"


# ---------------------------------------------------------------------------- texts and pairs


def _text_view(example: Any) -> View:
    texts = (example.text,) if example.pair is None else (example.text, example.pair)
    labels = example.labels if example.label_columns else None
    return View(texts, example.label or "", labels)


def _label_size(task: Any, example: Any, prediction: Prediction) -> float | None:
    """Returns the probability that was given to what is wrong; of several decisions, the worst."""
    wanted = {task.labels[number] for number in task.target(example, Features(()))}
    said, shares = prediction.answer, prediction.probabilities
    if isinstance(said, str):
        return None if said in wanted else shares[said]
    wrong = wanted ^ set(said)
    return max((abs((label in wanted) - shares[label]) for label in wrong), default=None)


def _number_size(task: Any, example: Any, prediction: Prediction) -> float | None:
    return abs(prediction.answer - float(example.label)) or None


# ------------------------------------------------------------------------------- other forms


def _choice_view(example: Any) -> View:
    stem = f"{example.stem} {example.second}".strip()
    wanted = "" if example.label is None else example.endings[example.label]
    return View((stem, *example.endings), wanted)


def _choice_size(task: Any, example: Any, prediction: Prediction) -> float | None:
    if prediction.more["index"] == example.label:
        return None
    return max(prediction.probabilities.values())


def _choice_sides(example: Any, prediction: Prediction) -> tuple[str, str]:
    return example.endings[example.label], prediction.more["ending"]


def _choice_label(example: Any) -> str:
    return example.names[example.label]


def _tagged_view(example: Any) -> View:
    tags = example.tags or ()
    return View((" ".join(example.words),), " ".join(tags), kinds_of(tags))


def _wrong_words(example: Any, prediction: Prediction) -> list[int]:
    pairs = zip(example.tags, prediction.answer, strict=True)
    return [word for word, (right, found) in enumerate(pairs) if right != found]


def _tagged_size(task: Any, example: Any, prediction: Prediction) -> float | None:
    shares = prediction.more["probabilities"]
    # A word without a piece is O without being asked, and nothing is sure of it.
    return max((shares[word] or 0.0 for word in _wrong_words(example, prediction)), default=None)


def _tagged_sides(example: Any, prediction: Prediction) -> tuple[str, str]:
    wrong = _wrong_words(example, prediction)

    def spelt(tags: Sequence[str]) -> str:
        return " ".join(f"{example.words[word]}/{tags[word]}" for word in wrong)

    return spelt(example.tags), spelt(prediction.answer)


def _question_view(example: Any) -> View:
    return View((example.question, example.context), " / ".join(example.answers))


def _question_size(task: Any, example: Any, prediction: Prediction) -> float | None:
    scorer = task.scorer()
    scorer.add(example, prediction)
    return prediction.more["probability"] if scorer.scores()["f1"] == 0 else None


def _question_sides(example: Any, prediction: Prediction) -> tuple[str, str]:
    return " / ".join(dict.fromkeys(example.answers)) or "(none)", _spelt(prediction.answer)


SURE = "sure"
EYES = {
    "classify": Eye(_text_view, _label_size, SURE),
    "regress": Eye(_text_view, _number_size, "off by"),
    "choose": Eye(_choice_view, _choice_size, SURE, _choice_sides, _choice_label),
    "tag": Eye(_tagged_view, _tagged_size, SURE, _tagged_sides),
    "answer": Eye(_question_view, _question_size, SURE, _question_sides),
}
