"""Taggers on frozen features: layers mixed or put side by side, a BiLSTM, and a score for each tag.

Shapes:  T tokens   S sequences   M labelled tokens   C tags
         L layers   H width of a layer   D width of the BiLSTM, in each direction
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from bertsmith.model.heads import class_loss

Combination = Literal["mix", "concat"]


class ScalarMix(nn.Module):
    """A weighted sum of layers, whose weights and scale are learnt.

    Source: Peters et al. 2018 (ELMo), equation 1: gamma * sum_j softmax(w)_j h_j, without its
    optional normalisation of the layers; it begins as their mean.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers))  # [L]
        self.gamma = nn.Parameter(torch.ones(()))  # []

    def forward(self, states: Tensor) -> Tensor:
        """Returns the sum over layers. [T, L, H] -> [T, H]"""
        return self.gamma * torch.einsum("l,tlh->th", self.shares(), states)  # [T, H]

    def shares(self) -> Tensor:
        """Returns how much each layer counts; together 1. [L]"""
        return self.weights.softmax(0)


class BiLstmTagger(nn.Module):
    """A BiLSTM over the states of frozen layers, with one score per tag for each token.

    Source: Devlin et al. 2019, section 5.3: two layers of 768, without a CRF; where that paper is
    silent, here on dropout, the choice is ours.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        num_labels: int,
        *,
        combine: Combination,
        lstm_size: int = 768,
        lstm_layers: int = 2,
        dropout: float = 0.5,
    ) -> None:
        """Draws new weights from torch's default generator.

        Args:
            num_layers: L, the layers that are read.
            hidden_size: H.
            num_labels: C.
            combine: whether layers are summed, with learnt weights, or stand side by side.
            lstm_size: D, of each direction.
            lstm_layers: BiLSTMs on top of each other.
            dropout: of what each BiLSTM, and the last layer, reads.
        """
        super().__init__()
        self.dropout = dropout
        self.mix = ScalarMix(num_layers) if combine == "mix" else None
        self.lstm = nn.LSTM(
            hidden_size if combine == "mix" else num_layers * hidden_size,
            lstm_size,
            lstm_layers,
            dropout=dropout if lstm_layers > 1 else 0.0,
            bidirectional=True,
        )
        self.classifier = nn.Linear(2 * lstm_size, num_labels)

    def forward(
        self, states: Tensor, sequence_starts: Tensor, label_positions: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Returns the sums of `loss` and `accuracy` over the labelled tokens.

        Args:
            states: of the frozen layers, sequences end to end. [T, L, H]
            sequence_starts: sequence s is tokens [starts[s], starts[s + 1]). int32 [S + 1]
            label_positions: the tokens that have a tag, counted over the batch. int64 [M]
            labels: their tags. int64 [M]
        """
        logits = self.logits(states, sequence_starts)  # [T, C]
        loss, correct = class_loss(logits.index_select(0, label_positions), labels)
        return {"loss": loss, "accuracy": correct}

    def counts(self, *, labels: Tensor, **_: Tensor) -> dict[str, float]:
        """Returns how many things each sum of `forward` is over."""
        return {"loss": len(labels), "accuracy": len(labels)}

    def logits(self, states: Tensor, sequence_starts: Tensor) -> Tensor:
        """Returns a score for each tag of each token. [T, L, H], int32 [S + 1] -> [T, C]"""
        features = (
            states.flatten(1) if self.mix is None else self.mix(states)
        )  # [T, L * H] or [T, H]
        features = F.dropout(features, self.dropout, self.training)
        sequences = features.split(sequence_starts.diff().tolist())  # S of [T_s, ..]
        read, _ = self.lstm(pack_sequence(list(sequences), enforce_sorted=False))
        hidden = torch.cat(unpack_sequence(read))  # [T, 2 * D]
        return self.classifier(F.dropout(hidden, self.dropout, self.training))  # [T, C]
