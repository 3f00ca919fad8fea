"""BERT in use on a CPU, by torch, with as few passes over memory as there are.

It is the encoder itself with other arithmetic: the same states to rounding (1e-5), without dropout
and gradients. What was measured with MiniLM on one core of Zen 3, which others used too:

- Weights lie the other way round, so that a product reads both of its sides along their rows: some
  2% where there are many tokens, 10% where there are few. They are held once: the encoder that is
  given sees the same numbers through its own parameters. Weights prepacked for oneDNN are slower
  from 128 tokens on (8 to 20%), alike from 24 to 64, and faster up to 16 (12 to 40%), where they
  are used.
- A product adds itself to the states below: their sum was 0.8% of a block. Its bias comes from the
  norm before, whose other reader has it taken out of its own bias.
- A group holds sequences of one length, so that nothing is padded. torch's fused attention is
  fastest with 27 tokens and more; with 14 it takes 1.3 times as long as plain products, with 8 1.4.
- GELU by torch in place is 3% of a block; fused into oneDNN's product it takes four times as long.
- One room for queries, keys, values and inner states is kept from batch to batch: memory that is
  taken anew must be cleared by the system first (not measured).

Shapes:  T tokens   S sequences   M chosen tokens   H hidden size   I inner width   N heads
         D head size   B sequences of one group   L their length   P tokens of one group
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertsmith.model.attention import Group, Layout
from bertsmith.model.bert import Bert, Block, check_known
from bertsmith.model.kinds import Encoder
from bertsmith.model.published import AnyModel, encoder_in

Kind = TypeVar("Kind", bound=AnyModel)

_SHORT = 20  # tokens of sequences up to which plain products attend faster
_FEW = 16  # tokens up to which prepacked weights are faster
_PASSES_BEFORE_PACKING = 32  # of so few tokens: a command that asks once must not wait for it


@dataclass
class _Product:
    """One linear layer: `states @ weight + bias`."""

    weight: Tensor  # [in, out]
    bias: Tensor  # [out]
    packed: Tensor | None = None  # the weight as oneDNN reads it fastest

    def __call__(self, states: Tensor, out: Tensor) -> Tensor:
        if self.packed is not None and len(states) <= _FEW:
            return torch.ops.mkldnn._linear_pointwise(
                states, self.packed, self.bias, "none", [], None
            )
        return torch.addmm(self.bias, states, self.weight, out=out)

    def add_to(self, sums: Tensor, states: Tensor) -> None:
        """Adds the product, without the bias, to `sums` in place."""
        if self.packed is not None and len(states) <= _FEW:
            sums += torch.ops.mkldnn._linear_pointwise(states, self.packed, None, "none", [], None)
        else:
            sums.addmm_(states, self.weight)

    def pack(self) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.mT.contiguous(), _FEW)


@dataclass
class _Norm:
    """A layer norm whose output stands `ahead` of itself: the next product's bias is in it."""

    norm: nn.LayerNorm
    ahead: Tensor  # the norm's own bias and the bias of the product whose result is added next

    def __call__(self, states: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(
            states, self.norm.normalized_shape, self.norm.weight, bias, self.norm.eps
        )


@dataclass
class _Step:
    """One block; biases of `qkv` and `inner` make up for what is ahead in the states they read."""

    qkv: _Product
    attended: _Product
    middle: _Norm
    inner: _Product
    output: _Product

    def products(self) -> tuple[_Product, ...]:
        return self.qkv, self.attended, self.inner, self.output


def with_engine(model: Kind) -> Kind:
    """Returns the model with an engine for its encoder, or as it is where there is none for it.

    There is one for BERT in 32 bits on a CPU. What stands on the encoder is shared with `model`,
    which stays as it is.
    """
    encoder = encoder_in(model)
    weight = encoder.embeddings.pieces.weight
    if not isinstance(encoder, Bert) or weight.device.type != "cpu":
        return model
    if weight.dtype != torch.float32 or not len(encoder.blocks):
        return model
    engine = TorchEngine(encoder)
    if isinstance(model, Encoder):
        return cast(Kind, engine)
    twin = copy.copy(model)
    twin._modules = {**model._modules, "encoder": engine}
    return twin


class _Room(threading.local):
    """Memory that each thread has for itself."""

    room: Tensor | None = None


class TorchEngine(Bert):
    """An encoder that answers as the one it is made of, sooner; it is not for training.

    It shares the given encoder's parameters. Several threads may call it at once.
    """

    def __init__(self, encoder: Bert) -> None:
        """Takes over an encoder on the CPU in 32 bits, whose matrices it lays out anew in place."""
        nn.Module.__init__(self)
        self.config = encoder.config
        self.embeddings = encoder.embeddings
        self.blocks = encoder.blocks
        self.pooler = encoder.pooler
        self.eval()
        blocks = [cast(Block, block) for block in self.blocks]
        with torch.inference_mode(False), torch.no_grad():
            self._steps = [_step(block) for block in blocks]
            self._norms = _norms(self.embeddings.norm, blocks)
        self._rooms = _Room()
        self._short_passes = 0

    @torch.no_grad()
    def forward(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block; see `Bert.forward`. [T, H]"""
        sums, layout = self._below(piece_ids, segment_ids, position_ids, sequence_starts)
        for number in range(len(self._steps)):
            sums = self._block(number, sums, layout)  # [T, H]
        return layout.restore(self._states(sums))  # [T, H]

    @torch.no_grad()
    def layers(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> list[Tensor]:
        """Returns the embeddings and the states of every block, each [T, H]; see `Bert.layers`."""
        sums, layout = self._below(piece_ids, segment_ids, position_ids, sequence_starts)
        found = [self._states(sums, 0)]
        for number in range(len(self._steps)):
            sums = self._block(number, sums, layout)  # [T, H]
            found.append(self._states(sums, number + 1))
        return [layout.restore(states) for states in found]

    @torch.no_grad()
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
        sums, layout = self._below(piece_ids, segment_ids, position_ids, sequence_starts)
        last = len(self._steps) - 1
        for number in range(last):
            sums = self._block(number, sums, layout)  # [T, H]
        if layout.inverse is not None:
            positions = layout.inverse.index_select(0, positions)
        states = self._ahead(last, sums)  # [T, H]
        read = self._attend(last, states, layout).index_select(0, positions)  # [M, H]
        return self._states(self._above(last, states.index_select(0, positions), read))  # [M, H]

    @torch.no_grad()
    def firsts(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the last state of each sequence's first token; see `Bert.firsts`. [S, H]"""
        if self.config.is_decoder:
            lasts = sequence_starts[1:].long() - 1  # [S]
            return self.at(piece_ids, segment_ids, position_ids, sequence_starts, lasts)  # [S, H]
        sums, layout = self._below(piece_ids, segment_ids, position_ids, sequence_starts)
        last = len(self._steps) - 1
        for number in range(last):
            sums = self._block(number, sums, layout)  # [T, H]
        firsts, restored = layout.firsts()
        states = self._ahead(last, sums)  # [T, H]
        read = self._firsts_attend(last, states, firsts, layout)  # [S, H]
        above = self._above(last, states.index_select(0, firsts), read)  # [S, H]
        return self._states(above).index_select(0, restored)  # [S, H]

    # ------------------------------------------------------------------------------ one block

    def _below(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> tuple[Tensor, Layout]:
        """Returns the layout and, in its order, the embeddings before their norm. [T, H]"""
        config = self.config
        check_known("piece id", piece_ids, config.vocab_size, "vocab_size")
        check_known("segment", segment_ids, config.type_vocab_size, "type_vocab_size")
        longest = config.max_position_embeddings
        check_known("position", position_ids, longest, "max_position_embeddings")
        layout = Layout.of(sequence_starts, piece_ids.device, causal=config.is_decoder, crowd=1)
        parts = self.embeddings
        sums = F.embedding(layout.arrange(piece_ids), parts.pieces.weight)  # [T, H]
        sums += F.embedding(layout.arrange(position_ids), parts.positions.weight)
        sums += F.embedding(layout.arrange(segment_ids), parts.segments.weight)
        self._pack_if_it_pays(len(piece_ids))
        return sums, layout

    def _ahead(self, number: int, sums: Tensor) -> Tensor:
        """Returns what a block reads: normalised, with its attention's output bias. [T, H]"""
        norm = self._norms[number]
        return norm(sums, norm.ahead)  # [T, H]

    def _states(self, sums: Tensor, number: int = -1) -> Tensor:
        """Returns the states below block `number`, or the last ones, as the encoder has them."""
        norm = self._norms[number]
        return norm(sums, norm.norm.bias)  # [T, H]

    def _block(self, number: int, sums: Tensor, layout: Layout) -> Tensor:
        """Returns what a block makes, before its last norm. [T, H] -> [T, H]"""
        states = self._ahead(number, sums)  # [T, H]
        return self._above(number, states, self._attend(number, states, layout))  # [T, H]

    def _above(self, number: int, states: Tensor, read: Tensor) -> Tensor:
        """Returns the same of states and what they have read; `states` are changed. [M, H] twice"""
        step = self._steps[number]
        step.attended.add_to(states, read)
        states = step.middle(states, step.middle.ahead)  # [M, H]
        inner = step.inner(states, self._room(len(states), step.inner))  # [M, I]
        step.output.add_to(states, _activated(inner, self.config.hidden_act))
        return states

    def _attend(self, number: int, states: Tensor, layout: Layout) -> Tensor:
        """Returns what every token reads, before the output projection. [T, H] -> [T, H]"""
        product = self._steps[number].qkv
        qkv = product(states, self._room(len(states), product))  # [T, 3 * H]
        heads = self.config.num_attention_heads
        if len(layout.groups) == 1:
            return _attended(qkv, layout.groups[0], heads, layout.causal).flatten(0, 1).flatten(1)
        read = torch.empty_like(states)  # [T, H]
        for group in layout.groups:
            found = _attended(qkv, group, heads, layout.causal)  # [B, L, N, D]
            read[group.first : group.last].view(found.shape).copy_(found)
        return read

    def _firsts_attend(self, number: int, states: Tensor, firsts: Tensor, layout: Layout) -> Tensor:
        """Returns what the first token of each sequence reads. [T, H], int64 [S] -> [S, H]"""
        product = self._steps[number].qkv
        size, heads = states.shape[1], self.config.num_attention_heads
        weight, bias = product.weight, product.bias
        queries = torch.addmm(  # [S, H]
            bias[:size], states.index_select(0, firsts), weight[:, :size]
        )
        keys = torch.addmm(bias[size:], states, weight[:, size:])  # [T, 2 * H]
        read = torch.empty_like(queries)  # [S, H]
        done = 0
        for group in layout.groups:
            asked = queries[done : done + group.sequences].unflatten(1, (heads, 1, -1))
            shape = (group.sequences, group.longest, 2, heads, -1)
            key, value = keys[group.first : group.last].view(shape).permute(2, 0, 3, 1, 4)
            found = F.scaled_dot_product_attention(asked, key, value)  # [B, N, 1, D]
            read[done : done + group.sequences] = found.flatten(1)
            done += group.sequences
        return read

    def _room(self, rows: int, product: _Product) -> Tensor:
        """Returns memory of this thread for a product of `rows` rows; what it held is gone."""
        width = product.weight.shape[1]
        room = self._rooms.room
        if room is None or room.numel() < rows * width:
            widest = max(product.weight.shape[1] for product in self._steps[0].products())
            with torch.inference_mode(False):  # what is made in it may not be written outside it
                room = self._rooms.room = torch.empty(rows * widest)
        return room[: rows * width].view(rows, width)

    def _pack_if_it_pays(self, num_tokens: int) -> None:
        if num_tokens > _FEW or self._short_passes > _PASSES_BEFORE_PACKING:
            return
        self._short_passes += 1
        if self._short_passes == _PASSES_BEFORE_PACKING and torch.backends.mkldnn.is_available():
            for step in self._steps:
                for product in step.products():
                    product.pack()


def _step(block: Block) -> _Step:
    """Returns a block rearranged; its matrices are laid out along their other side, in place."""
    layers = (block.attention.qkv, block.attention.output, block.intermediate, block.output)
    qkv, attended, inner, output = (_product(layer) for layer in layers)
    qkv.bias = _without(qkv, attended.bias)
    inner.bias = _without(inner, output.bias)
    middle = _Norm(block.attention_norm, block.attention_norm.bias + output.bias)
    return _Step(qkv, attended, middle, inner, output)


def _product(layer: nn.Linear) -> _Product:
    laid_out = layer.weight.detach().mT.contiguous()  # [in, out]
    layer.weight.data = laid_out.mT
    return _Product(laid_out, layer.bias.detach())


def _without(product: _Product, ahead: Tensor) -> Tensor:
    """Returns the bias with which a product gives its own result of states that have `ahead`."""
    return product.bias - ahead @ product.weight  # [out]


def _norms(first: nn.LayerNorm, blocks: Sequence[Block]) -> list[_Norm]:
    """Returns the norm below each block, and the one above the last, which is ahead of nothing."""
    norms = [first, *(block.output_norm for block in blocks)]
    aheads = [
        norm.bias + block.attention.output.bias for norm, block in zip(norms, blocks, strict=False)
    ]
    return [
        _Norm(norm, ahead) for norm, ahead in zip(norms, [*aheads, norms[-1].bias], strict=True)
    ]


def _attended(qkv: Tensor, group: Group, heads: int, causal: bool) -> Tensor:
    """Returns what the heads of a group read. [T, 3 * H] -> [B, L, N, D]"""
    shape = (group.sequences, group.longest, 3, heads, -1)
    parts = qkv[group.first : group.last].view(shape).permute(2, 0, 3, 1, 4)  # [3, B, N, L, D]
    if group.longest > _SHORT or causal:
        query, key, value = parts
        read = F.scaled_dot_product_attention(query, key, value, is_causal=causal)  # [B, N, L, D]
        return read.transpose(1, 2)  # [B, L, N, D]
    query, key, value = parts.flatten(1, 2).contiguous()  # each [B * N, L, D]
    scale = query.shape[-1] ** -0.5
    scores = query.new_empty(len(query), group.longest, group.longest)  # [B * N, L, L]
    torch.baddbmm(scores, query, key.mT, beta=0, alpha=scale, out=scores)
    read = torch.bmm(scores.softmax(-1), value)  # [B * N, L, D]
    return read.unflatten(0, (-1, heads)).transpose(1, 2)  # [B, L, N, D]


def _activated(states: Tensor, name: str) -> Tensor:
    """Returns `states`, changed in place by the activation function that `hidden_act` names."""
    if name == "relu":
        return states.relu_()
    return torch.ops.aten.gelu_(states, approximate="tanh" if name == "gelu_new" else "none")
