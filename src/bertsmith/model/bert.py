"""The paper's encoder, on packed batches.

Shapes:  T tokens   S sequences   H hidden size   V vocabulary
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.config import BertConfig
from bertsmith.errors import DataError
from bertsmith.model.attention import Layout, SelfAttention
from bertsmith.model.dropout import Noise, drop, drop_and_add
from bertsmith.model.memory import refuse_what_does_not_fit

_WAVES = 30.0  # the longest wave of `begin_directed`'s positions over the shortest, of 2 pi pieces
_POSITIONS = 0.06  # their height: three times the deviation of a piece's vector
_QUERIES = 1.7  # deviation of a query's numbers, where a state's is 1


class Embeddings(nn.Module):
    """The sum of a piece's, its position's and its segment's vector, normalised.

    Source: Devlin et al. 2019, section 3, figure 2.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.pieces = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segments = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, noise: Noise | None
    ) -> Tensor:
        """Returns the states that the first block reads. [T, H]"""
        hidden = self.pieces(piece_ids)  # [T, H]
        hidden = hidden + self.positions(position_ids) + self.segments(segment_ids)  # [T, H]
        return drop(self.norm(hidden), self.dropout, noise)  # [T, H]


class Block(nn.Module):
    """One Transformer block: attention, then a feed-forward network, each added and normalised.

    Source: Vaswani et al. 2017, section 3.1 (the norm comes after the sum); GELU as in Devlin et
    al. 2019, appendix A.2.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout_prob
        self.activation = config.hidden_act
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, noise: Noise | None) -> Tensor:
        """Returns the states above, in the layout's order like the states below. [T, H]"""
        return self._above(self.attention(hidden, layout, noise), hidden, noise)  # [T, H]

    def of_firsts(self, hidden: Tensor, layout: Layout, noise: Noise | None) -> Tensor:
        """Returns the states above of each sequence's first token, as the batch had them. [S, H]"""
        firsts, restored = layout.firsts()
        read = self.attention.of_firsts(hidden, firsts, layout, noise)  # [S, H]
        above = self._above(read, hidden.index_select(0, firsts), noise)  # [S, H]
        return above.index_select(0, restored)  # [S, H]

    def _above(self, read: Tensor, hidden: Tensor, noise: Noise | None) -> Tensor:
        """Returns what the block makes of states and of what they have read. [T, H] twice"""
        hidden = self.attention_norm(drop_and_add(read, self.dropout, noise, hidden))  # [T, H]
        inner = activate(self.intermediate(hidden), self.activation)  # [T, 4 * H]
        return self.output_norm(  # [T, H]
            drop_and_add(self.output(inner), self.dropout, noise, hidden)
        )


