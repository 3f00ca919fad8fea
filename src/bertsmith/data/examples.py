"""Pre-training examples, made on the fly as a pure function of corpus, seed, epoch and index.

No example depends on another having been made: a run's position is (epoch, index), and any process
can make any part. The published pipeline writes ten masked copies of the corpus; here every epoch
has its own pairs and masks (`dynamic`), or all have those of epoch 0 in a new order (`static`).

An example is a pair of texts (`pairs.py`) or, packed, a run of one document (`runs.py`). What is
predicted in it is what `masks.py` chooses or, left to right (`lm`), at every piece the next one,
[SEP] and [UNK] included; its text is the same either way. Where the share of pieces to predict
changes over a run, it is one more number that the example is a function of; its text is not.

Quirks of the published code that are kept, beside those of `pairs.py`:

- 15% is taken of all pieces, [CLS] and [SEP] included, rounded half to even, at least one; they
  themselves are never chosen. By default the cap, 20 in 128, is 15% rounded up, so it never binds.
  One thing differs: [UNK] is never chosen either, for there is nothing to learn from it. An example
  with fewer other pieces has fewer masks, at worst none.
- By default 80% of the chosen pieces become [MASK], 10% stay, and 10% become a piece drawn from
  the whole vocabulary: special and unused pieces, and the right one, are drawn too.
- The longer of A and B is shortened piece by piece, from its front or its back with equal chance.

Source: google-research/bert, `create_pretraining_data.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ExamplesConfig
from bertsmith.data.framing import truncated_sizes
from bertsmith.data.masks import NEVER, choose
from bertsmith.data.pairs import NUM_SPECIAL, Pairs, plan_pairs
from bertsmith.data.randomness import (
    WORD_BITS,
    Purpose,
    below,
    permutation,
    random_words,
    word_by_word,
)
from bertsmith.data.runs import Runs, in_rows, plan_runs
from bertsmith.data.shards import Corpus, Shard, Split
from bertsmith.errors import DataError
from bertsmith.text.wordpiece import CONTINUATION, Vocabulary

SHUFFLED_TOGETHER = 8  # shards whose examples are mixed; more mixes better and keeps more mapped

_HALF_WORD = np.uint64(32)


@dataclass(frozen=True)
class Example:
    """[CLS] A [SEP] B [SEP], or [CLS] A [SEP], with some pieces hidden, or with all left to see."""

    piece_ids: NDArray[np.int32]  # as the model sees them [T]
    segment_ids: NDArray[np.int32]  # 0 up to the first [SEP], then 1 [T]
    masked_positions: NDArray[np.int32]  # rising; where something is predicted [M]
    masked_labels: NDArray[np.int32]  # the pieces that stood there; left to right, the next [M]
    next_label: int | None  # 0 B is the next text, 1 B is random or comes before A; None: no task

    def __len__(self) -> int:
        return len(self.piece_ids)


Plan = Pairs | Runs


class _Part(NamedTuple):
    """What an example holds of one text."""

    start: int  # in its shard, before pieces at the front are left out
    size: int  # pieces kept
    lost: int  # pieces left out, each at the front or the back


class PretrainingExamples:
    """The examples of one split of a corpus, epoch after epoch.

    Shards come in a random order, in groups of eight; inside a group all examples are mixed (packed
    ones row by row, see `runs.py`). The same arguments give the same examples on every machine.

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
        self._hidden_below, self._random_from = (
            np.uint64(min(below(share), int(NEVER)))  # a share of 1 has no bound in 64 bits
            for share in (config.mask_share, 1 - config.random_share)
        )
        self._has_spans = config.masked_units == "spans"
        self._begins_word = None
        if config.masked_units != "pieces":
            goes_on = [piece.startswith(CONTINUATION) for piece in vocabulary.pieces]
            self._begins_word = ~np.array(goes_on)  # [V]
        self._shard: Callable[[int], Shard] = lru_cache(2 * SHUFFLED_TOGETHER)(self._open)
        self._plans: Callable[[int, int], Plan] = lru_cache(2 * SHUFFLED_TOGETHER)(self._plan)
        self._num_planned: Callable[[int, int], int] = lru_cache(None)(self._count)
        self._counts: Callable[[int, int], list[int]] = lru_cache(None)(self._count_up)
        self._order: Callable[[int, int], NDArray[np.int64]] = lru_cache(2)(self._shuffle)
        self._groups: Callable[[int], list[list[int]]] = lru_cache(2)(self._group)

    def count(self, epoch: int) -> int:
        """Returns the number of examples in `epoch`; plans its every shard at the first call."""
        drawn = self._drawn(epoch)
        return sum(self._num_planned(drawn, shard) for shard in range(self._num_shards))

    def example(self, epoch: int, index: int, masked_share: float | None = None) -> Example:
        """Returns example `index` of `epoch`.

        Args:
            epoch, index: its place.
            masked_share: of pieces to predict; by default `masked_lm_prob`.

        Raises:
            IndexError: the epoch has no more examples.
        """
        shard, row = self._locate(epoch, index)
        return self._make(self._drawn(epoch), shard, row, masked_share)

    def length(self, epoch: int, index: int) -> int:
        """Returns how many pieces example `index` of `epoch` holds, without making it.

        Raises:
            IndexError: the epoch has no more examples.
        """
        shard, row = self._locate(epoch, index)
        return _length(self._parts(self._plans(self._drawn(epoch), shard), row))

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
        if self._config.layout == "pairs":
            return self._permutation(count, epoch, group)
        borders = self._row_starts(epoch, group)
        return in_rows(borders, self._permutation(len(borders) - 1, epoch, group))

    def _permutation(self, count: int, epoch: int, group: int) -> NDArray[np.int64]:
        return permutation(random_words(count, self._seed, Purpose.EXAMPLE_ORDER, epoch, group))

    def _row_starts(self, epoch: int, group: int) -> NDArray[np.int64]:
        """Returns where the rows of a group's shards, one shard after the other, begin and end."""
        borders, before = [np.zeros(1, dtype=np.int64)], 0
        for shard in self._groups(epoch)[group]:
            plan = self._plans(self._drawn(epoch), shard)
            assert isinstance(plan, Runs)
            borders.append(plan.row_starts[1:] + before)
            before += len(plan)
        return np.concatenate(borders)

    def _count_up(self, epoch: int, group: int) -> list[int]:
        """Returns how many examples the shards of a group have, each with those before it."""
        shards = self._groups(epoch)[group]
        return list(accumulate(self._num_planned(self._drawn(epoch), shard) for shard in shards))

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

    def _plan(self, epoch: int, shard: int) -> Plan:
        if self._config.layout == "pairs":
            draw = word_by_word(self._seed, Purpose.PAIRS, epoch, shard)
            return plan_pairs(self._shard(shard), self._config, draw)
        opened = self._shard(shard)
        documents = len(opened.document_starts) - 1
        words = random_words(documents, self._seed, Purpose.PAIRS, epoch, shard)
        return plan_runs(opened, self._config.sequence_length, words)

    def _count(self, epoch: int, shard: int) -> int:
        return len(self._plans(epoch, shard))

    # -------------------------------------------------------------------------- making

    def _make(self, epoch: int, shard: int, row: int, masked_share: float | None) -> Example:
        plan = self._plans(epoch, shard)
        parts = self._parts(plan, row)
        length = _length(parts)
        usual = self._num_masked(length, len(parts) + 1, self._config.masked_lm_prob)
        num_coins = sum(_words_for(part.lost) for part in parts)
        count, more = usual, 0
        if masked_share is not None:  # its dice lie behind all else, so that the text is the same
            count = self._num_masked(length, len(parts) + 1, masked_share)
            more = 2 * count
        words = random_words(
            length + 2 * usual + num_coins + more + (count if self._has_spans else 0),
            self._seed,
            Purpose.MASKS,
            epoch,
            shard,
            row,
        )
        coins = words[length + 2 * usual :]
        pieces = self._shard(shard).pieces
        ids = np.empty(length, dtype=np.int32)
        segments = np.zeros(length, dtype=np.int32)
        ids[0] = self._vocabulary.cls_id
        place = 1
        for number, part in enumerate(parts):
            start = part.start + _heads(coins, part.lost)
            coins = coins[_words_for(part.lost) :]
            ids[place : place + part.size] = pieces[start : start + part.size]
            ids[place + part.size] = self._vocabulary.sep_id
            segments[place : place + part.size + 1] = number
            place += part.size + 1
        next_label = None
        if isinstance(plan, Pairs) and self._config.sentence_task != "none":
            next_label = int(plan.next_labels[row])
        if self._config.objective == "lm":
            positions = np.arange(length - 1, dtype=np.int32)
            return Example(ids, segments, positions, ids[1:], next_label)
        ranks, dice, drawn = words[:length], words[length:], words[length + usual :]
        if masked_share is not None:
            dice, drawn = coins, coins[count:]
        ranks[[0, parts[0].size + 1, -1]] = NEVER
        ranks[ids == self._vocabulary.unk_id] = NEVER
        begins = None if self._begins_word is None else self._begins_word[ids]
        chosen = choose(self._config.masked_units, ranks, begins, count, coins[more:])
        labels = ids[chosen.positions]
        ids[chosen.positions] = self._hide(labels, dice[chosen.dice], drawn[: len(labels)])
        return Example(ids, segments, chosen.positions, labels, next_label)

    def _parts(self, plan: Plan, row: int) -> list[_Part]:
        if isinstance(plan, Runs):
            start, end = int(plan.starts[row]), int(plan.ends[row])
            return [_Part(start, end - start, 0)]
        start_a, end_a = int(plan.starts_a[row]), int(plan.ends_a[row])
        start_b, end_b = int(plan.starts_b[row]), int(plan.ends_b[row])
        size_a, size_b = truncated_sizes(
            end_a - start_a, end_b - start_b, self._config.sequence_length - NUM_SPECIAL
        )
        return [
            _Part(start_a, size_a, end_a - start_a - size_a),
            _Part(start_b, size_b, end_b - start_b - size_b),
        ]

    def _num_masked(self, length: int, num_special: int, share: float) -> int:
        most = self._config.max_predictions_per_seq or ceil(self._config.sequence_length * share)
        return min(max(1, round(length * share)), most, length - num_special)

    def _hide(
        self, labels: NDArray[np.int32], dice: NDArray[np.uint64], drawn: NDArray[np.uint64]
    ) -> NDArray[np.int32]:
        """Returns what the model sees where `labels` are to be predicted. [M]"""
        seen = labels.copy()
        seen[dice < self._hidden_below] = self._vocabulary.mask_id
        random = dice >= self._random_from
        if random.any():
            size = np.uint64(len(self._vocabulary.pieces))
            seen[random] = (drawn[random] >> _HALF_WORD) * size >> _HALF_WORD
        return seen


def _length(parts: Sequence[_Part]) -> int:
    return sum(part.size for part in parts) + len(parts) + 1  # [CLS], and a [SEP] for each


def _words_for(coins: int) -> int:
    return (coins + WORD_BITS - 1) // WORD_BITS


def _heads(words: NDArray[np.uint64], coins: int) -> int:
    """Returns how many of `coins` fair coins, the bits of `words`, show heads."""
    if coins == 0:
        return 0
    bits = int.from_bytes(words[: _words_for(coins)].astype("<u8").tobytes(), "little")
    return (bits & ((1 << coins) - 1)).bit_count()
