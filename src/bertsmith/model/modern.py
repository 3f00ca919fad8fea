"""The modern encoder, on packed batches: pre-norm, rotary positions, a gated feed-forward block.

Shapes:  T tokens   S sequences   M chosen tokens   H hidden size   F feed-forward width
         D head size   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bertsmith.config import ModernBertConfig
from bertsmith.model.attention import Layout, attend
from bertsmith.model.bert import activate, check_known, first_states
from bertsmith.model.dropout import Noise, drop, drop_and_add
from bertsmith.model.gating import gated
from bertsmith.model.local_attention import LocalLayout, attend_near
from bertsmith.model.memory import refuse_what_does_not_fit
from bertsmith.model.rotary import turn, turns


@dataclass(frozen=True)
class Sight:
    """What the tokens of a batch see of each other in some of the blocks; made once a pass."""

    layout: Layout | LocalLayout
    cosines: Tensor  # of every token's angles, in the layout's order; [T, D / 2]
    sines: Tensor  # [T, D / 2]


class ModernEmbeddings(nn.Module):
    """A piece's vector, normalised; where a piece stands is told by attention alone."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.dropout = config.embedding_dropout
        self.pieces = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = _norm(config)

    def forward(self, piece_ids: Tensor, noise: Noise | None) -> Tensor:
        """Returns the states that the first block reads. [T, H]"""
        return drop(self.norm(self.pieces(piece_ids)), self.dropout, noise)  # [T, H]


class TurnedAttention(nn.Module):
    """Lets every token read from its own sequence, or from what is near; places turn the heads."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, config.attention_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, config.attention_bias)

    def forward(self, hidden: Tensor, sight: Sight, noise: Noise | None) -> Tensor:
        """Returns what each token read, before the output projection. [T, H]

        Args:
            hidden: normalised states of the block below, in the layout's order. [T, H]
            sight: what each token sees, and its angles.
            noise: dropout masks, when training.
        """
        qkv = self.qkv(hidden)  # [T, 3 * H]
        qkv = turn(qkv, sight.cosines, sight.sines, 2 * hidden.shape[1])  # [T, 3 * H]
        dropout = self.dropout if noise else 0.0
        if isinstance(sight.layout, LocalLayout):
            return attend_near(qkv, sight.layout, self.num_heads, dropout, noise)  # [T, H]
        return attend(qkv, sight.layout, self.num_heads, dropout, noise)  # [T, H]


class ModernBlock(nn.Module):
    """Attention, then a gated feed-forward network, each of normalised states and added.

    In the first block attention reads the embeddings as they are: they are normalised already.

    Source: Warner et al. 2024 (ModernBERT), section 2.1.1.
    """

    def __init__(self, config: ModernBertConfig, number: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.activation = config.hidden_activation
        self.dropout = config.mlp_dropout
        self.attention_norm = _norm(config) if number else None
        self.attention = TurnedAttention(config)
        self.output_norm = _norm(config)
        self.intermediate = nn.Linear(width, 2 * inner, config.mlp_bias)
        self.output = nn.Linear(inner, width, config.mlp_bias)

    def forward(
        self, hidden: Tensor, sight: Sight, noise: Noise | None, places: Tensor | None = None
    ) -> Tensor:
        """Returns the states above, in the layout's order like the states below. [T, H]

        Args:
            hidden: states of the block below. [T, H]
            sight: what each token sees.
            noise: dropout masks, when training.
            places: where states are wanted, if not everywhere; int64 [M]. Then [M, H] is returned.
        """
        normed = hidden if self.attention_norm is None else self.attention_norm(hidden)  # [T, H]
        read = self.attention(normed, sight, noise)  # [T, H]
        if places is not None:
            read, hidden = read.index_select(0, places), hidden.index_select(0, places)  # [M, H]
        read = self.attention.output(read)  # [T, H]
        hidden = drop_and_add(read, self.attention.dropout, noise, hidden)  # [T, H]
        inner = gated(self.intermediate(self.output_norm(hidden)), self.activation)  # [T, F]
        return hidden + self.output(drop(inner, self.dropout, noise))  # [T, H]


class PredictionHead(nn.Module):
    """What stands between states and any layer that predicts something from them.

    Source: `ModernBertPredictionHead` of `transformers`.
    """

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.activation = config.classifier_activation
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, config.classifier_bias)
        self.norm = _norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the states that a last layer reads. [M, H] -> [M, H]"""
        return self.norm(activate(self.dense(hidden), self.activation))  # [M, H]


