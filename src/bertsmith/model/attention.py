"""Attention over packed sequences: one door for every device.

Only this file knows where sequences end. Sequences of equal or near-equal length are attended to
together as one padded group, so that the work stays in a few large matrix products. Groups are
cheap because the encoder holds its tokens in the layout's order, in which a group is one slice.

Shapes:  T tokens   S sequences   H hidden size   N heads   D head size (H = N * D)
         B sequences of one group   L longest of them   P tokens of one group, without padding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bertsmith.config import BertConfig
from bertsmith.errors import DataError
from bertsmith.model.dropout import Noise, drop

_NEAR = 0.75  # a group's shortest sequence over its longest
_CROWD = 8  # equal sequences from which on they form a group of their own, without padding


@dataclass(frozen=True)
class Group:
    """Sequences that are attended to together; they lie side by side in the layout's order."""

    first: int  # token in the layout's order
    last: int  # one past the last token
    sequences: int  # B
    longest: int  # L
    padded: Tensor | None = None  # token of the group for each padded place; int64 [B * L]
    packed: Tensor | None = None  # padded place of each token of the group; int64 [P]
    # 0 where a key may be read, else -inf; [B, 1, 1 or L, L], causal [L, L]
    bias: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Where the sequences of one packed batch lie, made once per forward pass."""

    starts: Tensor  # of each sequence, in the order given; int32 [S + 1] on the device
    longest: int  # tokens in the longest sequence
    order: Tensor | None  # token of the batch at each place; int64 [T]; None: as given
    inverse: Tensor | None  # place of each token of the batch; int64 [T]
    groups: tuple[Group, ...]
    causal: bool = False  # a token reads itself and those before it, no others

    @classmethod
    def of(
        cls,
        sequence_starts: Tensor,
        device: torch.device,
        causal: bool = False,
        crowd: int = _CROWD,
    ) -> Layout:
        """Returns the layout of sequences that start at `sequence_starts`, int [S + 1].

        With `causal`, a token reads itself and those before it in its sequence, no others. From
        `crowd` equal sequences on, they form a group of their own; with 1, no group has padding.

        Raises:
            DataError: there is no sequence, or one is empty.
        """
        starts = sequence_starts.detach().cpu().numpy().astype(np.int64)  # [S + 1]
        lengths = np.diff(starts)  # [S]
        if lengths.size == 0 or lengths.min() < 1:
            raise DataError(
                f"a batch has sequences of {lengths.tolist()} tokens; expected one or more "
                f"sequences of at least one token each"
            )
        ranks = np.argsort(-lengths, kind="stable")  # [S], longest first
        order = None
        if not np.array_equal(ranks, np.arange(len(ranks))):
            order = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in ranks])
        groups, first = [], 0
        for members in _near_lengths(lengths[ranks], crowd):
            groups.append(_group(members, first, device, causal))
            first = groups[-1].last
        places = None if order is None else torch.from_numpy(order).to(device)
        return cls(
            starts=sequence_starts.to(device=device, dtype=torch.int32),
            longest=int(lengths.max()),
            order=places,
            inverse=None if places is None else torch.argsort(places),
            groups=tuple(groups),
            causal=causal,
        )

    def arrange(self, tokens: Tensor) -> Tensor:
        """Returns rows of the batch in the layout's order. [T, ...]"""
        return tokens if self.order is None else tokens.index_select(0, self.order)

    def firsts(self) -> tuple[Tensor, Tensor]:
        """Returns where sequences begin in the layout's order, and how to bring them back.

        The first is the place of each sequence's first token, longest sequence first. int64 [S]
        The second is what to select from rows in that order to have them as the batch had them.
        int64 [S]
        """
        lengths = self.starts.diff().long()  # [S]
        ranks = lengths.argsort(descending=True, stable=True)  # [S]
        return lengths[ranks].cumsum(0) - lengths[ranks], ranks.argsort()

    def restore(self, tokens: Tensor) -> Tensor:
        """Returns rows in the layout's order as the batch had them. [T, ...]"""
        return tokens if self.inverse is None else tokens.index_select(0, self.inverse)


def _near_lengths(lengths: np.ndarray, crowd: int) -> list[np.ndarray]:
    """Cuts lengths, longest first, into groups: a crowd of equals stands alone, else near ones."""
    _, firsts, counts = np.unique(-lengths, return_index=True, return_counts=True)
    cuts: list[int] = []
    open_at: int | None = None  # first sequence of the group that may still take more
    for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
        if count >= crowd:
            cuts.append(first)
            open_at = None
        elif open_at is None or lengths[first] < _NEAR * lengths[open_at]:
            cuts.append(first)
            open_at = first
    return np.split(lengths, cuts[1:])


