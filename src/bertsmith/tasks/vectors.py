"""Sequences to vectors: one for each, of the states of chosen layers.

Shapes:  T tokens   S sequences   N texts   H hidden size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import EncoderConfig
from bertsmith.data.framing import Framed
from bertsmith.data.packing import PackedBatch
from bertsmith.errors import ConfigError
from bertsmith.model.bert import Bert, first_states
from bertsmith.model.kinds import Encoder
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.sequences import batches, distinct

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class Reading:
    """Which states become a vector, and how."""

    layers: tuple[int, ...]  # whose mean is taken; 0 are the embeddings
    pooling: Pooling

    @classmethod
    def of(cls, config: EncoderConfig, pooling: Pooling, layers: str | int, where: str) -> Reading:
        """Returns the reading of an encoder; `where` names it in messages.

        Raises:
            ConfigError: it has no such layers, or its [CLS] has read nothing.
        """
        if pooling not in get_args(Pooling):
            raise ConfigError(f"pooling is {pooling!r}; expected mean or cls")
        if pooling == "cls" and config.is_decoder:
            raise ConfigError(
                f"{where}: reads left to right, so that its [CLS] has read nothing; "
                f"expected pooling mean"
            )
        return cls(parse_layers(str(layers), config.num_hidden_layers), pooling)


def vectors_of(
    encoder: Encoder, sequences: Sequence[Framed], reading: Reading
) -> NDArray[np.float32]:
    """Returns one vector for each sequence, in their order. [N, H]

    Equal sequences are computed once, those of like length together.
    """
    once, numbers = distinct(sequences)
    found = np.empty((len(once), encoder.config.hidden_size), np.float32)  # without repetitions
    with torch.inference_mode():
        for group, batch in batches(once, encoder.embeddings.pieces.weight.device):
            found[group] = _pooled(encoder, batch, reading).float().cpu().numpy()  # [S, H]
    return found if len(once) == len(numbers) else found[numbers]


def _pooled(encoder: Encoder, batch: PackedBatch, reading: Reading) -> Tensor:
    """Returns the vectors of a batch. [S, H]"""
    inputs = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    if reading.layers != (encoder.config.num_hidden_layers,):
        states = encoder.layers(*inputs)  # 1 + the number of blocks of [T, H]
        pooled = (_of_sequences(states[layer], batch, reading) for layer in reading.layers)
        return torch.stack(list(pooled)).mean(0)  # [S, H]
    if reading.pooling == "mean":
        return _of_sequences(encoder(*inputs), batch, reading)  # [S, H]
    if isinstance(encoder, Bert):
        return encoder.firsts(*inputs)  # [S, H]
    firsts = batch.sequence_starts[:-1].to(device=batch.piece_ids.device, dtype=torch.int64)
    return encoder.at(*inputs, firsts)  # [S, H]


def _of_sequences(states: Tensor, batch: PackedBatch, reading: Reading) -> Tensor:
    """Returns one vector for each sequence of states. [T, H] -> [S, H]"""
    if reading.pooling == "cls":
        return first_states(states, batch.sequence_starts)  # [S, H]
    # Not by index_add_, which wakes all threads for the fewest numbers: beside a busy process one
    # short text then takes 95 ms, where it takes 6 alone.
    lengths = batch.sequence_starts.to(device=states.device, dtype=torch.int64).diff()  # [S]
    return torch.segment_reduce(states, "mean", lengths=lengths, axis=0)  # [S, H]
