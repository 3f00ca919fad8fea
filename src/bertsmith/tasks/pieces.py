"""Rows of text as the model reads them, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from bertsmith.data.framing import Framed, frame
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


def windows(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yields the examples in their order, a window at a time, so that a long file stays on disk."""
    source = iter(examples)
    while window := list(islice(source, WINDOW_ROWS)):
        yield window
