"""Which pieces of an example are to be predicted: single pieces, whole words, or spans of words.

All three take a random word for each piece and nothing else, so that the same words give the same
choice. Pieces that may not be chosen have the highest rank that there is.

A word is a piece and the continuations (`##`) that follow it. Where a text begins inside a word,
what stands there of it counts as a word.

Source: Devlin et al. 2019, section 3.1, for pieces; the release of whole word masking models in
google-research/bert, `create_masked_lm_predictions`, for words; Joshi et al. 2020 (SpanBERT),
section 3.1, for spans.

Shapes:  T pieces of an example   M chosen ones   W words
"""

from __future__ import annotations

from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.randomness import WORD_BITS, below

Units = Literal["pieces", "words", "spans"]
NEVER = np.uint64((1 << WORD_BITS) - 1)

_GOES_ON = 0.8  # the probability that a span takes one more word: 1 - p, p = 0.2
LONGEST_SPAN = 10  # words

# What a random word stays under when a span has at most 1, 2, .. 9 words. A geometric distribution
# cut at ten and scaled up, as in the published code: 3.8 words on average.
_SPAN_BOUNDS = np.array(
    [
        below(chance / (1 - _GOES_ON**LONGEST_SPAN))
        for chance in accumulate(
            (1 - _GOES_ON) * _GOES_ON**words for words in range(LONGEST_SPAN - 1)
        )
    ],
    dtype=np.uint64,
)


class Chosen(NamedTuple):
    """Places to predict, and whose die decides what stands there instead."""

    positions: NDArray[np.int32]  # rising [M]
    dice: NDArray[np.int64]  # places with the same number share a die [M]


def choose(
    units: Units,
    ranks: NDArray[np.uint64],
    begins: NDArray[np.bool_] | None,
    count: int,
    draws: NDArray[np.uint64],
) -> Chosen:
    """Returns up to `count` places of one example.

    Single pieces are those of lowest rank: every subset is equally likely. Words are taken whole,
    by the rank of their first piece, and one that is too long for what is left is passed over. A
    span begins at such a word and has as many words as its draw says, but none that may not be
    chosen or is chosen already; one too long for what is left is shortened by whole words. Every
    piece has its own die but for those of spans, which are replaced as one.

    Args:
        units: what is chosen whole.
        ranks: a random word for each piece; NEVER where it may not be chosen. [T]
        begins: whether a word begins at each piece; not read for single pieces. [T]
        count: most places to choose.
        draws: random words, `count` or more; read for spans alone.
    """
    if units == "pieces":
        return _choose_pieces(ranks, count)
    assert begins is not None
    may = ranks < NEVER
    # A piece that may not be chosen stands alone, and so does what follows it.
    starts = np.flatnonzero(begins | ~may | np.concatenate(([True], ~may[:-1])))  # [W]
    order = starts[np.argsort(ranks[starts], kind="stable")]
    order = order[: int(may[starts].sum())].tolist()
    ends = dict(zip(starts.tolist(), [*starts[1:].tolist(), len(ranks)], strict=True))
    if units == "words":
        return _choose_words(order, ends, count)
    return _choose_spans(order, ends, may, count, span_lengths(draws[:count]).tolist())


def span_lengths(draws: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns the number of words, 1 to 10, that each random word gives a span."""
    return 1 + np.searchsorted(_SPAN_BOUNDS, draws, side="right")


def _choose_pieces(ranks: NDArray[np.uint64], count: int) -> Chosen:
    positions = np.argsort(ranks, kind="stable")[:count].astype(np.int32)
    positions.sort()
    if ranks[positions].max() == NEVER:  # so few words are known that special pieces came in
        positions = positions[ranks[positions] < NEVER]
    return Chosen(positions, np.arange(len(positions)))


def _choose_words(order: list[int], ends: dict[int, int], count: int) -> Chosen:
    taken: list[int] = []
    for start in order:
        if len(taken) + ends[start] - start <= count:
            taken += range(start, ends[start])
            if len(taken) == count:
                break
    return Chosen(np.array(sorted(taken), dtype=np.int32), np.arange(len(taken)))


def _choose_spans(
    order: list[int],
    ends: dict[int, int],
    may: NDArray[np.bool_],
    count: int,
    lengths: list[int],
) -> Chosen:
    die_of: dict[int, int] = {}  # by place
    spans = iter(enumerate(lengths))
    for start in order:
        if len(die_of) == count:
            break
        if start in die_of or len(die_of) + ends[start] - start > count:
            continue
        die, words = next(spans)  # there are `count`, and each takes a piece or more
        place = start
        while words and place in ends and may[place] and place not in die_of:
            if len(die_of) + ends[place] - place > count:
                break
            die_of |= dict.fromkeys(range(place, ends[place]), die)
            place, words = ends[place], words - 1
    positions = sorted(die_of)
    return Chosen(
        np.array(positions, dtype=np.int32),
        np.array([die_of[place] for place in positions], dtype=np.int64),
    )
