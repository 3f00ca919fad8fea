"""Encodes many texts at once: each distinct chunk between spaces is cut into pieces only once.

Text between two ASCII spaces is normalised and cut by itself, so a memo from chunk to pieces is
exact. Natural text repeats its chunks (80 MB of Wikipedia: 13 million, 0.7 million distinct), so
nearly all the work is looking chunks up, which numpy does for thousands at a time. What has not
been seen is split into words, for which there is a second memo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bertsmith.text.greedy import GreedyCutter
from bertsmith.text.keys import LONGEST_KEY, PADDING, KeyTable, read_keys

_BLOCK = 1 << 21  # bytes looked at together: smaller blocks waste calls, larger ones the cache
_MOST_REMEMBERED = 900_000  # chunks, and words: 50 MB of table each
_LENGTH_BITS = 32  # a span of pieces is one number, start << 32 | length
_LENGTH = (1 << _LENGTH_BITS) - 1

_SPACES = b" \n\r\t"  # the ASCII characters that normalising makes a space of
_OTHER, _ALPHANUMERIC, _PUNCTUATION = 0, 1, 2
_KINDS = np.array(
    [
        _OTHER if not 32 < byte < 127 else _ALPHANUMERIC if chr(byte).isalnum() else _PUNCTUATION
        for byte in range(256)
    ],
    np.uint8,
)
_LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8)


class _Words(NamedTuple):
    """Normalised words of some chunks, where they stand, and how many each chunk has."""

    content: bytes  # ends with PADDING
    starts: np.ndarray  # [W]
    lengths: np.ndarray  # [W]
    per_chunk: np.ndarray  # [C]


class BulkEncoder:
    """Holds the memos of one tokenizer; what `encode` returns does not depend on them."""

    def __init__(
        self,
        *,
        lowers: bool,
        space_out: Callable[[str], str],
        cutter: GreedyCutter,
        word_ids: Callable[[str], Sequence[int]],
    ) -> None:
        """Makes empty memos.

        `space_out` normalises lines of text and puts spaces between their words, `cutter` cuts
        short words, `word_ids` any word.
        """
        self._lowers = lowers
        self._space_out = space_out
        self._cutter = cutter
        self._word_ids = word_ids
        self._forget()

    def _forget(self) -> None:
        self._chunks = KeyTable()
        self._chunk_spans = _Spans()
        self._words = KeyTable()
        self._word_spans = _Spans()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts, int32 [P], and where each text begins, int64 [N + 1]."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        content = b" ".join(encoded) + PADDING
        if b"\0" in content:  # normalising deletes it, and keys cannot hold it
            encoded = [text.replace(b"\0", b"") for text in encoded]
            content = b" ".join(encoded) + PADDING
        borders = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) + 1 for text in encoded], out=borders[1:])
        starts = np.zeros(len(encoded) + 1, np.int64)
        blocks = [np.zeros(0, np.int32)]
        begin = total = 0
        while begin < borders[-1]:
            end = _after_space(content, begin + _BLOCK, int(borders[-1]))
            ids, chunk_starts, chunk_ends = self._encode_block(content, begin, end)
            first, last = np.searchsorted(borders, (begin, end))
            chunks_before = np.searchsorted(chunk_starts, borders[first:last] - begin)
            starts[first:last] = total + np.append(0, chunk_ends)[chunks_before]
            blocks.append(ids)
            begin, total = end, total + len(ids)
        starts[-1] = total
        return np.concatenate(blocks), starts

    def _encode_block(
        self, content: bytes, begin: int, end: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the block's ids [P], and of its chunks where they begin and their ids end [C]."""
        if self._chunks.used > _MOST_REMEMBERED or self._words.used > _MOST_REMEMBERED:
            self._forget()
        block = content[begin : end + len(PADDING)]
        starts, lengths = _chunks(np.frombuffer(block, np.uint8)[: end - begin])
        spans = np.empty(len(starts), np.int64)
        short = lengths <= LONGEST_KEY
        spans[short] = self._remembered(block, starts[short], lengths[short])
        kept = self._chunk_spans.size
        spans[~short] = self._cut(block, starts[~short], lengths[~short])
        ids, ends = self._chunk_spans.gather(spans)
        self._chunk_spans.size = kept  # long chunks seldom come again
        return ids, starts, ends

    def _remembered(self, block: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the spans of chunks that fit a key."""
        slots, new = self._chunks.find(read_keys(block, starts, lengths))
        self._chunks.values[slots[new]] = self._cut(block, starts[new], lengths[new])
        return self._chunks.values.take(slots)

    def _cut(self, block: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the spans of chunks, once cut and entered. [C]"""
        spans = np.empty(len(starts), np.int64)
        if not len(starts):
            return spans
        characters = np.frombuffer(block, np.uint8).take(_ranges(starts, lengths))
        kinds = _KINDS.take(characters)
        plain = np.minimum.reduceat(kinds, np.cumsum(lengths) - lengths) != _OTHER
        kept = np.repeat(plain, lengths)
        spans[plain] = self._enter(
            _plain_words(characters[kept], kinds[kept], lengths[plain], self._lowers)
        )
        spans[~plain] = self._enter(self._other_words(characters[~kept], lengths[~plain]))
        return spans

    def _other_words(self, characters: np.ndarray, lengths: np.ndarray) -> _Words:
        """Returns the words of chunks that hold more than printable ASCII."""
        ends = np.cumsum(lengths)
        lined = np.insert(characters, ends, ord("\n")).tobytes()
        spaced = self._space_out(lined.decode("utf-8", "surrogatepass")).encode("utf-8")
        bytes_of = np.frombuffer(spaced, np.uint8)
        starts, word_lengths = _chunks(bytes_of)
        words_before = np.searchsorted(starts, np.flatnonzero(bytes_of == ord("\n")))
        return _Words(spaced + PADDING, starts, word_lengths, np.diff(words_before, prepend=0))

    def _enter(self, words: _Words) -> np.ndarray:
        """Returns the spans of the chunks whose words are given, once they are entered. [C]"""
        spans = np.empty(len(words.starts), np.int64)
        short = words.lengths <= LONGEST_KEY
        spans[short] = self._word_span(words.content, words.starts[short], words.lengths[short])
        kept = self._word_spans.size
        for index in np.flatnonzero(~short).tolist():
            start = int(words.starts[index])
            word = words.content[start : start + int(words.lengths[index])].decode("utf-8")
            word_ids = self._word_ids(word)
            spans[index] = self._word_spans.append(word_ids) << _LENGTH_BITS | len(word_ids)
        ids, ends = self._word_spans.gather(spans)
        self._word_spans.size = kept  # they are few, and word_ids remembers them
        chunk_ends = np.append(0, ends)[np.cumsum(words.per_chunk)]
        chunk_lengths = np.diff(chunk_ends, prepend=0)
        start = self._chunk_spans.append(ids)
        return (start + chunk_ends - chunk_lengths) << _LENGTH_BITS | chunk_lengths

    def _word_span(self, content: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns the spans of words that fit a key."""
        slots, new = self._words.find(read_keys(content, starts, lengths))
        ids, counts = self._cutter.cut(content, starts[new], lengths[new])
        first = self._word_spans.append(ids) + np.cumsum(counts) - counts
        self._words.values[slots[new]] = first << _LENGTH_BITS | counts
        return self._words.values.take(slots)


class _Spans:
    """A growing array of piece ids; a part of it is named by one number, start and length."""

    def __init__(self) -> None:
        self.ids = np.zeros(1 << 12, np.int32)
        self.size = 0

    def append(self, ids: Sequence[int] | np.ndarray) -> int:
        """Returns where the ids begin, once they stand at the end."""
        start = self.size
        self.size += len(ids)
        if self.size > len(self.ids):
            self.ids = np.concatenate([self.ids, np.zeros(self.size, np.int32)])
        self.ids[start : self.size] = ids
        return start

    def gather(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all spans one after the other [P], and where each ends there [N]."""
        lengths = spans & _LENGTH
        return self.ids.take(_ranges(spans >> _LENGTH_BITS, lengths)), np.cumsum(lengths)


def _plain_words(
    characters: np.ndarray, kinds: np.ndarray, lengths: np.ndarray, lowers: bool
) -> _Words:
    """Returns the words of chunks of printable ASCII, given one after the other."""
    marks = kinds == _PUNCTUATION
    begins = marks.copy()
    begins[1:] |= marks[:-1]
    ends = np.cumsum(lengths)
    begins[ends - lengths] = True
    starts = np.flatnonzero(begins)
    content = (_LOWER.take(characters) if lowers else characters).tobytes() + PADDING
    words_before = np.searchsorted(starts, ends)
    return _Words(
        content,
        starts,
        np.diff(starts, append=len(characters)),
        np.diff(words_before, prepend=0),
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns starts[0], starts[0] + 1 .. for lengths[0] numbers, then those of starts[1] .."""
    ends = np.cumsum(lengths)
    positions = np.repeat(starts - ends + lengths, lengths)
    positions += np.arange(len(positions))
    return positions


def _chunks(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the chunks between spaces begin, and their lengths, none of them 0.

    The last character must be a space.
    """
    spaces = np.zeros(len(characters), bool)
    for space in _SPACES:
        spaces |= characters == space
    ends = np.flatnonzero(spaces)
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts
    some = lengths > 0
    return (starts, lengths) if some.all() else (starts[some], lengths[some])


def _after_space(content: bytes, position: int, end: int) -> int:
    """Returns the first place at or after `position` that follows a space, at most `end`."""
    if position >= end:
        return end
    return content.find(b" ", position, end) + 1 or end