class ModernBert(nn.Module):
    """The modern encoder: embeddings, blocks, a last norm, and the head for what is predicted.

    In training mode every forward pass draws its dropout masks anew, from a number that it takes
    from torch's default generator. Segments are passed over: it has no vectors for them.

    Source: Warner et al. 2024 (ModernBERT), section 2.1; it agrees with
    `transformers.ModernBertModel`.
    """

    def __init__(self, config: ModernBertConfig, with_pooler: bool = True) -> None:
        """Draws new weights from torch's default generator.

        Args:
            config: of the encoder.
            with_pooler: whether it has the prediction head, which pools states for a task's layer.

        Raises:
            ConfigError: they do not fit into this machine's memory.
        """
        super().__init__()
        if torch.get_default_device().type == "cpu":
            refuse_what_does_not_fit(config)
        self.config = config
        self.embeddings = ModernEmbeddings(config)
        self.blocks = nn.ModuleList(ModernBlock(config, n) for n in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self.pooler = PredictionHead(config) if with_pooler else None
        initialize_modern(self, config)

    def forward(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block, normalised. [T, H]

        Args:
            piece_ids: int64 [T]
            segment_ids: passed over. int64 [T]
            position_ids: place of each token in its own sequence. int64 [T]
            sequence_starts: sequence s is tokens [starts[s], starts[s + 1]). int32 [S + 1]

        Raises:
            DataError: a piece or position is not one that the model knows.
        """
        hidden, layout, sights, noise = self._embed(piece_ids, position_ids, sequence_starts)
        for block, sight in zip(self.blocks, sights, strict=True):
            hidden = block(hidden, sight, noise)  # [T, H]
        return layout.restore(self.norm(hidden))  # [T, H]

    def layers(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> list[Tensor]:
        """Returns the embeddings and the states of every block, each [T, H]; see `forward`.

        The last ones are normalised, as what `forward` gives.
        """
        hidden, layout, sights, noise = self._embed(piece_ids, position_ids, sequence_starts)
        states = [hidden]
        for block, sight in zip(self.blocks, sights, strict=True):
            states.append(block(states[-1], sight, noise))  # [T, H]
        states[-1] = self.norm(states[-1])  # [T, H]
        return [layout.restore(hidden) for hidden in states]

    def at(
        self,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Returns the states at `positions`, int64 [M], of the batch; see `forward`. [M, H]

        In the last block nothing but what others read is computed for the other tokens.
        """
        hidden, layout, sights, noise = self._embed(piece_ids, position_ids, sequence_starts)
        for block, sight in zip(self.blocks[:-1], sights[:-1], strict=True):
            hidden = block(hidden, sight, noise)  # [T, H]
        places = positions if layout.inverse is None else layout.inverse.index_select(0, positions)
        return self.norm(self.blocks[-1](hidden, sights[-1], noise, places))  # [M, H]

    def through(
        self,
        first: nn.Module,
        blocks: nn.ModuleList,
        piece_ids: Tensor,
        segment_ids: Tensor,
        position_ids: Tensor,
        sequence_starts: Tensor,
    ) -> Tensor:
        """Returns what other blocks of this kind make of the embeddings; see `forward`. [T, G]

        Args:
            first: brings embeddings to the width of the blocks. [T, H] -> [T, G]
            blocks: in the place of the encoder's own, as many, with heads of the same size.
            piece_ids, segment_ids, position_ids, sequence_starts: see `forward`.
        """
        hidden, layout, sights, noise = self._embed(piece_ids, position_ids, sequence_starts)
        hidden = first(hidden)  # [T, G]
        for block, sight in zip(blocks, sights, strict=True):
            hidden = block(hidden, sight, noise)  # [T, G]
        return layout.restore(hidden)  # [T, G]

    def pool(self, states: Tensor) -> Tensor:
        """Returns what a task's layer reads of states. [M, H] -> [M, H]"""
        assert self.pooler is not None, "this encoder was made without its prediction head"
        return self.pooler(states)  # [M, H]

    def of_texts(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the vector that stands for each sequence; see `forward`. [S, H]"""
        inputs = (piece_ids, segment_ids, position_ids, sequence_starts)
        if self.config.classifier_pooling == "mean":
            return self.of_texts_among(self(*inputs), sequence_starts)  # [S, H]
        firsts = sequence_starts[:-1].to(device=piece_ids.device, dtype=torch.int64)  # [S]
        return self.pool(self.at(*inputs, firsts))  # [S, H]

    def of_texts_among(self, hidden: Tensor, sequence_starts: Tensor) -> Tensor:
        """Returns the same from the states of all tokens. [T, H], int32 [S + 1] -> [S, H]"""
        if self.config.classifier_pooling == "cls":
            return self.pool(first_states(hidden, sequence_starts))  # [S, H]
        lengths = sequence_starts.to(hidden.device).diff().long()  # [S]
        means = torch.segment_reduce(hidden, "mean", lengths=lengths, axis=0)  # [S, H]
        return self.pool(means)  # [S, H]

    def of_tokens(self, hidden: Tensor) -> Tensor:
        """Returns what a layer that labels tokens reads of their states. [M, H] -> [M, H]"""
        return self.pool(hidden)  # [M, H]

    def _embed(
        self, piece_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> tuple[Tensor, Layout, list[Sight], Noise | None]:
        if piece_ids.device.type == "cpu":  # elsewhere the check would wait for the device
            check_known("piece id", piece_ids, self.config.vocab_size, "vocab_size")
            longest = self.config.max_position_embeddings
            check_known("position", position_ids, longest, "max_position_embeddings")
        layout = Layout.of(sequence_starts, piece_ids.device)
        noise = Noise.draw() if self.training else None
        hidden = self.embeddings(layout.arrange(piece_ids), noise)  # [T, H]
        return hidden, layout, self._sights(layout, layout.arrange(position_ids)), noise

    def _sights(self, layout: Layout, position_ids: Tensor) -> list[Sight]:
        """Returns what the tokens see in each of the blocks."""
        config, known = self.config, dict[int | None, Sight]()
        windows = [config.window_of(number) for number in range(config.num_hidden_layers)]
        head_size = config.hidden_size // config.num_attention_heads
        for window in set(windows):
            theta = config.global_rope_theta if window is None else config.local_rope_theta
            seen = layout if window is None else LocalLayout.of(layout, window)
            known[window] = Sight(seen, *turns(position_ids, head_size, theta))
        return [known[window] for window in windows]


def initialize_modern(module: nn.Module, config: ModernBertConfig) -> None:
    """Sets biases to 0, norms to 1 and other weights of a module to normals cut at two deviations.

    The deviation is `initializer_range`, of output projections and of the prediction head less: the
    sum over all blocks is to begin at its size.

    Source: `ModernBertPreTrainedModel._init_weights` of `transformers`; numbers come from torch's
    default generator.
    """
    usual = config.initializer_range
    outputs = usual / math.sqrt(2.0 * config.num_hidden_layers)
    for part in module.modules():
        if isinstance(part, TurnedAttention):
            initialize_cut([part.qkv], usual, config)
            initialize_cut([part.output], outputs, config)
        elif isinstance(part, ModernBlock):
            initialize_cut([part.intermediate], usual, config)
            initialize_cut([part.output], outputs, config)
        elif isinstance(part, PredictionHead):
            initialize_cut([part.dense], outputs, config)
        elif isinstance(part, nn.Embedding):
            initialize_cut([part], usual, config)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()


def initialize_cut(
    parts: Sequence[nn.Linear | nn.Embedding], deviation: float, config: ModernBertConfig
) -> None:
    """Sets biases to 0 and weights to a normal cut at `initializer_cutoff_factor` deviations."""
    cut = config.initializer_cutoff_factor * deviation
    for part in parts:
        nn.init.trunc_normal_(part.weight, std=deviation, a=-cut, b=cut)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def _norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
