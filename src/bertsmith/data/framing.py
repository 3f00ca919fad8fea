"""Texts as the model reads them: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut to a length.

Also which texts go through the model together: those of near-equal length, under a token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertsmith.errors import ConfigError
from bertsmith.text.wordpiece import Vocabulary


@dataclass(frozen=True)
class Framed:
    """One text, or a pair, between its special pieces."""

    piece_ids: NDArray[np.int32]  # [T]
    segment_ids: NDArray[np.int32]  # 0 up to the first [SEP], then 1 [T]
    was_cut: bool  # pieces were left out to stay within the length

    def __len__(self) -> int:
        return len(self.piece_ids)


def truncated_sizes(size_a: int, size_b: int, longest: int) -> tuple[int, int]:
    """Returns how many pieces stay of A and B when the longer is shortened piece by piece.

    Of two equally long ones B is shortened, as in the published `truncate_seq_pair`.
    """
    kept_a = min(size_a, max((longest + 1) // 2, longest - size_b))
    return kept_a, min(size_b, longest - kept_a)


def frame(
    first: Sequence[int] | NDArray[np.integer],
    second: Sequence[int] | NDArray[np.integer] | None,
    vocabulary: Vocabulary,
    *,
    max_length: int,
) -> Framed:
    """Returns a text, or a pair of texts, of piece ids between [CLS] and [SEP].

    What is longer than `max_length` pieces, special ones included, loses pieces at its end; of a
    pair, always the one that is longer at that moment.

    Source: google-research/bert, `run_classifier.py`, `convert_single_example`.
    """
    num_special = 2 if second is None else 3
    size_b = 0 if second is None else len(second)
    kept_a, kept_b = truncated_sizes(len(first), size_b, max_length - num_special)
    ids = np.empty(kept_a + kept_b + num_special, dtype=np.int32)
    segments = np.zeros(len(ids), dtype=np.int32)
    ids[0] = vocabulary.cls_id
    ids[1 : kept_a + 1] = first[:kept_a]
    ids[kept_a + 1] = vocabulary.sep_id
    if second is not None:
        ids[kept_a + 2 : -1] = second[:kept_b]
        ids[-1] = vocabulary.sep_id
        segments[kept_a + 2 :] = 1
    return Framed(ids, segments, kept_a + kept_b < len(first) + size_b)


def group_by_length(
    lengths: Sequence[int] | NDArray[np.integer], *, tokens_per_batch: int
) -> list[NDArray[np.int64]]:
    """Returns groups of rows, longest first, of at most `tokens_per_batch` pieces each.

    Every row is in one group. To bring results back into order: `results[group] = outputs`.

    Raises:
        ConfigError: a row alone is longer than the budget.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups: list[NDArray[np.int64]] = []
    start = total = 0
    for place, size in enumerate(sizes[order].tolist()):
        check_budget(size, tokens_per_batch)
        if total + size > tokens_per_batch:
            groups.append(order[start:place])
            start, total = place, 0
        total += size
    if start < len(order):
        groups.append(order[start:])
    return groups


def check_budget(size: int, tokens_per_batch: int) -> None:
    """Raises ConfigError where a sequence of `size` pieces is longer than a whole batch may be."""
    if size > tokens_per_batch:
        raise ConfigError(
            f"tokens_per_batch is {tokens_per_batch}, but one sequence has {size} pieces; "
            f"expected at least that"
        )
