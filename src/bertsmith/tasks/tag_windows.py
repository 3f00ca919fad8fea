"""Tagged words as the model reads them: pieces, windows, and the place that decides each word.

A word is decided at its first piece, once: where a sentence is longer than the model, in the one of
its overlapping windows in which the word has the most around it.

Source: Devlin et al. 2019, section 5.3; the windows, appendix A.5 of `run_squad.py`
(`_check_is_max_context`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.framing import Framed, frame
from bertsmith.data.tagged import TaggedSentence
from bertsmith.tasks.forms import Features
from bertsmith.text.wordpiece import LONGEST_WORD, Tokenizer


@dataclass(frozen=True)
class TagFeatures(Features):
    """A sentence as one sequence, or as overlapping ones that decide each word once."""

    positions: tuple[NDArray[np.int64], ...] = ()  # of each sequence: first pieces of its words
    words: tuple[NDArray[np.int64], ...] = ()  # of each sequence: the words decided there

    @property
    def num_decided(self) -> int:
        """Returns how many words have a piece, and so a place where they are decided."""
        return sum(map(len, self.words))


def tag_features(
    sentence: TaggedSentence, tokenizer: Tokenizer, max_length: int, *, document_context: bool
) -> TagFeatures:
    """Returns the pieces of a sentence, in windows where they are more than `max_length`.

    With `document_context` a sentence that leaves room stands amid as much of its document as
    fits, about as much before it as after it. Of a word that is longer than a window, the pieces
    that a window holds are read.
    """
    room = max_length - 2  # beside [CLS] and [SEP]
    pieces, firsts, words, was_cut = _pieces_of(sentence.words, tokenizer, room)
    if len(pieces) > room:
        return _in_windows(pieces, firsts, words, tokenizer, max_length, was_cut)
    before: list[int] = []
    after: list[int] = []
    if document_context:
        before, after = _context(sentence, tokenizer, room - len(pieces))
    sequence = frame([*before, *pieces, *after], None, tokenizer.vocabulary, max_length=max_length)
    return TagFeatures((replace(sequence, was_cut=was_cut),), (firsts + len(before) + 1,), (words,))


def _pieces_of(
    words: Sequence[str], tokenizer: Tokenizer, most: int
) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64], bool]:
    """Returns all pieces, where the first of each word stands, which words these are, and a cut."""
    pieces: list[int] = []
    firsts: list[int] = []
    numbers: list[int] = []
    was_cut = False
    for number, word in enumerate(words):
        ids = _encode(word, tokenizer, most + 1)
        was_cut |= len(ids) > most
        if ids:
            firsts.append(len(pieces))
            numbers.append(number)
            pieces += ids[:most]
    return pieces, np.array(firsts, np.int64), np.array(numbers, np.int64), was_cut


def _encode(word: str, tokenizer: Tokenizer, most: int) -> list[int]:
    # Bounding the work takes time itself, and is of use for monstrous words alone.
    return tokenizer.encode(word, max_pieces=most if len(word) > LONGEST_WORD else None)[:most]


def _in_windows(
    pieces: Sequence[int],
    firsts: NDArray[np.int64],
    words: NDArray[np.int64],
    tokenizer: Tokenizer,
    max_length: int,
    was_cut: bool,
) -> TagFeatures:
    """Returns windows that overlap by half; one in which no word is decided is left out."""
    room = max_length - 2
    stride = room - room // 2
    last_start = len(pieces) - room
    starts = np.append(np.arange(0, last_start, stride), last_start)  # [W]
    chosen = _best_windows(firsts, starts, stride, room)
    sequences: list[Framed] = []
    positions: list[NDArray[np.int64]] = []
    decided: list[NDArray[np.int64]] = []
    borders = np.searchsorted(chosen, np.arange(len(starts) + 1))  # later words, later windows
    for start, first, end in zip(starts.tolist(), borders[:-1], borders[1:], strict=True):
        if first < end:
            part = frame(
                pieces[start : start + room], None, tokenizer.vocabulary, max_length=max_length
            )
            sequences.append(replace(part, was_cut=was_cut))
            positions.append(firsts[first:end] - start + 1)
            decided.append(words[first:end])
    return TagFeatures(tuple(sequences), tuple(positions), tuple(decided))


def _best_windows(
    firsts: NDArray[np.int64], starts: NDArray[np.int64], stride: int, room: int
) -> NDArray[np.int64]:
    """Returns for each first piece the window in which the nearer edge is farthest from it.

    The ends of the sentence are no edges: nothing is missing beyond them. A place is in two windows
    by their stride, and may be in the last one, which stands closer to its neighbour.
    """
    last = len(starts) - 1
    nearest = np.minimum(firsts // stride, last)  # the last window that begins at or before it
    candidates = np.stack([nearest - 1, nearest, np.full_like(nearest, last)]).clip(0)  # [3, M]
    left = np.where(candidates == 0, room, firsts - starts[candidates])
    right = np.where(candidates == last, room, starts[candidates] + room - 1 - firsts)
    is_inside = (firsts >= starts[candidates]) & (firsts < starts[candidates] + room)
    margins = np.where(is_inside, np.minimum(left, right), -1)
    best = np.take_along_axis(candidates, margins.argmax(0)[None], axis=0)[0]
    return np.maximum.accumulate(best)  # where two are as good, no later word has an earlier one


def _context(
    sentence: TaggedSentence, tokenizer: Tokenizer, room: int
) -> tuple[list[int], list[int]]:
    """Returns the pieces before and after a sentence in its document, together at most `room`.

    What one side lacks is given to the other.
    """
    words_before = (word for words in reversed(sentence.before) for word in reversed(words))
    backwards = _some_pieces(words_before, tokenizer, room, backwards=True)
    after = _some_pieces(chain.from_iterable(sentence.after), tokenizer, room)
    num_before = min(len(backwards), max(room // 2, room - len(after)))
    return backwards[:num_before][::-1], after[: room - num_before]


def _some_pieces(
    words: Iterable[str], tokenizer: Tokenizer, room: int, *, backwards: bool = False
) -> list[int]:
    """Returns the first `room` pieces of words that come one by one."""
    pieces: list[int] = []
    for word in words:
        if len(pieces) >= room:
            break
        ids = _encode(word, tokenizer, LONGEST_WORD)
        pieces += ids[::-1] if backwards else ids
    return pieces[:room]
