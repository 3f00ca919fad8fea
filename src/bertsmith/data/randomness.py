"""Random words that depend on nothing but the numbers they are asked by.

Philox is a counter-based generator: its output is a function of a key and a counter, so that the
words of any example of any epoch are had without drawing those before it, on every machine, for any
number of workers. Only its raw 64-bit words are used, which numpy promises never to change.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x64-10).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

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
    MIXTURE = 9  # which corpus of several an example comes from


def random_words(
    count: int, seed: int, purpose: Purpose, epoch: int, part: int = 0, row: int = 0
) -> NDArray[np.uint64]:
    """Returns the first `count` words of one place; two places have no words in common. [count]"""
    return _at(seed, purpose, epoch, part, row).random_raw(count)


def word_by_word(seed: int, purpose: Purpose, epoch: int, part: int) -> Callable[[], int]:
    """Returns a function that returns the next word of one place at each call."""

    def forever() -> Iterator[int]:
        philox = np.random.Philox()
        philox.state = _at(seed, purpose, epoch, part, 0).state
        while True:
            yield from philox.random_raw(_BLOCK).tolist()

    return forever().__next__


def permutation(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Returns a random order of as many things as there are words."""
    return np.argsort(words, kind="stable")


def below(probability: float) -> int:
    """Returns the bound that a word stays under with this probability."""
    return int(probability * (1 << WORD_BITS))


class _Own(threading.local):
    """A generator for each thread: to set its state takes a tenth of the time of making one."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(0)
        self.state: Any = self.philox.state


_own = _Own()


def _at(seed: int, purpose: Purpose, epoch: int, part: int, row: int) -> np.random.Philox:
    place = _own.state["state"]
    place["key"][:] = seed, purpose
    place["counter"][:] = 0, row, part, epoch  # the first one counts the words
    _own.philox.state = _own.state
    return _own.philox
