"""Answers are scored by the rules that SQuAD 1.1, SQuAD 2.0 and CMRC 2018 publish."""

from __future__ import annotations

import re
import string
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.tasks.squad_scores import (
    AnswerScores,
    best_threshold,
    normalized,
    score_answer,
    score_chinese,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Cat", "cat"),
        ("a cat, an owl & the dog!", "cat owl dog"),
        ("  two \t spaces\n", "two spaces"),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("a-b", "ab"),  # punctuation goes first, so that no article is left
        ("“a”", "“ ”"),  # only ASCII punctuation is taken away
        ("théâtre a", "théâtre"),
        ("another thesis", "another thesis"),
        ("$5.50", "550"),
    ],
)
def test_case_punctuation_articles_and_white_space_do_not_count(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the Cat.", ["cat"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat", ["the big black cat", "black cat"], 0, 2 / 3),  # the best of several
        ("cat", ["dog", "cat"], 1, 1),
        ("cat cat", ["cat"], 0, 2 / 3),  # each word is shared once
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
    ],
)
@pytest.mark.parametrize("may_lack", [False, True])
def test_the_best_of_several_right_answers_counts(
    prediction: str, answers: list[str], exact: float, f1: float, may_lack: bool
) -> None:
    found = score_answer(prediction, answers, "english", may_lack=may_lack)
    assert found == pytest.approx((exact, f1))


@pytest.mark.parametrize("may_lack", [False, True])
def test_where_there_is_no_answer_only_none_is_right(may_lack: bool) -> None:
    assert score_answer("", [], "english", may_lack=may_lack) == (1, 1)
    assert score_answer("cat", [], "english", may_lack=may_lack) == (0, 0)
    assert score_answer("the", [], "english", may_lack=may_lack) == (1, 1)


def test_an_answer_of_articles_alone_is_none_by_the_rules_of_2_alone() -> None:
    assert score_answer("the", ["the"], "english", may_lack=False) == (1, 0)
    assert score_answer("the", ["the"], "english", may_lack=True) == (1, 1)
    assert score_answer("", ["the", "cat"], "english", may_lack=False) == (1, 0)
    assert score_answer("", ["the", "cat"], "english", may_lack=True) == (0, 0)


WORDS = st.lists(st.sampled_from(["a", "The", "cat", "dog,", "-", "Cat"]), max_size=5).map(" ".join)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_words_are_compared_as_the_rules_of_1_1_say(prediction: str, answers: list[str]) -> None:
    def bare(text: str) -> str:
        kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    def f1(found: str, gold: str) -> float:
        mine, theirs = bare(found).split(), bare(gold).split()
        same = sum((Counter(mine) & Counter(theirs)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(mine), same / len(theirs)
        return 2 * precision * recall / (precision + recall)

    exact, rate = score_answer(prediction, answers, "english", may_lack=False)
    assert exact == any(bare(prediction) == bare(answer) for answer in answers)
    assert rate == max(f1(prediction, answer) for answer in answers)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("《战国无双3》", ["战国无双3"], 1, 1),
        ("北京", ["北京大学"], 0, 2 / 3),
        ("大学北京", ["北京大学"], 0, 1 / 2),  # the longest run, not the common characters
        ("一九九八", ["1998", "一九九八年"], 0, 8 / 9),
        ("iPhone手机", ["IPHONE 手机"], 0, 1),  # a word is one unit; exact match sees the blank
        ("无", ["有"], 0, 0),
        ("", ["有"], 0, 0),
        ("，", ["有"], 0, 0),
    ],
)
def test_chinese_is_scored_by_characters(
    prediction: str, answers: list[str], exact: float, f1: float
) -> None:
    assert score_chinese(prediction, answers) == pytest.approx((exact, f1))
    context = "光荣和ω-force开发的战国无双系列的正统第三续作。"
    assert score_answer(prediction, answers, context, may_lack=False)[1] == pytest.approx(f1)


def one_by_one(
    scores: list[float], odds: list[float], has_answer: list[bool], is_text: list[bool]
) -> float:
    """Returns the best mean score over all thresholds, by trying each."""
    found = []
    for threshold in [min(odds) - 1, *odds]:
        total = 0.0
        for score, odd, has, text in zip(scores, odds, has_answer, is_text, strict=True):
            if odd > threshold:
                total += not has
            else:
                total += score if has else not text
        found.append(100 * total / len(scores))
    return max(found)


@pytest.mark.parametrize("seed", range(30))
def test_no_threshold_is_better_than_the_best(seed: int) -> None:
    rng = Random(seed)
    count = rng.randint(1, 12)
    has_answer = [rng.random() < 0.5 for _ in range(count)]
    is_text = [rng.random() < 0.9 for _ in range(count)]
    scores = [
        rng.random() if has else float(not text)
        for has, text in zip(has_answer, is_text, strict=True)
    ]
    odds = [float(rng.randint(-4, 4)) for _ in range(count)]  # some are equal
    best, threshold = best_threshold(
        np.array(scores), np.array(odds), np.array(has_answer), np.array(is_text)
    )
    assert best == pytest.approx(one_by_one(scores, odds, has_answer, is_text))
    reached = 0.0
    for score, odd, has, text in zip(scores, odds, has_answer, is_text, strict=True):
        if odd > threshold:
            reached += not has
        else:
            reached += score if has else not text
    assert 100 * reached / count == pytest.approx(best)


def test_figures_are_those_of_all_and_of_each_kind() -> None:
    scores = AnswerScores(may_lack=True)
    # answers, chosen, best text, odds
    scores.add(["cat"], "c", "cat", "cat", -3.0)
    scores.add(["black cat"], "c", "", "cat", 2.0)  # lost by the threshold 0
    scores.add([], "c", "dog", "dog", -1.0)
    scores.add([], "c", "", "dog", 4.0)
    assert scores.scores() == {
        "exact_match": 50.0,
        "f1": 50.0,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
        "best_exact": 75.0,
        "best_exact_thresh": -3.0,
        "best_f1": 75.0,
        "best_f1_thresh": -3.0,
    }
    assert scores.best_f1_threshold() == -3.0


def test_without_unanswerable_questions_there_are_two_figures() -> None:
    scores = AnswerScores(may_lack=False)
    scores.add(["cat"], "c", "cat", "cat", 0.0)
    scores.add(["black cat"], "c", "cat", "cat", 0.0)
    assert scores.scores() == {"exact_match": 50.0, "f1": pytest.approx(100 * 5 / 6)}
    assert scores.best_f1_threshold() is None
