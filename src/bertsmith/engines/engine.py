"""The door to engines: what one is, and a model that asks one in the place of its encoder.

An engine computes the states that an encoder would, in its own way. Heads, tasks and predictions
stand on it as they stand on the encoder.

Shapes:  T tokens   S sequences   M chosen tokens   H hidden size
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, cast

from torch import Tensor, nn

from bertsmith.errors import ConfigError
from bertsmith.model.bert import Bert, check_known, first_states
from bertsmith.model.kinds import Encoder
from bertsmith.model.published import AnyModel, encoder_in

Kind = TypeVar("Kind", bound=AnyModel)


class Engine(Protocol):
    """Who computes an encoder's states. Several threads may call it at once."""

    name: str
    precision: str  # float32 or int8
    threads: int

    def __call__(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block, on the CPU; see `Bert.forward`. [T, H]"""


class BertElsewhere(Bert):
    """A BERT whose states an engine computes; the pooler and the pieces' vectors are its own."""

    def __init__(self, encoder: Bert, engine: Engine) -> None:
        """Takes over what heads read of an encoder; its blocks are not kept."""
        nn.Module.__init__(self)
        self.config, self.engine = encoder.config, engine
        self.embeddings, self.pooler = encoder.embeddings, encoder.pooler
        self.blocks = nn.ModuleList()
        self.eval()

    def forward(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block; see `Bert.forward`. [T, H]"""
        config = self.config
        check_known("piece id", piece_ids, config.vocab_size, "vocab_size")
        check_known("segment", segment_ids, config.type_vocab_size, "type_vocab_size")
        longest = config.max_position_embeddings
        check_known("position", position_ids, longest, "max_position_embeddings")
        return self.engine(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]

    def layers(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> list[Tensor]:
        """Raises ConfigError: an engine gives the last block's states alone."""
        raise ConfigError(
            f"engine is {self.engine.name}, which gives the states of the last layer alone; "
            f"expected layers -1, or engine torch"
        )

    def at(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns the states at `positions`, int64 [M], of the batch; see `forward`. [M, H]"""
        hidden = self(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        return hidden.index_select(0, positions)  # [M, H]

    def firsts(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the state that stands for each sequence; see `Bert.firsts`. [S, H]"""
        hidden = self(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
        if self.config.is_decoder:
            return hidden.index_select(0, sequence_starts[1:].long() - 1)  # [S, H]
        return first_states(hidden, sequence_starts)  # [S, H]


def standing_on(model: Kind, engine: Engine) -> Kind:
    """Returns the model, whose encoder is a BERT, with an engine in the place of its blocks.

    What stands on the encoder is shared with `model`, which stays as it is.
    """
    encoder = encoder_in(model)
    assert isinstance(encoder, Bert), "an engine refuses what it cannot compute"
    elsewhere = BertElsewhere(encoder, engine)
    if isinstance(model, Encoder):
        return cast(Kind, elsewhere)
    twin = copy.copy(model)
    twin._modules = {**model._modules, "encoder": elsewhere}
    return twin
