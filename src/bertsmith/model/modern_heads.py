"""What pre-training puts on the modern encoder: masked pieces alone.

Shapes:  T tokens   S sequences   M masked tokens   H hidden size   V vocabulary
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.config import ModernBertConfig
from bertsmith.model.heads import piece_loss
from bertsmith.model.modern import ModernBert


class PieceScores(nn.Module):
    """What is added to the score of every piece; its weight is that of the piece embeddings."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        has_bias = config.decoder_bias
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if has_bias else None


class ModernBertForPreTraining(nn.Module):
    """The modern encoder with its prediction head and scores for every piece.

    Source: Warner et al. 2024 (ModernBERT), section 2.2.1: no next sentences; it agrees with
    `transformers.ModernBertForMaskedLM`.
    """

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ModernBert(config)
        self.masked = PieceScores(config)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        masked_positions: Tensor,
        masked_labels: Tensor,
        next_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns sums of `mlm_loss` and `mlm_accuracy`.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `ModernBert.forward`.
            masked_positions: tokens to predict, counted over the whole batch. int64 [M]
            masked_labels: the pieces that stood there. int64 [M]
            next_labels: passed over; examples of pairs have them. int64 [S]
        """
        states = self._states(  # [M, H]
            piece_ids, segment_ids, position_ids, sequence_starts, masked_positions
        )
        weight = self.encoder.embeddings.pieces.weight  # [V, H]
        bias: Tensor | None = self.masked.bias
        if bias is None:
            bias = weight.new_zeros(len(weight))  # [V]
        loss, correct = piece_loss(states, weight, bias, masked_labels)
        return {"mlm_loss": loss, "mlm_accuracy": correct}

    def counts(self, *, masked_positions: Tensor, **_: Tensor) -> dict[str, int]:
        """Returns how many things each sum of `forward` is over."""
        return {"mlm_loss": len(masked_positions), "mlm_accuracy": len(masked_positions)}

    def logits(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns a score for each piece at each of `positions`, int64 [M], of the batch. [M, V]"""
        states = self._states(  # [M, H]
            piece_ids, segment_ids, position_ids, sequence_starts, positions
        )
        return F.linear(states, self.encoder.embeddings.pieces.weight, self.masked.bias)  # [M, V]

    def _states(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns the states that are compared with every piece's vector. [M, H]"""
        return self.encoder.pool(  # [M, H]
            self.encoder.at(piece_ids, segment_ids, position_ids, sequence_starts, positions)
        )