def _group(lengths: np.ndarray, first: int, device: torch.device, causal: bool) -> Group:
    sequences, longest = len(lengths), int(lengths[0])
    last = first + int(lengths.sum())
    onward = None
    if causal:  # padding stands behind a sequence's tokens, so this alone hides it from them
        onward = torch.full((longest, longest), -torch.inf, device=device).triu(1)  # [L, L]
    if lengths[-1] == longest:
        return Group(first, last, sequences, longest, bias=onward)
    used = np.arange(longest) < lengths[:, None]  # [B, L]
    padded = np.zeros(used.shape, dtype=np.int64)  # padding reads token 0, which is then masked
    padded[used] = np.arange(last - first)
    bias = np.where(used, np.float32(0), np.float32(-np.inf))[:, None, None, :]  # [B, 1, 1, L]
    return Group(
        first,
        last,
        sequences,
        longest,
        padded=torch.from_numpy(padded.reshape(-1)).to(device),
        packed=torch.from_numpy(np.flatnonzero(used)).to(device),
        bias=torch.from_numpy(bias).to(device) if onward is None else onward,
    )


class SelfAttention(nn.Module):
    """Lets every token read from every token of its own sequence.

    Query, key and value are one product with one weight, in that order.

    Source: Vaswani et al. 2017, section 3.2.2, with biases as in Devlin et al. 2019.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, noise: Noise | None) -> Tensor:
        """Returns the attended states.

        Args:
            hidden: states of the layer below, in the layout's order. [T, H]
            layout: where sequences end.
            noise: dropout masks, when training.
        """
        context = attend(  # [T, H]
            self.qkv(hidden), layout, self.num_heads, self.dropout if noise else 0.0, noise
        )
        return self.output(context)  # [T, H]

    def of_firsts(
        self, hidden: Tensor, firsts: Tensor, layout: Layout, noise: Noise | None
    ) -> Tensor:
        """Returns the attended states of the first token of each sequence, and of no others. [S, H]

        Args:
            hidden: states of the layer below, in the layout's order. [T, H]
            firsts: places of the first tokens, from `layout.firsts`. int64 [S]
            layout: where sequences end.
            noise: dropout masks, when training.
        """
        assert not layout.causal, "the first token of a sequence has none before it to read"
        size = hidden.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(hidden.index_select(0, firsts), weight[:size], bias[:size])  # [S, H]
        keys = F.linear(hidden, weight[size:], bias[size:])  # [T, 2 * H]
        contexts, done = [], 0
        for group in layout.groups:
            rows = keys[group.first : group.last]  # [P, 2 * H]
            if group.padded is not None:
                rows = rows.index_select(0, group.padded)  # [B * L, 2 * H]
            shape = (group.sequences, group.longest, 2, self.num_heads, -1)
            key, value = rows.view(shape).permute(2, 0, 3, 1, 4)  # each [B, N, L, D]
            asked = query[done : done + group.sequences]  # [B, H]
            asked = asked.unflatten(1, (self.num_heads, 1, -1))  # [B, N, 1, D]
            scores = (asked * asked.shape[-1] ** -0.5) @ key.mT  # [B, N, 1, L]
            if group.bias is not None:
                scores = scores + group.bias  # [B, N, 1, L]
            weights = drop(scores.softmax(-1), self.dropout, noise)  # [B, N, 1, L]
            contexts.append((weights @ value).flatten(1))  # [B, H]
            done += group.sequences
        return self.output(torch.cat(contexts))  # [S, H]


def attend(
    qkv: Tensor, layout: Layout, num_heads: int, dropout: float, noise: Noise | None
) -> Tensor:
    """Returns what each token reads from its own sequence, by the fastest kernel there is.

    On CUDA, 16-bit states without dropout go through torch's variable-length flash attention; all
    else is done group by group: without dropout by torch's fused attention, with it by products
    that keep only what their gradient needs.

    Args:
        qkv: query, key and value of every token, in the layout's order. [T, 3 * H]
        layout: where sequences end.
        num_heads: N.
        dropout: rate of dropout on attention weights.
        noise: where its masks come from; needed where `dropout` is not 0.
    """
    if dropout:
        assert noise is not None
        return _DroppedAttention.apply(qkv, layout, num_heads, dropout, noise)  # [T, H]
    if qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        return flash(qkv, layout, num_heads)  # [T, H]
    contexts = []
    for group in layout.groups:
        query, key, value = _split(qkv, group, num_heads).unbind(2)  # each [B, L, N, D]
        context = F.scaled_dot_product_attention(  # [B, N, L, D]
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if group.bias is None else group.bias.to(qkv.dtype),
        )
        contexts.append(_pack(context, group))  # [P, H]
    return torch.cat(contexts) if len(contexts) > 1 else contexts[0]  # [T, H]


def flash(qkv: Tensor, layout: Layout, num_heads: int, window: int = -1) -> Tensor:
    """Returns what `attend` does, by torch's variable-length flash attention. [T, H]

    It is for CUDA, 16 bits and no dropout. A token reads those at most `window` away, where that
    is not -1.
    """
    from torch.nn.attention.varlen import varlen_attn  # compiled for CUDA only

    query, key, value = qkv.unflatten(-1, (3, num_heads, -1)).unbind(1)  # each [T, N, D]
    starts = torch.cumsum(  # int32 [S + 1], in the layout's order
        F.pad(layout.starts.diff().sort(descending=True).values, (1, 0)), 0, dtype=torch.int32
    )
    longest = layout.longest
    sides = (-1, 0) if layout.causal else (window, window)  # tokens to the left and right; -1: all
    context = varlen_attn(  # [T, N, D]
        query, key, value, starts, starts, longest, longest, window_size=sides
    )
    assert isinstance(context, Tensor)  # a pair only where its second half is asked for
    return context.flatten(1)  # [T, H]


def _split(qkv: Tensor, group: Group, num_heads: int) -> Tensor:
    """Returns the rows of a group, padded. [B, L, 3, N, D]"""
    rows = qkv[group.first : group.last]  # [P, 3 * H]
    if group.padded is not None:
        rows = rows.index_select(0, group.padded)  # [B * L, 3 * H]
    return rows.view(group.sequences, group.longest, 3, num_heads, -1)  # [B, L, 3, N, D]


def _pack(context: Tensor, group: Group) -> Tensor:
    """Returns what the heads of a group read, side by side and without padding. [P, H]"""
    rows = context.transpose(1, 2).flatten(0, 1).flatten(1)  # [B * L, H]
    return rows if group.packed is None else rows.index_select(0, group.packed)  # [P, H]


class _DroppedAttention(torch.autograd.Function):
    """Attention with dropout on its weights, and the gradient of it, group by group.

    torch's own kernels for the CPU have no dropout. With W the weights, D what dropout makes of
    them and dD the gradient of D, the gradient of the scores is D * dD - W * sum(D * dD): W and D
    are kept from forward to backward, scores and masks are not.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, layout: Layout, num_heads: int, dropout: float, noise: Noise
    ) -> Tensor:
        hidden_size = qkv.shape[1] // 3
        context = qkv.new_empty(qkv.shape[0], hidden_size)  # [T, H]
        kept = []
        for group in layout.groups:
            parts = _split(qkv, group, num_heads).permute(2, 0, 3, 1, 4)  # [3, B, N, L, D]
            parts = parts.flatten(1, 2).contiguous()  # [3, B * N, L, D]
            query, key, value = parts
            scores = _product(query, key.mT, query.shape[-1] ** -0.5)  # [B * N, L, L]
            if group.bias is not None:
                scores.unflatten(0, (-1, num_heads)).add_(group.bias)
            weights = torch.softmax(scores, -1)  # [B * N, L, L]
            dropped = noise.keep(weights.shape, dropout, weights).mul_(weights)  # [B * N, L, L]
            read = torch.bmm(dropped, value).unflatten(0, (-1, num_heads))  # [B, N, L, D]
            context[group.first : group.last] = _pack(read, group)
            kept += [parts, weights, dropped]
        ctx.save_for_backward(*kept)
        ctx.layout, ctx.num_heads = layout, num_heads
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        result = gradient.new_empty(gradient.shape[0], 3 * gradient.shape[1])  # [T, 3 * H]
        for number, group in enumerate(ctx.layout.groups):
            parts, weights, dropped = kept[3 * number : 3 * number + 3]
            rows = gradient[group.first : group.last]  # [P, H]
            if group.packed is not None:
                padded = rows.new_zeros(group.sequences * group.longest, rows.shape[1])
                rows = padded.index_copy_(0, group.packed, rows)  # [B * L, H]
            read = rows.view(group.sequences, group.longest, ctx.num_heads, -1)  # [B, L, N, D]
            read = read.transpose(1, 2).flatten(0, 1)  # [B * N, L, D]
            query, key, value = parts
            scale = query.shape[-1] ** -0.5
            found = torch.empty_like(parts)  # [3, B * N, L, D]
            torch.bmm(dropped.mT, read, out=found[2])
            scores = torch.bmm(read, value.mT).mul_(dropped)  # [B * N, L, L]
            scores.addcmul_(weights, scores.sum(-1, keepdim=True), value=-1)
            _product(scores, key, scale, out=found[0])
            _product(scores.mT, query, scale, out=found[1])
            heads = found.unflatten(1, (-1, ctx.num_heads))  # [3, B, N, L, D]
            rows = heads.permute(1, 3, 0, 2, 4).flatten(0, 1).flatten(1)  # [B * L, 3 * H]
            if group.packed is not None:
                rows = rows.index_select(0, group.packed)  # [P, 3 * H]
            result[group.first : group.last] = rows
        return result, None, None, None, None


def _product(left: Tensor, right: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Returns `scale` times the products of two batches of matrices, in one pass over memory."""
    if out is None:
        out = left.new_empty(*left.shape[:2], right.shape[2])
    return torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)
