"""Random words that depend on nothing but the numbers they are asked by.

Philox is a counter-based generator: its output is a function of a key and a counter, so that the
words of any example of any epoch are had without drawing those before it, on every machine, for any
number of workers. Only its raw 64-bit words are used, which numpy promises never to change.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x64-10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 64
_BLOCK = 4096


class Purpose(IntEnum):
    """What words are drawn for; each purpose has its own key."""

    PAIRS = 1  # which sentences make an example
    MASKS = 2  # which of its pieces are hidden, and where it is cut
    SHARD_ORDER = 3
    EXAMPLE_ORDER = 4


def stream(seed: int, purpose: Purpose, epoch: int, shard: int = 0, row: int = 0) -> Stream:
    """Returns the words of one place; two places have no words in common."""
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, row, shard, epoch], dtype=np.uint64)
    return Stream(np.random.Philox(key=key, counter=counter))


class Stream:
    """A sequence of 64-bit words, each read once."""

    def __init__(self, philox: np.random.Philox) -> None:
        self._philox = philox

    def words(self, count: int) -> NDArray[np.uint64]:
        """Returns the next `count` words. [count]"""
        return self._philox.random_raw(count)

    def one_by_one(self) -> Callable[[], int]:
        """Returns a function that returns the next word at each call."""

        def forever() -> Iterator[int]:
            while True:
                yield from self.words(_BLOCK).tolist()

        return forever().__next__


def permutation(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns a random order of as many things as there are words."""
    return np.argsort(words, kind="stable")


def below(probability: float) -> int:
    """Returns the bound that a word stays under with this probability."""
    return int(probability * (1 << WORD_BITS))
