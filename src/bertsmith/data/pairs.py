"""Which sentences of a shard make the examples of an epoch, decided from sentence lengths alone.

The walk over a document is sequential and random, so it is done for a whole shard at once; the
pieces themselves are not read. It does what the published `create_pretraining_data.py` does, quirks
included:

- A document is walked sentence by sentence. A chunk takes sentences until it has at least the
  target length (the last one may overshoot) or the document ends; A is the first one or more
  sentences of the chunk, up to a random border.
- B is the rest of the chunk, or, with `random_next_prob`, a run of sentences from a random place
  of another document; then the rest of the chunk goes back and starts the next chunk.
- A chunk of one sentence has no rest: its B is always random. So more than `random_next_prob` of
  all examples have a random next: that probability holds for chunks of two or more sentences.
- The target is the full length, or with `short_seq_prob` a random one from 2 up to the full length.

Two things differ. The published code draws the target once per document, and a document cut short
yields more examples, so that a third of them are short, not the tenth that its comments speak of;
here it is drawn for every chunk, and the share is one of examples. And another document is one of
the same shard, not of the whole run; in a shard of a single document it is that document itself, as
in the published code when ten tries have found no other.

Where no random next is asked for (`sop`, `none`), every pair is two consecutive parts of one
document. A chunk of one sentence is then parted inside it; one of a single piece is left out. With
`sop` the two stand in the wrong order half of the time. (The published code of ALBERT gives a chunk
of one sentence a random other text and calls that a wrong order, so that the topic tells.)

Source: google-research/bert, `create_pretraining_data.py`, `create_instances_from_document`; for
`sop` Lan et al. 2020 (ALBERT), section 3.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ExamplesConfig
from bertsmith.data.randomness import WORD_BITS, below
from bertsmith.data.shards import Shard

NUM_SPECIAL = 3  # [CLS] A [SEP] B [SEP]


@dataclass(frozen=True)
class Pairs:
    """The examples of one shard in one epoch, before truncation; borders count its pieces."""

    starts_a: NDArray[np.int64]  # [E]
    ends_a: NDArray[np.int64]  # [E]
    starts_b: NDArray[np.int64]  # [E]
    ends_b: NDArray[np.int64]  # [E]
    next_labels: NDArray[np.int8]  # 0 B is the next text, 1 B is random, or comes before A [E]
    targets: NDArray[np.int32]  # pieces that the chunk was filled to [E]
    num_sentences: NDArray[np.int32]  # in the chunk, those that went back included [E]

    def __len__(self) -> int:
        return len(self.starts_a)


def plan_pairs(shard: Shard, config: ExamplesConfig, draw: Callable[[], int]) -> Pairs:
    """Returns the examples of `shard` in document order; `draw` returns random words."""
    if config.sentence_task != "nsp":
        return _plan_consecutive(shard, config, draw)
    longest = config.sequence_length - NUM_SPECIAL
    shorter = below(config.short_seq_prob)
    elsewhere = below(config.random_next_prob)
    starts = shard.sentence_starts.tolist()  # Python ints: bisect on them is ten times faster
    documents = shard.document_starts.tolist()
    others = len(documents) - 2  # documents to draw a random next from
    rows: list[tuple[int, ...]] = []
    for document, (sentence, last) in enumerate(zip(documents, documents[1:], strict=False)):
        while sentence < last:
            target = longest
            if draw() < shorter:
                target = 2 + (draw() * (longest - 1) >> WORD_BITS)
            begin = starts[sentence]
            end = bisect_left(starts, begin + target, sentence + 1, last)
            count = end - sentence
            border = end if count == 1 else sentence + 1 + (draw() * (count - 1) >> WORD_BITS)
            if count == 1 or draw() < elsewhere:
                other = draw() * max(others, 1) >> WORD_BITS
                other += other >= document and others > 0
                first, stop = documents[other], documents[other + 1]
                first += draw() * (stop - first) >> WORD_BITS
                missing = target - (starts[border] - begin)
                stop = bisect_left(starts, starts[first] + missing, first + 1, stop)
                rows.append((begin, starts[border], starts[first], starts[stop], 1, target, count))
                sentence = border
            else:
                rows.append((begin, starts[border], starts[border], starts[end], 0, target, count))
                sentence = end
    return _as_columns(rows)


def _plan_consecutive(shard: Shard, config: ExamplesConfig, draw: Callable[[], int]) -> Pairs:
    """Returns pairs of consecutive parts, for `sop` swapped half of the time."""
    longest = config.sequence_length - NUM_SPECIAL
    shorter = below(config.short_seq_prob)
    swapped = below(0.5) if config.sentence_task == "sop" else 0
    starts = shard.sentence_starts.tolist()
    documents = shard.document_starts.tolist()
    rows: list[tuple[int, ...]] = []
    for sentence, last in zip(documents, documents[1:], strict=False):
        while sentence < last:
            target = longest
            if draw() < shorter:
                target = 2 + (draw() * (longest - 1) >> WORD_BITS)
            begin = starts[sentence]
            end = bisect_left(starts, begin + target, sentence + 1, last)
            count, stop = end - sentence, starts[end]
            if count > 1:
                border = starts[sentence + 1 + (draw() * (count - 1) >> WORD_BITS)]
            else:
                border = begin + 1 + (draw() * (stop - begin - 1) >> WORD_BITS)
            if border < stop:
                first, second = (begin, border), (border, stop)
                is_swapped = draw() < swapped
                if is_swapped:
                    first, second = second, first
                rows.append((*first, *second, int(is_swapped), target, count))
            sentence = end
    return _as_columns(rows)


def _as_columns(rows: list[tuple[int, ...]]) -> Pairs:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 7).T
    return Pairs(
        starts_a=columns[0].copy(),
        ends_a=columns[1].copy(),
        starts_b=columns[2].copy(),
        ends_b=columns[3].copy(),
        next_labels=columns[4].astype(np.int8),
        targets=columns[5].astype(np.int32),
        num_sentences=columns[6].astype(np.int32),
    )
