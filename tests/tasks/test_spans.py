"""Windows cover a context, and the best spans are those that a look at every span finds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.config import CasingConfig, TaskConfig
from bertsmith.tasks.spans import (
    AnswerFeatures,
    Span,
    best_spans,
    encode_context,
    no_answer_score,
    question_features,
    targets_of,
    window_starts,
)
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS)]
TOKENIZER = Tokenizer(Vocabulary(PIECES), CasingConfig())


def features(context: str, max_length: int = 16, **options: Any) -> AnswerFeatures:
    return question_features("q r", context, TOKENIZER, max_length, TaskConfig(**options))


def random_scores(row: AnswerFeatures, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(part), 2, generator=generator) for part in row.sequences]


@given(st.integers(0, 600), st.integers(1, 200), st.integers(1, 200))
def test_windows_are_those_of_the_published_program(size: int, room: int, stride: int) -> None:
    expected = []
    start = 0
    while start < size:
        length = min(size - start, room)
        expected.append((start, length))
        if start + length == size:
            break
        start += min(length, stride)
    starts = window_starts(size, room, stride)
    assert [(s, min(room, size - s)) for s in starts] == (expected or [(0, 0)])


def test_a_window_is_question_and_part_of_the_context() -> None:
    row = features("a b c d e f g h i j k l m n", 12, doc_stride=4)
    shown = [[PIECES[n] for n in part.piece_ids] for part in row.sequences]
    assert shown == [
        ["[CLS]", "q", "r", "[SEP]", *"abcdefg", "[SEP]"],
        ["[CLS]", "q", "r", "[SEP]", *"efghijk", "[SEP]"],
        ["[CLS]", "q", "r", "[SEP]", *"ijklmn", "[SEP]"],
    ]
    assert row.sequences[0].segment_ids.tolist() == [0] * 4 + [1] * 8
    assert (row.firsts, row.offset, row.was_cut) == ((0, 4, 8), 4, False)


def test_a_long_question_is_cut_and_that_is_noted() -> None:
    row = question_features("a b c d", "x", TOKENIZER, 64, TaskConfig(max_query_length=3))
    assert (row.offset, row.was_cut) == (5, True)
    row = question_features("a " * 99, "x y z", TOKENIZER, 9, TaskConfig())
    assert [len(part) for part in row.sequences] == [9]


def test_a_context_without_pieces_is_one_window_of_nothing() -> None:
    row = features("\u200b\u200d")
    assert [len(part) for part in row.sequences] == [5]
    outputs = random_scores(row, 0)
    assert list(best_spans(row, outputs, longest=5, most=5)) == []
    assert targets_of(row, (0, 1)) == ((0, 0),)


def test_targets_point_at_the_answer_in_each_window_that_holds_all_of_it() -> None:
    context = "a b c d e f g h i j k l m n"
    row = features(context, 12, doc_stride=4)
    start = context.index("e")
    assert targets_of(row, (start, start + 5)) == ((8, 10), (4, 6), (0, 0))
    assert targets_of(row, (start - 2, start + 1)) == ((7, 8), (0, 0), (0, 0))
    assert targets_of(row, None) == ((0, 0), (0, 0), (0, 0))


@given(st.text("aé\u0301 中.\u200bB", max_size=30), st.data())
@settings(max_examples=200)
def test_the_pieces_of_a_span_cover_its_characters(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(start, len(context)))
    pieces = encode_context(context, TOKENIZER)
    found = pieces.span_of(start, end)
    touched = [
        n
        for n, (first, last) in enumerate(zip(pieces.starts, pieces.ends, strict=True))
        if first < end and last > start and start < end
    ]
    if touched:
        assert found == (touched[0], touched[-1])
        begin, stop = pieces.characters(*found, context)
        assert begin == pieces.starts[touched[0]]
        assert stop >= pieces.ends[touched[-1]] > begin
    elif start < end:
        assert found is None


def test_text_is_cut_out_of_the_context_with_the_accents_that_follow() -> None:
    context = "Un cafe\u0301 noir"
    pieces = encode_context(context, TOKENIZER)
    found = pieces.span_of(3, 8)
    assert found is not None
    assert context[slice(*pieces.characters(*found, context))] == "cafe\u0301"


def every_span(row: AnswerFeatures, outputs: list[torch.Tensor], longest: int) -> list[Span]:
    """Returns all spans by the words of the published program, best first."""

    def worth(window: int, piece: int) -> float:
        size = len(row.sequences[window]) - row.offset - 1
        place = piece - row.firsts[window]
        if not 0 <= place < size:
            return -1.0
        return min(place, size - 1 - place) + 0.01 * size

    found = []
    windows = range(len(row.firsts))
    for window in windows:
        size = len(row.sequences[window]) - row.offset - 1
        for first in range(row.firsts[window], row.firsts[window] + size):
            if max(windows, key=lambda other: worth(other, first)) != window:
                continue
            for last in range(first, min(first + longest, row.firsts[window] + size)):
                shift = row.offset - row.firsts[window]
                starts, ends = outputs[window].double()[:, 0], outputs[window].double()[:, 1]
                score = float(starts[first + shift] + ends[last + shift])
                found.append(Span(score, first, last))
    return sorted(found, key=lambda span: -span.score)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_spans_are_found_over_all_windows(seed: int) -> None:
    rng = Random(seed)
    context = " ".join(rng.choices(LETTERS, k=rng.randint(1, 60)))
    row = features(context, rng.choice([8, 12, 30]), doc_stride=rng.choice([1, 3, 5, 50]))
    outputs = random_scores(row, seed)
    for longest, most in ((1, 5), (4, 20), (100, 7), (3, 10_000)):
        found = list(best_spans(row, outputs, longest=longest, most=most))
        assert found == every_span(row, outputs, longest)[:most]


def test_the_score_of_no_answer_is_that_of_the_window_least_for_it() -> None:
    row = features("a b c d e f g h i j k l m n", 12, doc_stride=4)
    outputs = random_scores(row, 3)
    assert len(outputs) == 3
    assert no_answer_score(outputs) == pytest.approx(min(float(o[0].sum()) for o in outputs))
