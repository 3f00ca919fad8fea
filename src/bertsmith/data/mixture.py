"""Several corpora mixed by weight: example i of the mixture, again a pure function.

A word of Philox for (seed, epoch, i) draws the corpus of example i by its weight; the example is
the next one of that corpus, in its own order. Each corpus goes through epochs of its own and begins
its next when its last example was drawn: a small one of much weight is read often, each time with
new pairs and masks.

An epoch of the mixture ends with the longest corpus: that which has the most pieces for its weight,
and so would be read to its end last. When it is drawn and has no example left, the mixture's next
epoch begins, and with it a new epoch of every corpus, also of one that stood amid its own. Every
corpus has then been read at least once (but for chance where two are about equally long).

Position is (epoch, index), as with one corpus. To begin in the middle of an epoch the draws before
it are counted, and what was read of it is planned again.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ExamplesConfig
from bertsmith.data.examples import Example, PretrainingExamples
from bertsmith.data.randomness import Purpose, random_words
from bertsmith.data.shards import Corpus, ShardFacts, Split, together
from bertsmith.errors import ConfigError, DataError
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

_DRAWN_TOGETHER = 1 << 12
_PASS_BITS = 32  # an epoch of the mixture has room for so many epochs of a corpus


class Examples(Protocol):
    """The examples of one corpus or of several, epoch after epoch."""

    def count(self, epoch: int) -> int:
        """Returns the number of examples in `epoch`."""

    def example(self, epoch: int, index: int, masked_share: float | None = None) -> Example:
        """Returns example `index` of `epoch`; raises IndexError where it has no more."""

    def length(self, epoch: int, index: int) -> int:
        """Returns how many pieces that example has; raises IndexError where there is none."""


@dataclass(frozen=True)
class Mixture:
    """Corpora made with one tokenizer, and how often each is drawn from.

    Raises:
        ConfigError: there are not as many weights as corpora, or a weight is not above zero.
        DataError: corpora were made with different tokenizers.
    """

    corpora: tuple[Corpus, ...]
    weights: tuple[float, ...]  # need not sum to one

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.corpora):
            raise ConfigError(
                f"there are {len(self.weights)} weights for {len(self.corpora)} corpora; expected "
                f"one for each, in the same order"
            )
        if not all(weight > 0 and isfinite(weight) for weight in self.weights):
            raise ConfigError(
                f"weights are {', '.join(map(str, self.weights))}; expected each above zero: leave "
                f"out a corpus that is not to be read"
            )
        first = self.corpora[0]
        for corpus in self.corpora[1:]:
            corpus.require_tokenizer(first.tokenizer_fingerprint, f"that of {first.path}")

    @property
    def path(self) -> Path:
        """Returns the folder of the first corpus, where the tokenizer of all is found."""
        return self.corpora[0].path

    @property
    def shares(self) -> tuple[float, ...]:
        """Returns the weights as shares of one."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    @property
    def fingerprint(self) -> str:
        """Returns a digest of every corpus's content, in their order."""
        sums = [corpus.fingerprint for corpus in self.corpora]
        return hashlib.sha256(repr(sums).encode()).hexdigest()

    @property
    def tokenizer_fingerprint(self) -> str:
        """Returns the fingerprint of the tokenizer that made all corpora."""
        return self.corpora[0].tokenizer_fingerprint

    @property
    def vocab_size(self) -> int:
        """Returns the number of pieces in that tokenizer's vocabulary."""
        return self.corpora[0].vocab_size

    def require_tokenizer(self, fingerprint: str, owner: str) -> None:
        """Raises DataError, with both fingerprints, unless this tokenizer made the corpora."""
        self.corpora[0].require_tokenizer(fingerprint, owner)

    def read_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that made the piece ids."""
        return self.corpora[0].read_tokenizer()

    def shards(self, split: Split) -> tuple[ShardFacts, ...]:
        """Returns what each shard of `split` holds, corpus after corpus."""
        return tuple(facts for corpus in self.corpora for facts in corpus.shards(split))

    def total(self, split: Split) -> ShardFacts:
        """Returns what all corpora hold together."""
        return together(corpus.total(split) for corpus in self.corpora)

    def lost(self) -> ShardFacts:
        """Returns what the shards that are passed over hold together."""
        return together(corpus.lost() for corpus in self.corpora)

    def longest(self) -> int:
        """Returns the place of the corpus with the most pieces for its weight."""
        lengths = [
            corpus.total("train").pieces / share
            for corpus, share in zip(self.corpora, self.shares, strict=True)
        ]
        return lengths.index(max(lengths))


def training_examples(
    corpus: Corpus | Mixture, vocabulary: Vocabulary, config: ExamplesConfig, *, seed: int
) -> Examples:
    """Returns the training examples of one corpus or of a mixture.

    Raises:
        DataError: a corpus holds no document, or was made with a larger vocabulary.
    """
    if isinstance(corpus, Mixture):
        return MixedExamples(corpus, vocabulary, config, seed=seed)
    return PretrainingExamples(corpus, vocabulary, config, seed=seed)


def epoch_pieces(corpus: Corpus | Mixture) -> int:
    """Returns about how many pieces an epoch reads; of a mixture, until the longest is read."""
    if not isinstance(corpus, Mixture):
        return corpus.total("train").pieces
    longest = corpus.longest()
    return round(corpus.corpora[longest].total("train").pieces / corpus.shares[longest])


class MixedExamples:
    """The training examples of a mixture, epoch after epoch.

    Raises:
        DataError: a corpus holds no document, or was made with a larger vocabulary.
    """

    def __init__(
        self, mixture: Mixture, vocabulary: Vocabulary, config: ExamplesConfig, *, seed: int
    ) -> None:
        self._seed = seed
        self._longest = mixture.longest()
        self._borders = np.cumsum(mixture.shares)[:-1]
        self._examples = [  # seeds are below 2 ** 32, so that no two corpora share their words
            PretrainingExamples(corpus, vocabulary, config, seed=seed + (place << 32))
            for place, corpus in enumerate(mixture.corpora)
        ]
        self._draw: Callable[[int, int], NDArray[np.int64]] = lru_cache(4)(self._draw_together)
        self._before: Callable[[int], list[NDArray[np.int64]]] = lru_cache(2)(self._start_counting)
        self._ends: Callable[[int, int], list[int]] = lru_cache(2 * len(self._examples))(self._end)

    def count(self, epoch: int) -> int:
        """Returns the number of examples in `epoch`; plans all of the longest corpus."""
        own = self._examples[self._longest].count(epoch << _PASS_BITS)
        lot = 0
        while self._drawn_before(epoch, lot + 1)[self._longest] <= own:
            lot += 1
        places = np.flatnonzero(self._draw(epoch, lot) == self._longest)
        found = places[own - self._drawn_before(epoch, lot)[self._longest]]
        return lot * _DRAWN_TOGETHER + int(found)

    def example(self, epoch: int, index: int, masked_share: float | None = None) -> Example:
        """Returns example `index` of `epoch`; see `PretrainingExamples.example`.

        Raises:
            IndexError: the epoch has no more examples.
        """
        place, own, number = self._found(epoch, index)
        return self._examples[place].example(own, number, masked_share)

    def length(self, epoch: int, index: int) -> int:
        """Returns how many pieces example `index` of `epoch` has, without making it.

        Raises:
            IndexError: the epoch has no more examples.
        """
        place, own, number = self._found(epoch, index)
        return self._examples[place].length(own, number)

    def _found(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Returns the place of the corpus of example `index`, and the example's epoch and index."""
        place, number = self.source(epoch, index)
        ends = self._ends(epoch, place)
        turn = bisect_right(ends, number)
        while True:
            own = (epoch << _PASS_BITS) + turn
            begin = ends[turn - 1] if turn else 0
            try:
                self._examples[place].length(own, number - begin)
            except IndexError:  # a pass's end is found when reached
                if place == self._longest:
                    raise
            else:
                return place, own, number - begin
            ends.append(begin + self._examples[place].count(own))
            if ends[-1] == begin:
                raise DataError(f"corpus {place + 1} of the mixture gives no example")
            turn += 1

    def source(self, epoch: int, index: int) -> tuple[int, int]:
        """Returns the place of the corpus of example `index`, and how often it was drawn before."""
        lot, row = divmod(index, _DRAWN_TOGETHER)
        drawn = self._draw(epoch, lot)
        place = int(drawn[row])
        earlier = int(np.count_nonzero(drawn[:row] == place))
        return place, int(self._drawn_before(epoch, lot)[place]) + earlier

    def _draw_together(self, epoch: int, lot: int) -> NDArray[np.int64]:
        """Returns the corpora that are drawn for one lot of indices. [_DRAWN_TOGETHER]"""
        words = random_words(_DRAWN_TOGETHER, self._seed, Purpose.MIXTURE, epoch, lot)
        return np.searchsorted(self._borders, words / 2.0**64, side="right")

    def _start_counting(self, _: int) -> list[NDArray[np.int64]]:
        """Returns the draws before the first lot; those before the others are found as needed."""
        return [np.zeros(len(self._examples), np.int64)]

    def _end(self, _: int, __: int) -> list[int]:
        """Returns where the passes of a corpus end in an epoch: none is known yet."""
        return []

    def _drawn_before(self, epoch: int, lot: int) -> NDArray[np.int64]:
        """Returns how often each corpus is drawn in the lots before `lot`. [corpora]"""
        before = self._before(epoch)
        while len(before) <= lot:
            drawn = self._draw(epoch, len(before) - 1)
            before.append(before[-1] + np.bincount(drawn, minlength=len(self._examples)))
        return before[lot]
