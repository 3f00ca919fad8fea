"""Taggers on frozen features: layers mixed or put side by side, a BiLSTM, and a score for each tag.

`BiLstmTagger` reads states that were computed before; `BertForFeatureTagging` is it on its encoder.

Shapes:  T tokens   S sequences   M labelled tokens   C tags
         L layers   H width of a layer   D width of the BiLSTM, in each direction
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from bertsmith.config import EncoderConfig, FeatureTaggerConfig
from bertsmith.model.heads import class_loss
from bertsmith.model.kinds import encoder_of

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


class BertForFeatureTagging(nn.Module):
    """An encoder that is not trained with a BiLSTM tagger on some of its layers: for use.

    Source: Devlin et al. 2019, section 5.3. `transformers` has no such class.
    """

    per_token: ClassVar[bool] = True

    def __init__(
        self,
        config: EncoderConfig,
        num_labels: int,
        layers: Sequence[int],
        tagger: FeatureTaggerConfig,
    ) -> None:
        """Draws new weights from torch's default generator.

        Args:
            config: of the encoder.
            num_labels: C.
            layers: numbers of the layers that are read; 0 are the embeddings.
            tagger: what stands on them; its `layers` are not looked at.
        """
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        self.layers = tuple(layers)
        self.tagger_config = tagger
        self.encoder = encoder_of(config, with_pooler=False)
        self.tagger = bilstm_of(tagger, len(self.layers), config.hidden_size, num_labels)

    def forward(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        label_positions: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the sums of `loss` and `accuracy` over the labelled tokens.

        Args:
            piece_ids, segment_ids, position_ids, sequence_starts: see `Bert.forward`.
            label_positions, labels: see `BiLstmTagger.forward`.
        """
        states = self.states(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, L, H]
        return self.tagger(states, sequence_starts, label_positions, labels)

    def counts(self, *, labels: Tensor, **_: Tensor) -> dict[str, float]:
        """Returns how many things each sum of `forward` is over."""
        return self.tagger.counts(labels=labels)

    def logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns a score for each tag of each token. [T, C]"""
        states = self.states(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, L, H]
        return self.tagger.logits(states, sequence_starts)  # [T, C]

    def states(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the layers that are read, without gradients. [T, L, H]"""
        with torch.no_grad():
            found = self.encoder.layers(  # 1 + the number of blocks of [T, H]
                piece_ids, segment_ids, position_ids, sequence_starts
            )
            return torch.stack([found[layer] for layer in self.layers], dim=1)  # [T, L, H]


def bilstm_of(
    config: FeatureTaggerConfig, num_layers: int, hidden_size: int, num_labels: int
) -> BiLstmTagger:
    """Returns a new tagger on `num_layers` layers; see `BiLstmTagger`."""
    return BiLstmTagger(
        num_layers,
        hidden_size,
        num_labels,
        combine=config.combine,
        lstm_size=config.lstm_size,
        lstm_layers=config.lstm_layers,
        dropout=config.lstm_dropout,
    )
