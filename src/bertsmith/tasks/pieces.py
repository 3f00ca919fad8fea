"""Texts and pairs as pieces, and those as packed batches without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from bertsmith.data.batches import PackedBatch
from bertsmith.tasks.labelled import Example
from bertsmith.text.wordpiece import Tokenizer

# Pieces in one batch of an evaluation or a prediction: enough to keep the cores busy, and few
# enough that a batch of it takes a moment and little memory at any size of model.
TOKENS_PER_BATCH = 4096
WINDOW_ROWS = 4096  # read, sorted by length and predicted at a time


@dataclass(frozen=True, slots=True)
class Features:
    """One row as the model reads it: `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]`."""

    piece_ids: np.ndarray  # int32 [T]
    first_length: int  # pieces of segment 0; the rest are of segment 1
    is_cut: bool  # whether pieces were left out to fit the length


def encode_example(
    example: Example, tokenizer: Tokenizer, max_length: int, *, with_special: bool = False
) -> Features:
    """Returns the pieces of one row, at most `max_length` of them, special ones included.

    Of a pair, the longer text loses its last piece until both fit. With `with_special`, `[MASK]`
    in a text is the mask.

    Source: `run_classifier.py`, `convert_single_example` and `_truncate_seq_pair`.
    """
    vocabulary = tokenizer.vocabulary
    room = max_length - (2 if example.pair is None else 3)
    first = tokenizer.encode(example.text, max_pieces=room + 1, with_special=with_special)
    if example.pair is None:
        kept, pieces, is_cut = first[:room], [], len(first) > room
    else:
        second = tokenizer.encode(example.pair, max_pieces=room + 1, with_special=with_special)
        is_cut = len(first) + len(second) > room
        second_room = min(len(second), max(room // 2, room - len(first)))
        kept = first[: room - second_room]
        pieces = [*second[:second_room], vocabulary.sep_id]
    ids = [vocabulary.cls_id, *kept, vocabulary.sep_id, *pieces]
    return Features(np.array(ids, dtype=np.int32), len(kept) + 2, is_cut)


def pack(rows: Sequence[Features], labels: Tensor | None = None) -> PackedBatch:
    """Returns the rows as one batch without padding, in their order; labels are [S]."""
    lengths = np.array([len(row.piece_ids) for row in rows])  # [S]
    starts = np.concatenate(([0], np.cumsum(lengths)))  # [S + 1]
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)  # [T]
    firsts = np.repeat([row.first_length for row in rows], lengths)  # [T]
    return PackedBatch(
        piece_ids=torch.from_numpy(np.concatenate([row.piece_ids for row in rows])).long(),
        segment_ids=torch.from_numpy(positions >= firsts).long(),
        position_ids=torch.from_numpy(positions),
        sequence_starts=torch.from_numpy(starts.astype(np.int32)),
        labels=labels,
    )


def by_length(rows: Sequence[Features], max_tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Yields the places of the rows in groups of like length, each of at most `max_tokens` pieces.

    Every place comes once; a row longer than `max_tokens` comes alone.
    """
    group: list[int] = []
    tokens = 0
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place].piece_ids)):
        length = len(rows[place].piece_ids)
        if group and tokens + length > max_tokens:
            yield group
            group, tokens = [], 0
        group.append(place)
        tokens += length
    if group:
        yield group


def windows(examples: Iterable[Example], size: int = WINDOW_ROWS) -> Iterator[list[Example]]:
    """Yields the examples in their order, `size` at a time, so that a long file stays on disk."""
    source = iter(examples)
    while window := list(islice(source, size)):
        yield window
