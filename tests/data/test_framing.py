"""Texts get their special pieces, are cut fairly, and go together with those of their length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.data.framing import frame, group_by_length, truncated_sizes
from bertsmith.errors import ConfigError
from bertsmith.text.wordpiece import Tokenizer

sizes = st.integers(0, 60)


@given(sizes, sizes, sizes)
def test_truncation_is_that_of_popping_the_longer_one(
    size_a: int, size_b: int, longest: int
) -> None:
    a, b = size_a, size_b
    while a + b > longest:  # truncate_seq_pair of the published code
        if a > b:
            a -= 1
        else:
            b -= 1
    assert truncated_sizes(size_a, size_b, longest) == (a, b)


def test_a_text_stands_between_cls_and_sep(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    framed = frame([7, 8, 9], None, vocabulary, max_length=5)
    assert framed.piece_ids.tolist() == [vocabulary.cls_id, 7, 8, 9, vocabulary.sep_id]
    assert framed.segment_ids.tolist() == [0] * 5
    assert not framed.was_cut
    cut = frame(np.array([7, 8, 9]), None, vocabulary, max_length=4)
    assert cut.piece_ids.tolist() == [vocabulary.cls_id, 7, 8, vocabulary.sep_id]
    assert cut.was_cut


def test_the_second_text_of_a_pair_is_segment_one(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    cls, sep = vocabulary.cls_id, vocabulary.sep_id
    framed = frame([7, 8, 9], [20], vocabulary, max_length=6)
    assert framed.piece_ids.tolist() == [cls, 7, 8, sep, 20, sep]
    assert framed.segment_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert framed.was_cut
    empty = frame([], [], vocabulary, max_length=8)
    assert empty.piece_ids.tolist() == [cls, sep, sep]


@given(st.lists(st.integers(2, 50), max_size=40), st.integers(50, 200))
def test_groups_hold_every_row_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    groups = group_by_length(lengths, tokens_per_batch=budget)
    rows = [row for group in groups for row in group.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    assert all(sum(lengths[row] for row in group) <= budget for group in groups)


def test_a_row_longer_than_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens_per_batch is 8, but one sequence has 9 pieces"):
        group_by_length([3, 9], tokens_per_batch=8)
