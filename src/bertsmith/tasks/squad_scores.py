"""Scores of answers to questions, as the published evaluation programs of three sets define them.

SQuAD 1.1 and 2.0 compare words without case, punctuation, articles and surplus white space; CMRC
2018 compares Chinese characters. Of several right answers the one that fits best counts.

Source: `evaluate-v1.1.py`, `evaluate-v2.0.py` (Rajpurkar et al. 2016, 2018);
`cmrc2018_evaluate.py` (Cui et al. 2019).
"""

from __future__ import annotations

import re
import string
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bertsmith.text.sentences import is_chinese

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
# Words and numbers stand whole between Chinese characters, other marks alone.
_CHINESE_UNITS = re.compile(r"[\u4e00-\u9fa5]|[0-9]+(?:[.,][0-9]+)*|[^\W\u4e00-\u9fa5]+|[^\w\s]")


def score_answer(
    prediction: str, answers: Sequence[str], context: str, *, may_lack: bool
) -> tuple[float, float]:
    """Returns exact match and F1 of a prediction, each from 0 to 1.

    Args:
        prediction: the text, empty where no answer is predicted.
        answers: the right ones; none where there is no answer.
        context: decides the language: Chinese is scored as in CMRC 2018.
        may_lack: whether the rules are those of SQuAD 2.0, by which an answer of articles and
            punctuation alone is none; else of 1.1.
    """
    if answers and is_chinese(context):
        return score_chinese(prediction, answers)
    rate = _f1
    if may_lack or not answers:
        rate = _f1_or_none
        answers = [answer for answer in answers if normalized(answer)] or [""]
    found = normalized(prediction)
    golds = [normalized(answer) for answer in answers]
    return float(found in golds), max(rate(found.split(), gold.split()) for gold in golds)


def normalized(answer: str) -> str:
    """Returns an answer in lower case without punctuation, articles and surplus white space."""
    bare = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _f1(found: list[str], gold: list[str]) -> float:
    shared = (Counter(found) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _f1_or_none(found: list[str], gold: list[str]) -> float:
    return _f1(found, gold) if found and gold else float(found == gold)


def score_chinese(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Returns exact match and F1 by characters; F1 is that of the longest run that both share.

    The published program cuts Latin words by NLTK's rules, here they are runs of letters.
    """
    found = prediction.lower().strip().translate(_CHINESE_PUNCTUATION)
    golds = [answer.lower().strip().translate(_CHINESE_PUNCTUATION) for answer in answers]
    return float(found in golds), max(_run_f1(found, gold) for gold in golds)


def _run_f1(found: str, gold: str) -> float:
    first, second = _CHINESE_UNITS.findall(found), _CHINESE_UNITS.findall(gold)
    longest = 0
    before = [0] * (len(second) + 1)  # lengths of the runs that end at each unit of the second
    for unit in first:
        runs = [0]
        for place, other in enumerate(second):
            runs.append(before[place] + 1 if unit == other else 0)
        longest = max(longest, *runs)
        before = runs
    if not longest:
        return 0.0
    precision, recall = longest / len(first), longest / len(second)
    return 2 * precision * recall / (precision + recall)


def best_threshold(
    scores: NDArray[np.floating],
    odds: NDArray[np.floating],
    has_answer: NDArray[np.bool_],
    is_text: NDArray[np.bool_],
) -> tuple[float, float]:
    """Returns the best mean score, 0 to 100, and the threshold on `odds` that gives it.

    A question whose odds of having no answer are above the threshold is answered with none. The
    threshold is the odds of the last question that is answered; where it is best to answer none,
    it is 1 below the lowest odds. Questions of equal odds are answered together.

    Source: `find_best_thresh` of `evaluate-v2.0.py`, which takes equal odds one by one.

    Args:
        scores: of the answers, if they are given. [N]
        odds: of there being no answer. [N]
        has_answer: whether there is one. [N]
        is_text: whether the answer, if it is given, is not empty. [N]
    """
    order = np.argsort(odds, kind="stable")
    gains = np.where(has_answer, scores, np.where(is_text, -1.0, 0.0))[order]  # [N]
    totals = (~has_answer).sum() + np.cumsum(gains)  # [N]
    ordered = odds[order]  # [N]
    totals[:-1][ordered[1:] == ordered[:-1]] = -np.inf
    best = int(np.argmax(totals))
    if totals[best] <= (~has_answer).sum():
        return 100.0 * float((~has_answer).mean()), float(ordered[0]) - 1.0
    return 100.0 * float(totals[best]) / len(scores), float(ordered[best])


class AnswerScores:
    """Exact match and F1 of many answers; of each it keeps a few numbers.

    `may_lack` says whether the rules are those of SQuAD 2.0; see `score_answer`.
    """

    def __init__(self, *, may_lack: bool) -> None:
        self._may_lack = may_lack
        self._has_answer = array("b")
        self._is_text = array("b")
        self._numbers = array("d")  # exact and F1 as answered; exact and F1 of the text; odds

    def add(
        self, answers: Sequence[str], context: str, chosen: str, text: str, odds: float
    ) -> None:
        """Takes in one question.

        Args:
            answers: the right ones; none where there is no answer.
            context: what it was asked of.
            chosen: what was answered.
            text: what would be answered if there were surely an answer.
            odds: score of there being no answer, less that of `text`.
        """
        of_text = score_answer(text, answers, context, may_lack=self._may_lack)
        of_chosen = of_text
        if chosen != text:
            of_chosen = score_answer(chosen, answers, context, may_lack=self._may_lack)
        self._has_answer.append(bool(answers))
        self._is_text.append(bool(text))
        self._numbers.extend((*of_chosen, *of_text, odds))

    def best_f1_threshold(self) -> float | None:
        """Returns the odds above which to answer none; None unless both kinds of question came."""
        has_answer, is_text, numbers = self._arrays()
        if not has_answer.any() or has_answer.all():
            return None
        return best_threshold(numbers[:, 3], numbers[:, 4], has_answer, is_text)[1]

    def scores(self) -> dict[str, float]:
        """Returns `exact_match` and `f1`, 0 to 100, and by the rules of 2.0 those of each kind.

        `HasAns_` and `NoAns_` figures are those of questions with and without an answer; `best_`
        figures are with the threshold that suits these very questions best.
        """
        has_answer, is_text, numbers = self._arrays()
        found = {
            "exact_match": 100.0 * float(numbers[:, 0].mean()),
            "f1": 100.0 * float(numbers[:, 1].mean()),
        }
        if has_answer.all() and not self._may_lack:
            return found
        for name, part in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if part.any():
                found[f"{name}_exact"] = 100.0 * float(numbers[part, 0].mean())
                found[f"{name}_f1"] = 100.0 * float(numbers[part, 1].mean())
                found[f"{name}_total"] = int(part.sum())
        if self._may_lack:
            for column, name in ((2, "exact"), (3, "f1")):
                best, threshold = best_threshold(
                    numbers[:, column], numbers[:, 4], has_answer, is_text
                )
                found |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
        return found

    def _arrays(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
        return (
            np.array(self._has_answer, dtype=bool),  # [N]
            np.array(self._is_text, dtype=bool),  # [N]
            np.array(self._numbers, dtype=np.float64).reshape(-1, 5),  # [N, 5]
        )
