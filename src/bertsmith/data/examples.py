"""Pre-training examples, made on the fly as a pure function of corpus, seed, epoch and index.

No example depends on another having been made: a run's position is (epoch, index), and any process
can make any part. The published pipeline writes ten masked copies of the corpus; here every epoch
has its own pairs and masks (`dynamic`), or all have those of epoch 0 in a new order (`static`).

Quirks of the published code that are kept, beside those of `pairs.py`:

- 15% is taken of all pieces, [CLS] and [SEP] included, rounded half to even, at least one; they
  themselves are never chosen. By default the cap, 20 in 128, is 15% rounded up, so it never binds.
  One thing differs: [UNK] is never chosen either, for there is nothing to learn from it. An example
  with fewer other pieces has fewer masks, at worst none.
- 80% of the chosen pieces become [MASK], 10% stay, and 10% become a piece drawn from the whole
  vocabulary: special and unused pieces, and the right one, are drawn too.
- The longer of A and B is shortened piece by piece, from its front or its back with equal chance.

Source: google-research/bert, `create_pretraining_data.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import ceil

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ExamplesConfig
from bertsmith.data.framing import truncated_sizes
from bertsmith.data.pairs import NUM_SPECIAL, Pairs, plan_pairs
from bertsmith.data.randomness import (
    WORD_BITS,
    Purpose,
    below,
    permutation,
    random_words,
    word_by_word,
)
from bertsmith.data.shards import Corpus, Shard, Split
from bertsmith.errors import DataError
from bertsmith.text.wordpiece import Vocabulary

SHUFFLED_TOGETHER = 8  # shards whose examples are mixed; more mixes better and keeps more mapped

_HIDDEN = np.uint64(below(0.8))
_KEPT = np.uint64(below(0.9))
_HALF_WORD = np.uint64(32)
_NEVER = np.uint64((1 << WORD_BITS) - 1)


@dataclass(frozen=True)
class Example:
    """[CLS] A [SEP] B [SEP] with some pieces hidden."""

    piece_ids: NDArray[np.int32]  # as the model sees them [T]
    segment_ids: NDArray[np.int32]  # 0 up to the first [SEP], then 1 [T]
    masked_positions: NDArray[np.int32]  # rising; what is predicted there [M]
    masked_labels: NDArray[np.int32]  # the pieces that stood there [M]
    next_label: int  # 0 B is the next text, 1 B is random

    def __len__(self) -> int:
        return len(self.piece_ids)


class PretrainingExamples:
    """The examples of one split of a corpus, epoch after epoch.

    Shards come in a random order, in groups of eight; inside a group all examples are mixed. The
    same arguments give the same examples on every machine.

    Raises:
        DataError: the split holds no document, or the corpus was made with a larger vocabulary.
    """

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Vocabulary,
        config: ExamplesConfig,
        *,
        seed: int,
        split: Split = "train",
    ) -> None:
        if not corpus.shards(split):
            raise DataError(
                f"{corpus.path}: no document is in the split {split!r}; prepare more text, or "
                f"another share with --held-out"
            )
        if corpus.vocab_size != len(vocabulary.pieces):
            raise DataError(
                f"{corpus.path}: made with a vocabulary of {corpus.vocab_size} pieces, but this "
                f"one has {len(vocabulary.pieces)}; prepare the corpus again with this one"
            )
        self._corpus = corpus
        self._vocabulary = vocabulary
        self._config = config
        self._seed = seed
        self._split: Split = split
        self._num_shards = len(corpus.shards(split))
        self._most_masked = config.max_predictions_per_seq or ceil(
            config.sequence_length * config.masked_lm_prob
        )
        self._shard: Callable[[int], Shard] = lru_cache(2 * SHUFFLED_TOGETHER)(self._open)
        self._pairs: Callable[[int, int], Pairs] = lru_cache(2 * SHUFFLED_TOGETHER)(self._plan)
        self._num_pairs: Callable[[int, int], int] = lru_cache(None)(self._count)
        self._counts: Callable[[int, int], list[int]] = lru_cache(None)(self._count_up)
        self._order: Callable[[int, int], NDArray[np.int64]] = lru_cache(2)(self._shuffle)
        self._groups: Callable[[int], list[list[int]]] = lru_cache(2)(self._group)

    def count(self, epoch: int) -> int:
        """Returns the number of examples in `epoch`; plans its every shard at the first call."""
        return sum(self._num_pairs(self._drawn(epoch), shard) for shard in range(self._num_shards))

    def example(self, epoch: int, index: int) -> Example:
        """Returns example `index` of `epoch`.

        Raises:
            IndexError: the epoch has no more examples.
        """
        shard, row = self._locate(epoch, index)
        return self._make(self._drawn(epoch), shard, row)

    # -------------------------------------------------------------------------- order

    def _drawn(self, epoch: int) -> int:
        """Returns the epoch whose pairs and masks are seen in `epoch`."""
        return 0 if self._config.masking == "static" else epoch

    def _group(self, epoch: int) -> list[list[int]]:
        words = random_words(self._num_shards, self._seed, Purpose.SHARD_ORDER, epoch)
        shards = permutation(words).tolist()
        return [
            shards[first : first + SHUFFLED_TOGETHER]
            for first in range(0, len(shards), SHUFFLED_TOGETHER)
        ]

    def _shuffle(self, epoch: int, group: int) -> NDArray[np.int64]:
        count = self._counts(epoch, group)[-1]
        return permutation(random_words(count, self._seed, Purpose.EXAMPLE_ORDER, epoch, group))

    def _count_up(self, epoch: int, group: int) -> list[int]:
        """Returns how many examples the shards of a group have, each with those before it."""
        shards = self._groups(epoch)[group]
        return list(accumulate(self._num_pairs(self._drawn(epoch), shard) for shard in shards))

    def _locate(self, epoch: int, index: int) -> tuple[int, int]:
        """Returns the shard and the row in its plan of example `index`; plans what it must."""
        left = index
        for group, shards in enumerate(self._groups(epoch)):
            counts = self._counts(epoch, group)
            if 0 <= left < counts[-1]:
                row = int(self._order(epoch, group)[left])
                place = bisect_right(counts, row)
                return shards[place], row - (counts[place - 1] if place else 0)
            left -= counts[-1]
        raise IndexError(f"epoch {epoch} has {index - left} examples; there is no {index}")

    def _open(self, shard: int) -> Shard:
        return self._corpus.open_shard(self._split, shard)

    def _plan(self, epoch: int, shard: int) -> Pairs:
        draw = word_by_word(self._seed, Purpose.PAIRS, epoch, shard)
        return plan_pairs(self._shard(shard), self._config, draw)

    def _count(self, epoch: int, shard: int) -> int:
        return len(self._pairs(epoch, shard))

    # -------------------------------------------------------------------------- making

    def _make(self, epoch: int, shard: int, row: int) -> Example:
        pairs = self._pairs(epoch, shard)
        start_a, end_a = int(pairs.starts_a[row]), int(pairs.ends_a[row])
        start_b, end_b = int(pairs.starts_b[row]), int(pairs.ends_b[row])
        size_a, size_b = truncated_sizes(
            end_a - start_a, end_b - start_b, self._config.sequence_length - NUM_SPECIAL
        )
        lost_a, lost_b = end_a - start_a - size_a, end_b - start_b - size_b
        length = size_a + size_b + NUM_SPECIAL
        count = self._num_masked(length)
        words = random_words(
            length + 2 * count + _words_for(lost_a) + _words_for(lost_b),
            self._seed,
            Purpose.MASKS,
            epoch,
            shard,
            row,
        )
        ranks, dice, drawn = words[:length], words[length:], words[length + count :]
        coins = words[length + 2 * count :]
        start_a += _heads(coins, lost_a)
        start_b += _heads(coins[_words_for(lost_a) :], lost_b)
        pieces = self._shard(shard).pieces
        ids = np.empty(length, dtype=np.int32)
        ids[0] = self._vocabulary.cls_id
        ids[1 : size_a + 1] = pieces[start_a : start_a + size_a]
        ids[size_a + 1] = self._vocabulary.sep_id
        ids[size_a + 2 : -1] = pieces[start_b : start_b + size_b]
        ids[-1] = self._vocabulary.sep_id
        segments = np.zeros(length, dtype=np.int32)
        segments[size_a + 2 :] = 1
        ranks[[0, size_a + 1, -1]] = _NEVER
        ranks[ids == self._vocabulary.unk_id] = _NEVER
        # those of lowest rank: every subset is equally likely
        positions = np.argsort(ranks, kind="stable")[:count].astype(np.int32)
        positions.sort()
        if ranks[positions].max() == _NEVER:  # so few words are known that special pieces came in
            positions = positions[ranks[positions] < _NEVER]
        labels = ids[positions]
        ids[positions] = self._hide(labels, dice[: len(labels)], drawn[: len(labels)])
        return Example(ids, segments, positions, labels, int(pairs.next_labels[row]))

    def _num_masked(self, length: int) -> int:
        wanted = max(1, round(length * self._config.masked_lm_prob))
        return min(wanted, self._most_masked, length - NUM_SPECIAL)

    def _hide(
        self, labels: NDArray[np.int32], dice: NDArray[np.uint64], drawn: NDArray[np.uint64]
    ) -> NDArray[np.int32]:
        """Returns what the model sees where `labels` are to be predicted. [M]"""
        seen = labels.copy()
        seen[dice < _HIDDEN] = self._vocabulary.mask_id
        random = dice >= _KEPT
        if random.any():
            size = np.uint64(len(self._vocabulary.pieces))
            seen[random] = (drawn[random] >> _HALF_WORD) * size >> _HALF_WORD
        return seen


def _words_for(coins: int) -> int:
    return (coins + WORD_BITS - 1) // WORD_BITS


def _heads(words: NDArray[np.uint64], coins: int) -> int:
    """Returns how many of `coins` fair coins, the bits of `words`, show heads."""
    if coins == 0:
        return 0
    bits = int.from_bytes(words[: _words_for(coins)].astype("<u8").tobytes(), "little")
    return (bits & ((1 << coins) - 1)).bit_count()
