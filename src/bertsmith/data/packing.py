"""Packed batches: sequences end to end in one row of tokens, without padding.

Shapes:  T tokens   S sequences   M masked positions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.data.framing import Framed

if TYPE_CHECKING:  # texts in use are packed without what pre-training reads
    from bertsmith.data.examples import Example


@dataclass(frozen=True)
class PackedBatch:
    """Sequences in one row; sequence s is the tokens from sequence_starts[s] up to [s + 1]."""

    piece_ids: Tensor  # int64 [T]
    segment_ids: Tensor  # int64 [T]
    position_ids: Tensor  # from 0 in every sequence; int64 [T]
    sequence_starts: Tensor  # on the CPU, wherever the rest is; int32 [S + 1]
    masked_positions: Tensor | None = None  # into the T tokens; int64 [M]
    masked_labels: Tensor | None = None  # int64 [M]
    next_labels: Tensor | None = None  # int64 [S]
    labels: Tensor | None = None  # of a task: int64 classes or float32 values [S]

    @property
    def num_tokens(self) -> int:
        """Returns T."""
        return len(self.piece_ids)

    @property
    def num_sequences(self) -> int:
        """Returns S."""
        return len(self.sequence_starts) - 1

    def tensors(self) -> dict[str, Tensor]:
        """Returns what is there by name: the keyword arguments of a model's forward."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) is not None
        }

    def hidden(self, mask_id: int) -> PackedBatch:
        """Returns the batch with [MASK] at all masked positions, so that none can be copied.

        Training leaves a tenth of them as they are; a model that has learnt to copy these and
        nothing else is half a nat better than one that knows frequencies alone.
        """
        assert self.masked_positions is not None, "this batch is not of pre-training"
        piece_ids = self.piece_ids.index_fill(0, self.masked_positions, mask_id)  # [T]
        return replace(self, piece_ids=piece_ids)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Returns the batch with its tensors on `device`, all but `sequence_starts`."""
        if self.piece_ids.device == torch.device(device):
            return self
        moved = {
            name: tensor.to(device, non_blocking=True)
            for name, tensor in self.tensors().items()
            if name != "sequence_starts"
        }
        return replace(self, **moved)


def pack(examples: Sequence[Example]) -> PackedBatch:
    """Returns pre-training examples as one batch, in their order."""
    batch = _rows(examples)
    starts = batch.sequence_starts.tolist()
    shifted = [
        example.masked_positions + start for example, start in zip(examples, starts, strict=False)
    ]
    judged = [example.next_label for example in examples if example.next_label is not None]
    return replace(
        batch,
        masked_positions=_int64(shifted),
        masked_labels=_int64([example.masked_labels for example in examples]),
        next_labels=torch.tensor(judged) if judged else None,
    )


def pack_texts(texts: Sequence[Framed], labels: Tensor | None = None) -> PackedBatch:
    """Returns framed texts as one batch, in their order, with the `labels` [S] of a task if any."""
    batch = _rows(texts)
    return batch if labels is None else replace(batch, labels=labels)


def _rows(sequences: Sequence[Example] | Sequence[Framed]) -> PackedBatch:
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    return PackedBatch(
        piece_ids=_int64([sequence.piece_ids for sequence in sequences]),
        segment_ids=_int64([sequence.segment_ids for sequence in sequences]),
        position_ids=torch.from_numpy(positions),
        sequence_starts=torch.from_numpy(starts.astype(np.int32)),
    )


def _int64(parts: Sequence[NDArray[np.int32]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts, dtype=np.int64))
