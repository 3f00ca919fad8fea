"""What is chosen to be predicted: whole words, and spans of them, in the numbers asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bertsmith.data.masks import LONGEST_SPAN, NEVER, choose, span_lengths


def random_words(count: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def sequence(
    sizes: list[int], forbidden: list[int], seed: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Returns ranks and word beginnings of words of these sizes, some of one piece forbidden."""
    begins = np.zeros(sum(sizes), dtype=bool)
    begins[np.cumsum(sizes) - sizes] = True
    ranks = random_words(len(begins), seed)
    ranks[[place for place in forbidden if place < len(ranks)]] = NEVER
    return ranks, begins


ANY = st.tuples(
    st.lists(st.integers(1, 6), min_size=1, max_size=40),
    st.lists(st.integers(0, 60), max_size=6),
    st.integers(0, 99),
    st.integers(1, 30),
)


@given(ANY, st.sampled_from(["pieces", "words", "spans"]))
@settings(max_examples=300, deadline=None)
def test_no_more_than_asked_for_is_chosen_and_nothing_forbidden(
    given: tuple[list[int], list[int], int, int], units: str
) -> None:
    sizes, forbidden, seed, count = given
    ranks, begins = sequence(sizes, forbidden, seed)
    chosen = choose(units, ranks, begins, count, random_words(count, seed + 1))  # type: ignore[arg-type]
    assert len(chosen.positions) == len(chosen.dice) <= min(count, int((ranks < NEVER).sum()))
    assert (np.diff(chosen.positions) > 0).all()
    assert (ranks[chosen.positions] < NEVER).all()
    assert not len(chosen.dice) or chosen.dice.max() < count


@given(ANY, st.sampled_from(["words", "spans"]))
@settings(max_examples=300, deadline=None)
def test_a_word_is_chosen_whole_or_not_at_all(
    given: tuple[list[int], list[int], int, int], units: str
) -> None:
    sizes, _, seed, count = given
    ranks, begins = sequence(sizes, [], seed)
    chosen = choose(units, ranks, begins, count, random_words(count, seed + 1))  # type: ignore[arg-type]
    word_of = np.cumsum(begins)
    taken = np.bincount(word_of[chosen.positions], minlength=len(sizes) + 1)[1:]
    assert all(number in (0, size) for number, size in zip(taken, sizes, strict=True))
    left = count - len(chosen.positions)
    assert all(size > left for size, number in zip(sizes, taken, strict=True) if not number)


def test_span_lengths_are_the_published_ones() -> None:
    """Joshi et al. 2020, section 3.1: geometric with p = 0.2, at most 10 words, 3.8 on average."""
    draws = 200_000
    found = np.bincount(span_lengths(random_words(draws)), minlength=LONGEST_SPAN + 1)[1:]
    expected = 0.2 * 0.8 ** np.arange(LONGEST_SPAN)
    expected /= expected.sum()
    assert len(found) == LONGEST_SPAN
    errors = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found / draws - expected) <= 3 * errors).all()
    mean = (np.arange(1, 11) * expected).sum()
    assert round(mean, 1) == 3.8
    spread = ((np.arange(1, 11) - mean) ** 2 * expected).sum() ** 0.5
    assert abs((np.arange(1, 11) * found / draws).sum() - mean) <= 3 * spread / draws**0.5


def test_pieces_of_a_span_share_a_die_and_spans_are_as_long_as_drawn() -> None:
    """In a text so long that spans hardly meet, each is as long as its draw says."""
    ranks, begins = sequence([1] * 100_000, [], 3)
    draws = random_words(2000, 4)
    chosen = choose("spans", ranks, begins, 2000, draws)
    sizes = np.bincount(chosen.dice)
    expected = span_lengths(draws)[: len(sizes)]
    cut = (sizes < expected).mean()
    assert (sizes <= expected).all() and cut < 0.05
    for die in range(len(sizes)):
        assert (np.diff(chosen.positions[chosen.dice == die]) == 1).all()


def test_a_span_ends_where_it_may_not_go_on() -> None:
    begins = np.ones(9, dtype=bool)
    ranks = np.array([NEVER, 1, 7, 7, NEVER, 5, 7, 7, NEVER], dtype=np.uint64)
    ten_words = np.full(9, 2**64 - 2, dtype=np.uint64)
    assert choose("spans", ranks, begins, 3, ten_words).positions.tolist() == [1, 2, 3]
    assert choose("spans", ranks, begins, 5, ten_words).positions.tolist() == [1, 2, 3, 5, 6]


def test_words_are_chosen_with_equal_chances() -> None:
    sizes, rounds, count = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1], 20_000, 1
    times = np.zeros(sum(sizes))
    for seed in range(rounds):
        ranks, begins = sequence(sizes, [], seed)
        times[choose("words", ranks, begins, count, ranks).positions] += 1
    ones = times[[0, 6, 12, 18]] / rounds  # only words of one piece go into a budget of one
    assert times.sum() == rounds
    assert (np.abs(ones - 0.25) <= 3 * (0.25 * 0.75 / rounds) ** 0.5).all()
