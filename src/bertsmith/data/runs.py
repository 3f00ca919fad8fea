"""Documents cut into runs of full length, and what is left of them set side by side in rows.

A run becomes one sequence, [CLS] run [SEP], and holds pieces of one document alone; so attention
never crosses documents. A row is one run of full length, or several shorter ones that come to that
length together. All rows are equally long, so that batches of whole rows are full to the last
piece; rows are mixed and their runs stay together.

- A document's pieces are cut into runs as long as fit. What remains, less than a run, stands before
  or behind them, by a coin in every epoch.
- Remainders are put into rows, the longest first, each row taking the longest that leaves room for
  another one or for none. Where no remainder does, one is cut to fill the row and its rest is put
  back. (The last rows of a shard may lack a piece or two.)
- What no longer fills a row at the end of a shard is left out, less than one sequence's length; a
  shard that holds no more than that has one row of what there is.

Source: ours; whole documents without sentence pairs as in Liu et al. 2019 (RoBERTa), section 4.2,
DOC-SENTENCES; best fit as in Ding et al. 2024, "Fewer truncations improve language modeling".
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.randomness import permutation
from bertsmith.data.shards import Shard

NUM_FRAMING = 2  # [CLS] run [SEP]
_SHORTEST = NUM_FRAMING + 1

_Row = list[tuple[int, int]]  # start and size of each of its runs


@dataclass(frozen=True)
class Runs:
    """The sequences of one shard in one epoch, row by row; borders count its pieces."""

    starts: NDArray[np.int64]  # [E]
    ends: NDArray[np.int64]  # [E]
    row_starts: NDArray[np.int64]  # row r is runs [row_starts[r], row_starts[r + 1]) [R + 1]

    def __len__(self) -> int:
        return len(self.starts)


def plan_runs(shard: Shard, sequence_length: int, words: NDArray[np.uint64]) -> Runs:
    """Returns the runs of `shard`; `words` are random, one for each of its documents."""
    longest = sequence_length - NUM_FRAMING
    borders = shard.sentence_starts[shard.document_starts]  # [D + 1]
    firsts, sizes = borders[:-1], np.diff(borders)
    whole, left = np.divmod(sizes, longest)
    in_front = (words & np.uint64(1)).astype(bool)
    number = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
    starts = np.repeat(firsts + np.where(in_front, left, 0), whole) + number * longest
    remains = np.where(in_front, firsts, borders[1:] - left)
    order = permutation(words)
    order = order[left[order] > 0]
    rows, rest = _fill_rows(remains[order].tolist(), left[order].tolist(), longest)
    if rest and not rows and not len(starts):
        rows = [rest]
    short = np.array([run for row in rows for run in row], dtype=np.int64).reshape(-1, 2)
    sizes_of_rows = np.array([1] * len(starts) + [len(row) for row in rows], dtype=np.int64)
    return Runs(
        starts=np.concatenate([starts, short[:, 0]]),
        ends=np.concatenate([starts + longest, short[:, 0] + short[:, 1]]),
        row_starts=np.concatenate(([0], np.cumsum(sizes_of_rows))),
    )


def in_rows(row_starts: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the numbers of all runs, those of a row together, rows in `order`. [E]"""
    sizes = np.diff(row_starts)[order]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(row_starts[:-1][order] - before, sizes)


def _fill_rows(starts: list[int], sizes: list[int], longest: int) -> tuple[list[_Row], _Row]:
    """Returns remainders as full rows, and the row at the end that lacks more than two pieces."""
    pool = _Pool(starts, sizes)
    rows: list[_Row] = []
    while pool.sizes:
        row: _Row = []
        fits = longest  # pieces of the next run that fill the row exactly
        while pool.sizes and fits > 0:
            run = pool.take(fits)
            row.append(run)
            fits -= run[1] + NUM_FRAMING
        if fits > 0:
            return rows, row
        rows.append(row)
    return rows, []


class _Pool:
    """Remainders by size; of one size, the first to come is the last to go."""

    def __init__(self, starts: list[int], sizes: list[int]) -> None:
        self._starts: dict[int, list[int]] = {}
        self.sizes: list[int] = []  # those that there are, rising
        for start, size in zip(starts, sizes, strict=True):
            self._put(start, size)

    def take(self, fits: int) -> tuple[int, int]:
        """Returns start and size of the best run of at most `fits` pieces, and takes it away.

        The best one fills the row, or else is the longest after which another run still fits. If
        there is neither, a longer one is cut.
        """
        place = bisect_right(self.sizes, fits)
        if place and self.sizes[place - 1] == fits:
            return self._pop(fits), fits
        with_room = bisect_right(self.sizes, fits - _SHORTEST)
        if with_room:
            size = self.sizes[with_room - 1]
            return self._pop(size), size
        if place < len(self.sizes):
            size = self.sizes[place]
            start = self._pop(size)
            self._put(start + fits, size - fits)
            return start, fits
        size = self.sizes[-1]
        return self._pop(size), size

    def _pop(self, size: int) -> int:
        starts = self._starts[size]
        start = starts.pop()
        if not starts:
            del self._starts[size]
            self.sizes.remove(size)
        return start

    def _put(self, start: int, size: int) -> None:
        if size not in self._starts:
            insort(self.sizes, size)
        self._starts.setdefault(size, []).append(start)
