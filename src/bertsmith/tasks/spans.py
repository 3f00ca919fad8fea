"""Questions with their contexts as the model reads them, and the spans that its scores speak for.

A context longer than the model reads is cut into windows that overlap; a span is counted in pieces
of the context, and its text is cut out of the context by the characters that the pieces cover.

Shapes:  T tokens of a window   P pieces of a context   W pieces of it in a window
         O starts that a window speaks for   L pieces in the longest answer

Source: google-research/bert, `run_squad.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import TaskConfig
from bertsmith.data.framing import frame
from bertsmith.tasks.forms import Features
from bertsmith.text.wordpiece import Tokenizer

# Contexts are asked several questions, one after the other: so many are kept cut into pieces.
CONTEXTS_KEPT = 512
LONGEST_KEPT = 10_000  # characters; it bounds the memory of what is kept to some 100 MB


@dataclass(frozen=True)
class Pieces:
    """A context cut into pieces, with the characters [start, end) that each covers."""

    ids: NDArray[np.int32]  # [P]
    starts: NDArray[np.int32]  # [P]
    ends: NDArray[np.int32]  # [P]

    def span_of(self, start: int, end: int) -> tuple[int, int] | None:
        """Returns the first and the last piece that lie on the characters [start, end).

        None: no piece lies there, as on control characters alone.
        """
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left")) - 1
        return (first, last) if first <= last else None

    def characters(self, first: int, last: int, context: str) -> tuple[int, int]:
        """Returns the characters [start, end) under these pieces, with accents that follow."""
        end = int(self.ends[last])
        while end < len(context) and unicodedata.combining(context[end]):
            end += 1
        return int(self.starts[first]), end


@dataclass(frozen=True)
class AnswerFeatures(Features):
    """A question with each window of its context: [CLS] question [SEP] window [SEP]."""

    context: Pieces
    firsts: tuple[int, ...]  # of each window the piece of the context that it begins with
    offset: int  # token of a sequence at which its window begins


@dataclass(frozen=True, slots=True)
class Span:
    """Pieces of a context, and the sum of the scores that an answer starts and ends there."""

    score: float
    first: int
    last: int


def question_features(
    question: str, context: str, tokenizer: Tokenizer, max_length: int, options: TaskConfig
) -> AnswerFeatures:
    """Returns a question with its context in windows of at most `max_length` pieces.

    A long question is cut to `max_query_length` pieces, and to half of what there is room for.
    """
    most = min(options.max_query_length, (max_length - 3) // 2)
    asked = tokenizer.encode(question, max_pieces=most + 1)
    pieces = encode_context(context, tokenizer)
    room = max_length - 3 - len(asked[:most])
    firsts = tuple(window_starts(len(pieces.ids), room, options.doc_stride))
    sequences = []
    for first in firsts:
        window = frame(
            asked[:most],
            pieces.ids[first : first + room],
            tokenizer.vocabulary,
            max_length=max_length,
        )
        sequences.append(replace(window, was_cut=len(asked) > most))
    return AnswerFeatures(tuple(sequences), pieces, firsts, len(asked[:most]) + 2)


def encode_context(context: str, tokenizer: Tokenizer) -> Pieces:
    """Returns the pieces of a context; those of the last contexts of usual length are kept."""
    if len(context) > LONGEST_KEPT:
        return _cut(context, tokenizer)
    return _cut_once(context, tokenizer)


def window_starts(num_pieces: int, room: int, stride: int) -> list[int]:
    """Returns where windows of `room` pieces begin, `stride` pieces apart, up to the last piece."""
    starts = [0]
    while starts[-1] + room < num_pieces:
        starts.append(starts[-1] + min(room, stride))
    return starts


def targets_of(
    features: AnswerFeatures, span: tuple[int, int] | None
) -> tuple[tuple[int, int], ...]:
    """Returns for each window the first and the last token of the answer; (0, 0) if not in it.

    Args:
        features: the question.
        span: characters [start, end) of the answer; None if there is none.
    """
    pieces = features.context.span_of(*span) if span else None
    targets = []
    for first, sequence in zip(features.firsts, features.sequences, strict=True):
        size = len(sequence) - features.offset - 1
        if pieces and first <= pieces[0] and pieces[1] < first + size:
            shift = features.offset - first
            targets.append((pieces[0] + shift, pieces[1] + shift))
        else:
            targets.append((0, 0))
    return tuple(targets)


def best_spans(
    features: AnswerFeatures, outputs: Sequence[Tensor], *, longest: int, most: int
) -> Iterator[Span]:
    """Yields the `most` likeliest spans of at most `longest` pieces, over all windows, best first.

    Of pieces in several windows, the one with most context on both sides speaks for a start.
    All spans are looked at, where the published program looks at those between the 20 likeliest
    starts and ends.

    Args:
        features: the question.
        outputs: of each window the scores of starts and ends. [T, 2]
    """
    owners = _owners(features)  # [P]
    found = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))]
    for number, (begin, output) in enumerate(zip(features.firsts, outputs, strict=True)):
        scores = output.double().numpy()[features.offset : -1]  # [W, 2]
        own = np.flatnonzero(owners[begin : begin + len(scores)] == number)  # [O]
        if not len(own):
            continue
        ends = np.full(len(scores) + longest - 1, -np.inf)  # [W + L - 1]
        ends[: len(scores)] = scores[:, 1]
        reach = np.lib.stride_tricks.sliding_window_view(ends, longest)  # [W, L]
        totals = (scores[own, :1] + reach[own]).ravel()  # [O * L]
        count = min(most, len(totals))
        top = np.argpartition(-totals, count - 1)[:count]  # [count]
        top = top[np.isfinite(totals[top])]  # spans that end within the window
        firsts = begin + own[top // longest]  # of the shape of top
        found.append((totals[top], firsts, firsts + top % longest))
    scores, firsts, lasts = map(np.concatenate, zip(*found, strict=True))
    for place in np.lexsort((lasts, firsts, -scores))[:most].tolist():
        yield Span(float(scores[place]), int(firsts[place]), int(lasts[place]))


def no_answer_score(outputs: Sequence[Tensor]) -> float:
    """Returns the score of the span [CLS], which means no answer, in the window least for it."""
    return min(float(output[0, 0]) + float(output[0, 1]) for output in outputs)


def _owners(features: AnswerFeatures) -> NDArray[np.int64]:
    """Returns for each piece of the context the window with most context on its poorer side. [P]

    Of equally good ones the longer window is taken, then the earlier.
    """
    owners = np.zeros(len(features.context.ids), dtype=np.int64)  # [P]
    best = np.full(len(owners), -1.0)  # [P]
    for number, (first, sequence) in enumerate(
        zip(features.firsts, features.sequences, strict=True)
    ):
        size = len(sequence) - features.offset - 1
        places = np.arange(size)  # [W]
        worth = np.minimum(places, places[::-1]) + 0.01 * size  # [W]
        better = worth > best[first : first + size]  # [W]
        owners[first : first + size][better] = number
        best[first : first + size][better] = worth[better]
    return owners


@lru_cache(maxsize=CONTEXTS_KEPT)
def _cut_once(context: str, tokenizer: Tokenizer) -> Pieces:
    return _cut(context, tokenizer)


def _cut(context: str, tokenizer: Tokenizer) -> Pieces:
    return Pieces(*(np.array(part, np.int32) for part in tokenizer.encode_with_offsets(context)))
