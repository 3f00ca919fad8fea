"""Cuts many short words at once, greedily, longest piece first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bertsmith.text.keys import LONGEST_KEY, MASKS, PADDING, KeyTable, read_keys


class GreedyCutter:
    """Holds the pieces that fit a key; longer ones cannot stand in a word that does."""

    def __init__(self, first: Mapping[str, int], later: Mapping[str, int], unk_id: int) -> None:
        """Takes the pieces that may begin a word and those that may continue one, unmarked."""
        self._first = _PieceTable(first)
        self._later = _PieceTable(later)
        self._unk_id = unk_id

    def cut(
        self, content: bytes, starts: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all words one after the other [P], and how many each word has [W].

        Word w is `content[starts[w] : starts[w] + lengths[w]]`, 1 to 16 bytes of UTF-8, and
        `content` ends with `PADDING`.
        """
        made = np.full((len(starts), LONGEST_KEY), -1, np.int32)
        rows = np.arange(len(starts))
        starts, left = starts.copy(), lengths.copy()
        table = self._first
        for turn in range(LONGEST_KEY):
            if not len(rows):
                break
            ids, sizes = table.longest(read_keys(content, starts[rows], left[rows]), left[rows])
            known = ids >= 0
            made[rows[~known]] = -1
            made[rows[~known], 0] = self._unk_id
            rows, sizes = rows[known], sizes[known]
            made[rows, turn] = ids[known]
            starts[rows] += sizes
            left[rows] -= sizes
            rows = rows[left[rows] > 0]
            table = self._later
        present = made >= 0
        return made[present], present.sum(axis=1)


class _PieceTable:
    def __init__(self, pieces: Mapping[str, int]) -> None:
        known = {
            piece.encode("utf-8"): number for piece, number in pieces.items() if "\0" not in piece
        }
        known = {piece: known[piece] for piece in known if 0 < len(piece) <= LONGEST_KEY}
        lengths = np.array([len(piece) for piece in known], np.int64)
        keys = read_keys(b"".join(known) + PADDING, np.cumsum(lengths) - lengths, lengths)
        self._ids = KeyTable(4 * len(known))  # an eighth full: most of what is asked is not there
        slots, _ = self._ids.find(keys)
        self._ids.values[slots] = np.fromiter(known.values(), np.int64, len(known))
        self._longest = int(lengths.max(initial=0))

    def longest(self, keys: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the id of the longest piece that each key begins with, or -1, and its length."""
        ids = np.full(len(lengths), -1, np.int64)
        sizes = np.zeros(len(lengths), np.int64)
        by_length = np.argsort(lengths, kind="stable")
        borders = np.searchsorted(lengths[by_length], np.arange(LONGEST_KEY + 2))
        pending = by_length[borders[self._longest + 1] :]
        for size in range(self._longest, 0, -1):
            pending = np.concatenate([pending, by_length[borders[size] : borders[size + 1]]])
            if not len(pending):
                continue
            found = self._ids.look_up(keys[pending] & MASKS[size])
            known = found >= 0
            ids[pending[known]] = found[known]
            sizes[pending[known]] = size
            pending = pending[~known]
        return ids, sizes
