"""A packed batch as engines take it that know padded ones alone, and their states packed again.

Shapes:  T tokens   S sequences   B sequences of one part   L longest of them   P tokens of one part
         H hidden size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Sequences of near length, padded behind to the longest of them."""

    piece_ids: NDArray[np.int32]  # [B, L]
    segment_ids: NDArray[np.int32]  # [B, L]
    lengths: NDArray[np.int32]  # [B]
    tokens: NDArray[np.int64]  # where its tokens stand in the packed batch. [P]
    used: NDArray[np.int64]  # where they stand among B * L places. [P]


def parts_of(
    piece_ids: Tensor,
    segment_ids: Tensor,
    sequence_starts: Tensor,
    *,
    places: int,
    nearness: float,
) -> Iterator[Part]:
    """Yields a packed batch in padded parts, longest sequences first.

    Args:
        piece_ids, segment_ids: int64 [T]
        sequence_starts: int32 [S + 1]
        places: B * L at most, except where one sequence alone is longer.
        nearness: how short a sequence may be, as a share of the longest of its part.
    """
    pieces, segments = (ids.cpu().numpy() for ids in (piece_ids, segment_ids))
    starts = sequence_starts.cpu().numpy().astype(np.int64)
    lengths = np.diff(starts)
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        longest = int(lengths[order[first]])
        last = min(first + max(1, places // longest), len(order))
        near = lengths[order[first:last]] >= nearness * longest
        members = order[first : first + int(near.sum())]
        first += len(members)
        yield _part(pieces, segments, starts[members], lengths[members])


def _part(
    pieces: NDArray[np.int64],
    segments: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Part:
    columns = np.arange(lengths[0])
    used = columns < lengths[:, None]  # [B, L]
    tokens = starts[:, None] + columns * used  # padding repeats the first token  [B, L]
    return Part(
        pieces[tokens].astype(np.int32),
        segments[tokens].astype(np.int32),
        lengths.astype(np.int32),
        tokens[used],
        np.flatnonzero(used),
    )


def states_by_parts(
    compute: Callable[[Part], NDArray[np.float32]],
    parts: Iterator[Part],
    num_tokens: int,
    hidden_size: int,
) -> Tensor:
    """Returns the states of a packed batch, [T, H].

    `compute` gives those of a part, [B, L, H]; they are read before the next part is asked for.
    """
    states = torch.empty(num_tokens, hidden_size)  # [T, H]
    for part in parts:
        found = torch.from_numpy(compute(part)).view(-1, hidden_size)  # [B * L, H]
        if len(part.lengths) == 1:  # a sequence alone: all of it is used, and stands side by side
            states[part.tokens[0] :][: len(found)] = found
            continue
        used, tokens = torch.from_numpy(part.used), part.tokens
        if tokens[-1] - tokens[0] + 1 == len(tokens) and (np.diff(tokens) == 1).all():
            place = states[tokens[0] : tokens[-1] + 1]  # side by side already: one pass
            torch.index_select(found, 0, used, out=place)
        else:
            states.index_copy_(0, torch.from_numpy(tokens), found.index_select(0, used))
    return states
