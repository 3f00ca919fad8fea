"""A hash table in numpy: short byte strings to numbers, thousands in one call."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST_KEY = 16  # bytes
PADDING = b" " * LONGEST_KEY  # what must follow the last byte of a buffer that keys are read from

_FEW_SLOTS = 1 << 14
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads keys over the slots
_MIX_HIGH = np.uint64(0xC2B2AE3D27D4EB4F)
LOW_MASKS = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(LONGEST_KEY + 1)], np.uint64)
HIGH_MASKS = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(LONGEST_KEY + 1)], np.uint64)


class Keys(NamedTuple):
    """Byte strings of 1 to 16 bytes, none of them NUL, as two words each. uint64 [N], [N]"""

    low: np.ndarray
    high: np.ndarray


def read_keys(content: bytes, starts: np.ndarray, lengths: np.ndarray) -> Keys:
    """Returns the keys that stand at `starts` of `content`, which ends with `PADDING`."""
    words = np.ndarray((len(content) - 7,), "<u8", content, strides=(1,))
    return Keys(
        words[starts] & LOW_MASKS.take(lengths), words[starts + 8] & HIGH_MASKS.take(lengths)
    )


class KeyTable:
    """Holds a number for each key, in a slot that is the key's until the table grows.

    Open addressing, linear probing, at most half full. A slot is empty where its low word is 0.
    """

    def __init__(self, expected: int = 0) -> None:
        self.used = 0
        self._allocate(max(_FEW_SLOTS, 1 << (4 * expected).bit_length()))

    def _allocate(self, slots: int) -> None:
        self._low = np.zeros(slots, np.uint64)
        self._high = np.zeros(slots, np.uint64)
        self.values = np.zeros(slots, np.int64)
        self._shift = np.uint64(65 - slots.bit_length())

    def look_up(self, keys: Keys) -> np.ndarray:
        """Returns the value of each key, -1 where there is none. int64 [N]"""
        slots = self._home(keys)
        low = self._low.take(slots)
        same = (low == keys.low) & (self._high.take(slots) == keys.high)
        values = np.where(same, self.values.take(slots), -1)
        pending = np.flatnonzero((low != 0) & ~same)
        while len(pending):
            at = slots[pending] = (slots[pending] + 1) & (len(self._low) - 1)
            low = self._low[at]
            same = (low == keys.low[pending]) & (self._high[at] == keys.high[pending])
            values[pending[same]] = self.values[at[same]]
            pending = pending[(low != 0) & ~same]
        return values

    def find(self, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slot of each key, and the indices of keys that were not there before.

        A new key is entered, and named once however often it stands in `keys`; the caller owes
        `values` an entry for its slot.
        """
        slots = self._home(keys)
        same = (self._low.take(slots) == keys.low) & (self._high.take(slots) == keys.high)
        elsewhere = np.flatnonzero(~same)
        if 2 * (self.used + len(elsewhere)) > len(self._low):
            self._grow(self.used + len(elsewhere))
            slots = self._home(keys)
            elsewhere = np.arange(len(slots))
        return slots, self._enter(keys, slots, elsewhere)

    def _home(self, keys: Keys) -> np.ndarray:
        mixed = (keys.low ^ (keys.high * _MIX_HIGH)) * _MIX
        return (mixed >> self._shift).view(np.int64)

    def _enter(self, keys: Keys, slots: np.ndarray, pending: np.ndarray) -> np.ndarray:
        """Settles `slots[pending]` in place; returns one index for every key that was new."""
        entered = [pending[:0]]
        while len(pending):
            at = slots[pending]
            low, high = keys.low[pending], keys.high[pending]
            empty = self._low[at] == 0
            # Where several keys claim one empty slot the last one written has it, in all arrays.
            claims, claimed = pending[empty], at[empty]
            self._low[claimed] = low[empty]
            self._high[claimed] = high[empty]
            self.values[claimed] = claims
            won = claims[self.values[claimed] == claims]
            entered.append(won)
            self.used += len(won)
            other = (self._low[at] != low) | (self._high[at] != high)
            pending = pending[other]
            slots[pending] = (at[other] + 1) & (len(self._low) - 1)
        return np.concatenate(entered)

    def _grow(self, expected: int) -> None:
        kept = np.flatnonzero(self._low)
        old, values = Keys(self._low[kept], self._high[kept]), self.values[kept]
        self._allocate(1 << (4 * expected).bit_length())
        slots = self._home(old)
        self._enter(old, slots, np.arange(len(slots)))
        self.used = len(kept)
        self.values[slots] = values
