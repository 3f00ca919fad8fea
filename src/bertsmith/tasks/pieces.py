"""Rows of text as the model reads them, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from bertsmith.data.framing import Framed, frame
from bertsmith.tasks.forms import Features
from bertsmith.tasks.labelled import Example
from bertsmith.text.wordpiece import Tokenizer

# Pieces in one batch of an evaluation or a prediction: enough to keep the cores busy, and few
# enough that a batch of them takes a moment and little memory at any size of model.
TOKENS_PER_BATCH = 4096
WINDOW_ROWS = 4096  # read, sorted by length and predicted at a time


def encode(
    example: Example, tokenizer: Tokenizer, max_length: int, *, with_special: bool = False
) -> Framed:
    """Returns the pieces of one row, at most `max_length` of them, special ones included.

    Of a pair, the longer text loses its last piece until both fit. With `with_special`, `[MASK]`
    in a text is the mask. Time and memory depend on `max_length`, not on the length of the text.
    """
    first, second = (
        None
        if text is None
        else tokenizer.encode(text, max_pieces=max_length, with_special=with_special)
        for text in (example.text, example.pair)
    )
    assert first is not None, "every row has a text"
    return frame(first, second, tokenizer.vocabulary, max_length=max_length)


def encode_whole(example: Example, tokenizer: Tokenizer, max_length: int) -> tuple[Framed, ...]:
    """Returns all pieces of one row, in windows of at most `max_length` that overlap by half.

    Of a pair, the second text is read in windows; the first is in all of them, cut to half the
    length.
    """
    vocabulary = tokenizer.vocabulary
    if example.pair is None:
        first, long = None, tokenizer.encode(example.text)
        room = max_length - 2
    else:
        first = tokenizer.encode(example.text, max_pieces=max_length)[: max_length // 2 - 1]
        long = tokenizer.encode(example.pair)
        room = max_length - 3 - len(first)
    starts = range(0, max(1, len(long) - room // 2), max(1, room - room // 2))
    parts = [long[start : start + room] for start in starts]
    return tuple(
        frame(part, None, vocabulary, max_length=max_length)
        if first is None
        else frame(first, part, vocabulary, max_length=max_length)
        for part in parts
    )


def text_features(
    example: Example, tokenizer: Tokenizer, max_length: int, long_texts: str
) -> Features:
    """Returns a text or a pair as the model reads it: `cut`, or whole in `windows`."""
    if long_texts == "windows":
        return Features(encode_whole(example, tokenizer, max_length))
    return Features((encode(example, tokenizer, max_length),))


def windows(examples: Iterable[Any]) -> Iterator[list[Any]]:
    """Yields the examples in their order, a window at a time, so that a long file stays on disk."""
    source = iter(examples)
    while window := list(islice(source, WINDOW_ROWS)):
        yield window