class Bert(nn.Module):
    """The encoder: embeddings, blocks, and the pooler over each sequence's first token.

    In training mode every forward pass draws its dropout masks anew, from a number that it takes
    from torch's default generator. Where the settings say `is_decoder`, a token reads itself and
    those before it, no others.

    Source: Devlin et al. 2019, section 3, and section 5.1 for left to right; it agrees with
    `transformers.BertModel`.
    """

    def __init__(self, config: BertConfig, with_pooler: bool = True) -> None:
        """Draws new weights from torch's default generator.

        Raises:
            ConfigError: they do not fit into this machine's memory.
        """
        super().__init__()
        if torch.get_default_device().type == "cpu":
            refuse_what_does_not_fit(config)
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if with_pooler else None
        initialize(self, config.initializer_range)

    def forward(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block.

        Args:
            piece_ids: int64 [T]
            segment_ids: int64 [T]
            position_ids: place of each token in its own sequence. int64 [T]
            sequence_starts: sequence s is tokens [starts[s], starts[s + 1]). int32 [S + 1]

        Returns:
            [T, H]

        Raises:
            DataError: a piece, segment or position is not one that the model knows.
        """
        hidden, layout, noise = self._embed(piece_ids, segment_ids, position_ids, sequence_starts)
        for block in self.blocks:
            hidden = block(hidden, layout, noise)  # [T, H]
        return layout.restore(hidden)  # [T, H]

    def layers(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> list[Tensor]:
        """Returns the embeddings and the states of every block, each [T, H]; see `forward`."""
        hidden, layout, noise = self._embed(piece_ids, segment_ids, position_ids, sequence_starts)
        states = [hidden]
        for block in self.blocks:
            states.append(block(states[-1], layout, noise))  # [T, H]
        return [layout.restore(hidden) for hidden in states]

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
        """Returns the state of each sequence's first token in the last block; see `forward`. [S, H]

        It is what `forward` gives there, but the last block computes nothing for other tokens. Left
        to right a first token has read nothing: there it is the state of the last one, [SEP].
        """
        if self.config.is_decoder:
            hidden = self(piece_ids, segment_ids, position_ids, sequence_starts)  # [T, H]
            return hidden.index_select(
                0, sequence_starts[1:].to(hidden.device).long() - 1
            )  # [S, H]
        hidden, layout, noise = self._embed(piece_ids, segment_ids, position_ids, sequence_starts)
        for block in self.blocks[:-1]:
            hidden = block(hidden, layout, noise)  # [T, H]
        last = cast(Block, self.blocks[-1])
        return last.of_firsts(hidden, layout, noise)  # [S, H]

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
            blocks: in the place of the encoder's own.
            piece_ids, segment_ids, position_ids, sequence_starts: see `forward`.
        """
        hidden, layout, noise = self._embed(piece_ids, segment_ids, position_ids, sequence_starts)
        hidden = first(hidden)  # [T, G]
        for block in blocks:
            hidden = block(hidden, layout, noise)  # [T, G]
        return layout.restore(hidden)  # [T, G]

    def pool(self, firsts: Tensor) -> Tensor:
        """Returns one vector for each sequence from the state of its first token. [S, H]"""
        assert self.pooler is not None, "this encoder was made without a pooler"
        return torch.tanh(self.pooler(firsts))  # [S, H]

    def of_texts(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the vector that stands for each sequence; see `firsts`. [S, H]"""
        return self.pool(  # [S, H]
            self.firsts(piece_ids, segment_ids, position_ids, sequence_starts)
        )

    def of_texts_among(self, hidden: Tensor, sequence_starts: Tensor) -> Tensor:
        """Returns the vectors of first tokens, from all states. [T, H], int32 [S + 1] -> [S, H]"""
        return self.pool(first_states(hidden, sequence_starts))  # [S, H]

    def of_tokens(self, hidden: Tensor) -> Tensor:
        """Returns what a layer that labels tokens reads of their states: these. [M, H]"""
        return hidden

    def _embed(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> tuple[Tensor, Layout, Noise | None]:
        """Returns what blocks read: states in the layout's order [T, H], the layout, the noise."""
        if piece_ids.device.type == "cpu":  # elsewhere the check would wait for the device
            check_known("piece id", piece_ids, self.config.vocab_size, "vocab_size")
            check_known("segment", segment_ids, self.config.type_vocab_size, "type_vocab_size")
            longest = self.config.max_position_embeddings
            check_known("position", position_ids, longest, "max_position_embeddings")
        layout = Layout.of(sequence_starts, piece_ids.device, causal=self.config.is_decoder)
        noise = Noise.draw() if self.training else None
        parts = (layout.arrange(ids) for ids in (piece_ids, segment_ids, position_ids))
        return self.embeddings(*parts, noise), layout, noise


def first_states(hidden: Tensor, sequence_starts: Tensor) -> Tensor:
    """Returns the state of each sequence's first token. [T, H], int32 [S + 1] -> [S, H]"""
    firsts = sequence_starts[:-1].to(device=hidden.device, dtype=torch.int64)  # [S]
    return hidden.index_select(0, firsts)  # [S, H]


def activate(states: Tensor, name: str) -> Tensor:
    """Returns `states` after the activation function that `hidden_act` names.

    `gelu` is the exact one, by the error function; `gelu_new` approximates it by a tanh.
    """
    if name == "relu":
        return torch.relu(states)
    return F.gelu(states, approximate="tanh" if name == "gelu_new" else "none")


def initialize(module: nn.Module, deviation: float) -> None:
    """Sets biases to 0, norms to 1 and other weights to a normal cut at two deviations.

    Source: `modeling.create_initializer` of the published code, a truncated normal; numbers come
    from torch's default generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def begin_directed(encoder: Bert) -> None:
    """Draws weights anew so that attention begins with a direction, and at its full size.

    Drawn as published, with a deviation of 0.02 whatever the width, a narrow encoder's attention
    adds about a hundredth of a state's size to it, from everywhere alike, and takes most of a small
    budget to find a direction. Here half of the heads (the larger half) begin by reading the pieces
    nearby: positions are sinusoids, so that near ones are alike, and keys begin as queries, so that
    like states read one another. The other heads read all pieces alike, as published. What is read
    goes on at its full size. Every weight is learnt as ever: it is the same model.

    Source: ours; what it gains is in `docs/results.md`, section 'Learning'. The sinusoids are those
    of Vaswani et al. 2017, section 3.5, with shorter waves.
    """
    width = encoder.config.hidden_size  # H
    positions = encoder.embeddings.positions.weight  # [P, H]
    places = torch.arange(positions.shape[0])[:, None]  # [P, 1]
    waves = _WAVES ** (-torch.arange(0, width, 2) / width)  # [H / 2]
    with torch.no_grad():
        positions[:, 0::2] = _POSITIONS * torch.sin(places * waves)
        positions[:, 1::2] = _POSITIONS * torch.cos(places * waves[: width // 2])
    direct_blocks(encoder.blocks, encoder.config)


def direct_blocks(blocks: nn.ModuleList, config: BertConfig) -> None:
    """Draws the attention of blocks anew, as `begin_directed` says, without the positions."""
    width, heads = config.hidden_size, config.num_attention_heads  # H, N
    directed = (heads + 1) // 2 * (width // heads)
    with torch.no_grad():
        for block in blocks:
            assert isinstance(block, Block)
            queries, keys, values = block.attention.qkv.weight.split(width)  # [H, H] each
            nn.init.normal_(queries[:directed], std=_QUERIES / width**0.5)
            keys[:directed] = queries[:directed]
            nn.init.normal_(values, std=width**-0.5)
            nn.init.normal_(block.attention.output.weight, std=width**-0.5)


def check_known(what: str, ids: Tensor, known: int, setting: str) -> None:
    """Raises DataError where an id is not one of the `known` ones, which count from 0."""
    lowest, highest = map(int, ids.aminmax())
    if lowest < 0 or highest >= known:
        wrong = highest if highest >= known else lowest
        raise DataError(
            f"the batch holds {what} {wrong}; this model knows 0 to {known - 1} ({setting} is "
            f"{known}): use the model's own vocabulary and cut texts to its length"
        )
