"""Attention within a window: a token reads those of its sequence that stand near it.

In sequences of up to three windows what is out of sight is masked. Longer ones are cut into chunks
as long as the window reaches to one side; a chunk's tokens read it and its two neighbours, so that
the work grows with the length of a text and not with its square.

Shapes:  T tokens   H hidden size   N heads   D head size (H = N * D)   W tokens in a chunk
         B sequences of one group   L longest of them   K chunks in L   P tokens of one group
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bertsmith.model.attention import Group, Layout, attend, flash
from bertsmith.model.dropout import Noise, drop

_WHOLE = 3  # chunks up to which a sequence is read whole: as many as a chunk reads


@dataclass(frozen=True)
class Chunks:
    """A group of long sequences, each cut into as many chunks."""

    group: Group
    padded: Tensor  # token of the group for each place in its chunks; int64 [B * K * W]
    packed: Tensor  # place of each token of the group; int64 [P]
    bias: Tensor  # 0 where a chunk may read, else -inf; [B * K, 1, W, 3 * W]

    @classmethod
    def of(cls, group: Group, window: int, device: torch.device) -> Chunks:
        """Returns the chunks of a group, each as long as `window`."""
        count = -(-group.longest // window)  # K
        shape = (group.sequences, group.longest)
        used, padded = _used(group, device), group.padded  # [B, L]
        if padded is None:
            padded = torch.arange(group.last - group.first, device=device)  # [B * L]
        filling = (0, count * window - group.longest)
        used = F.pad(used, filling)  # [B, K * W]
        places = torch.arange(3 * window, device=device) - window  # [3 * W], of keys
        distance = places - torch.arange(window, device=device)[:, None]  # [W, 3 * W]
        keys = F.pad(used, (window, window)).unfold(1, 3 * window, window)  # [B, K, 3 * W]
        may = (distance.abs() <= window) & keys[:, :, None]  # [B, K, W, 3 * W]
        # What fills a chunk up reads everything: a row of nothing but -inf would give NaN.
        may |= ~used.view(len(used), count, window, 1)
        return cls(
            group,
            padded=F.pad(padded.view(shape), filling).flatten(),
            packed=used.flatten().nonzero().squeeze(1),
            bias=_bias(may).flatten(0, 1)[:, None],
        )


@dataclass(frozen=True)
class LocalLayout:
    """Where the sequences of a packed batch lie, and how they are read within a window."""

    whole: Layout
    window: int  # how far a token sees to either side
    chunks: tuple[Chunks, ...]  # of the longest groups, which come first
    rest: Layout | None  # of the tokens behind those

    @classmethod
    def of(cls, layout: Layout, window: int) -> LocalLayout:
        """Returns how the sequences of `layout` are read within `window`."""
        assert not layout.causal, "a window is to both sides"
        device = layout.starts.device
        long = [group for group in layout.groups if group.longest > _WHOLE * window]
        first = long[-1].last if long else 0
        groups = tuple(
            _within(group, first, window, device) for group in layout.groups[len(long) :]
        )
        return cls(
            layout,
            window,
            chunks=tuple(Chunks.of(group, window, device) for group in long),
            rest=replace(layout, groups=groups) if groups else None,
        )


def attend_near(
    qkv: Tensor, layout: LocalLayout, num_heads: int, dropout: float, noise: Noise | None
) -> Tensor:
    """Returns what each token reads from those near it in its own sequence. [T, H]

    Args:
        qkv: query, key and value of every token, in the layout's order. [T, 3 * H]
        layout: where sequences end, and how far a token sees.
        num_heads: N.
        dropout: rate of dropout on attention weights.
        noise: where its masks come from; needed where `dropout` is not 0.
    """
    if not dropout and qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16):
        return flash(qkv, layout.whole, num_heads, layout.window)  # [T, H]
    contexts = [
        _attend_in_chunks(qkv, chunks, layout.window, num_heads, dropout, noise)  # [P, H]
        for chunks in layout.chunks
    ]
    if layout.rest is not None:
        behind = layout.chunks[-1].group.last if layout.chunks else 0
        contexts.append(attend(qkv[behind:], layout.rest, num_heads, dropout, noise))
    return torch.cat(contexts) if len(contexts) > 1 else contexts[0]  # [T, H]


def _attend_in_chunks(
    qkv: Tensor,
    chunks: Chunks,
    window: int,
    num_heads: int,
    dropout: float,
    noise: Noise | None,
) -> Tensor:
    """Returns what the tokens of a group read, each chunk from itself and its neighbours. [P, H]"""
    group = chunks.group
    rows = qkv[group.first : group.last].index_select(0, chunks.padded)  # [B * K * W, 3 * H]
    parts = rows.view(group.sequences, -1, window, 3, num_heads, qkv.shape[1] // 3 // num_heads)
    query = parts[:, :, :, 0].flatten(0, 1).transpose(1, 2)  # [B * K, N, W, D]
    read = F.pad(parts[:, :, :, 1:], (0, 0) * 4 + (1, 1))  # [B, K + 2, W, 2, N, D]
    read = torch.cat([read[:, :-2], read[:, 1:-1], read[:, 2:]], 2)  # [B, K, 3 * W, 2, N, D]
    key, value = read.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each [B * K, N, 3 * W, D]
    bias = chunks.bias.to(qkv.dtype)  # [B * K, 1, W, 3 * W]
    if dropout:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT + bias  # [B * K, N, W, 3 * W]
        context = drop(scores.softmax(-1), dropout, noise) @ value  # [B * K, N, W, D]
    else:
        context = F.scaled_dot_product_attention(  # [B * K, N, W, D]
            query, key, value, attn_mask=bias
        )
    rows = context.transpose(1, 2).flatten(0, 1).flatten(1)  # [B * K * W, H]
    return rows.index_select(0, chunks.packed)  # [P, H]


def _within(group: Group, first: int, window: int, device: torch.device) -> Group:
    """Returns a group whose tokens read within a window, counted from token `first`."""
    moved = replace(group, first=group.first - first, last=group.last - first)
    if group.longest <= window + 1:
        return moved
    places = torch.arange(group.longest, device=device)  # [L]
    near = (places[:, None] - places).abs() <= window  # [L, L]
    if group.bias is None:
        return replace(moved, bias=_bias(near)[None, None])
    used = _used(group, device)  # [B, L]
    # Padding reads all of its sequence: a row of nothing but -inf would give NaN.
    may = used[:, None] & (near | ~used[:, :, None])  # [B, L, L]
    return replace(moved, bias=_bias(may)[:, None])


def _used(group: Group, device: torch.device) -> Tensor:
    """Returns which places of a group hold a token. bool [B, L]"""
    if group.bias is None:
        return torch.ones(group.sequences, group.longest, dtype=torch.bool, device=device)
    return group.bias[:, 0, 0] == 0  # [B, L]


def _bias(may: Tensor) -> Tensor:
    """Returns 0 where something may be read, else -inf; the shape is that of `may`."""
    return torch.zeros(may.shape, device=may.device).masked_fill_(~may, -torch.inf)
