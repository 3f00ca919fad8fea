"""Rows of text as the model reads them, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from bertsmith.data.framing import Framed, frame
from bertsmith.tasks.forms import Features
from bertsmith.tasks.labelled import Example
from bertsmith.text.wordpiece import Tokenizer

# Pieces in one batch of an evaluation or a prediction: enough to keep the cores busy, and few
# enough that a batch of them takes a moment and little memory at any size of model.
TOKENS_PER_BATCH = 4096
WINDOW_ROWS = 4096  # read, sorted by length and predicted at a time
FIRST_ROWS = 256  # in the first window
WINDOW_CHARACTERS = 1 << 23  # in a window of long texts
_LONG_TEXT = 1 << 13  # characters; of a longer text only what the model reads is encoded

Encoded = TypeVar("Encoded")


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
    """Yields the examples in their order, a window at a time, so that a long file stays on disk.

    The first window is smaller, so that the first answers come soon; where texts are long, all are.
    """
    window: list[Any] = []
    characters, most = 0, min(FIRST_ROWS, WINDOW_ROWS)
    for example in examples:
        window.append(example)
        if isinstance(example, Example):
            characters += len(example.text) + len(example.pair or "")
        if len(window) == most or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters, most = [], 0, WINDOW_ROWS
    if window:
        yield window


def encoded_ahead(
    examples: Iterable[Any],
    tokenizer: Tokenizer,
    encode_one: Callable[[Any, Tokenizer], Encoded],
) -> Iterator[tuple[list[Any], list[Encoded]]]:
    """Yields windows of examples with what `encode_one` makes of each of them.

    While one is made use of, the next is encoded in another thread. Examples are read in this one.
    """

    def encode_all(window: list[Any]) -> list[Encoded]:
        texts = [
            text
            for example in window
            if isinstance(example, Example)
            for text in (example.text, example.pair)
            if text is not None and len(text) <= _LONG_TEXT
        ]
        prepared = tokenizer.with_texts(list(dict.fromkeys(texts))) if len(texts) > 1 else tokenizer
        return [encode_one(example, prepared) for example in window]

    waiting: tuple[list[Any], Future[list[Encoded]]] | None = None
    with ThreadPoolExecutor(1, "encode") as pool:
        for window in windows(examples):
            if waiting is None and len(window) < FIRST_ROWS:
                yield window, encode_all(window)  # no others follow, or few do
                continue
            following = (window, pool.submit(encode_all, window))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
