"""A hash table in numpy: short byte strings to numbers, thousands in one call."""

from __future__ import annotations

import numpy as np

LONGEST_KEY = 16  # bytes
PADDING = b" " * LONGEST_KEY  # what must follow the last byte of a buffer that keys are read from

_FEW_SLOTS = 1 << 14
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads keys over the slots
_MIX_HIGH = np.uint64(0xC2B2AE3D27D4EB4F)

# What is left of 16 bytes when only the first 0, 1 .. 16 count. uint64 [17, 2]
MASKS = np.array(
    [[(1 << 8 * min(n, 8)) - 1, (1 << 8 * max(n - 8, 0)) - 1] for n in range(LONGEST_KEY + 1)],
    np.uint64,
)


def read_keys(content: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the keys that stand at `starts` of `content`, which ends with `PADDING`.

    A key is a string of 1 to 16 bytes, none of them NUL, held as two words. uint64 [N, 2]
    """
    windows = np.ndarray((len(content) - LONGEST_KEY + 1,), "V16", content, strides=(1,))
    return windows[starts].view("<u8").reshape(-1, 2) & MASKS.take(lengths, axis=0)


class KeyTable:
    """Holds a number for each key, in a slot that is the key's until the table grows.

    Open addressing, linear probing, at most half full. A slot is empty where its low word is 0.
    """

    def __init__(self, expected: int = 0) -> None:
        self.used = 0
        self._allocate(max(_FEW_SLOTS, 1 << (4 * expected).bit_length()))

    def _allocate(self, slots: int) -> None:
        self._keys = np.zeros((slots, 2), np.uint64)
        self.values = np.zeros(slots, np.int64)
        self._shift = np.uint64(65 - slots.bit_length())

    def look_up(self, keys: np.ndarray) -> np.ndarray:
        """Returns the value of each key, -1 where there is none. int64 [N]"""
        slots = self._home(keys)
        there = self._keys.take(slots, axis=0)
        same = _equal(there, keys)
        values = np.where(same, self.values.take(slots), -1)
        pending = np.flatnonzero((there[:, 0] != 0) & ~same)
        while len(pending):
            at = slots[pending] = (slots[pending] + 1) & (len(self._keys) - 1)
            there = self._keys[at]
            same = _equal(there, keys[pending])
            values[pending[same]] = self.values[at[same]]
            pending = pending[(there[:, 0] != 0) & ~same]
        return values

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slot of each key, and the indices of keys that were not there before.

        A new key is entered, and named once however often it stands in `keys`; the caller owes
        `values` an entry for its slot.
        """
        slots = self._home(keys)
        elsewhere = np.flatnonzero(~_equal(self._keys.take(slots, axis=0), keys))
        if 2 * (self.used + len(elsewhere)) > len(self._keys):
            self._grow(self.used + len(elsewhere))
            slots = self._home(keys)
            elsewhere = np.arange(len(slots))
        return slots, self._enter(keys, slots, elsewhere)

    def _home(self, keys: np.ndarray) -> np.ndarray:
        mixed = (keys[:, 0] ^ (keys[:, 1] * _MIX_HIGH)) * _MIX
        return (mixed >> self._shift).view(np.int64)

    def _enter(self, keys: np.ndarray, slots: np.ndarray, pending: np.ndarray) -> np.ndarray:
        """Settles `slots[pending]` in place; returns one index for every key that was new."""
        entered = [pending[:0]]
        while len(pending):
            at, wanted = slots[pending], keys[pending]
            empty = self._keys[at, 0] == 0
            # Where several keys claim one empty slot the last one written has it, in both arrays.
            claims, claimed = pending[empty], at[empty]
            self._keys[claimed] = wanted[empty]
            self.values[claimed] = claims
            won = claims[self.values[claimed] == claims]
            entered.append(won)
            self.used += len(won)
            other = ~_equal(self._keys[at], wanted)
            pending = pending[other]
            slots[pending] = (at[other] + 1) & (len(self._keys) - 1)
        return np.concatenate(entered)

    def _grow(self, expected: int) -> None:
        kept = np.flatnonzero(self._keys[:, 0])
        old, values = self._keys[kept], self.values[kept]
        self._allocate(1 << (4 * expected).bit_length())
        slots = self._home(old)
        self._enter(old, slots, np.arange(len(slots)))
        self.used = len(kept)
        self.values[slots] = values


def _equal(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    same = left == right
    return same[:, 0] & same[:, 1]
