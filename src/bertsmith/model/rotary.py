"""Rotary positions: queries and keys turn with their place, so that scores tell distances.

Shapes:  T tokens   N heads   D head size   Q width of what is turned   H hidden size
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def turns(position_ids: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every token's angles, each [T, D / 2].

    Source: Su et al. 2021 (RoFormer), section 3.2.2.

    Args:
        position_ids: int64 [T]
        head_size: D.
        theta: the longest wave is about 2 pi times this, in tokens.
    """
    device = position_ids.device
    steps = torch.arange(0, head_size, 2, dtype=torch.float32, device=device)  # [D / 2]
    frequencies = 1.0 / theta ** (steps / head_size)  # [D / 2]
    # Places are few and tokens many, so each place is computed once.
    places = torch.arange(int(position_ids.max()) + 1, device=device)
    angles = places[:, None].float() * frequencies  # [places, D / 2]
    return (
        angles.cos().index_select(0, position_ids),  # [T, D / 2]
        angles.sin().index_select(0, position_ids),  # [T, D / 2]
    )


def turn(states: Tensor, cosines: Tensor, sines: Tensor, width: int) -> Tensor:
    """Returns states whose first `width` columns, head by head, are turned by their angles.

    The first half of a head's numbers are one coordinate each of a pair, the second half the other.

    Source: Su et al. 2021, section 3.4.2; the pairs are those of `transformers`.

    Args:
        states: query, key and value of every token. [T, 3 * H]
        cosines, sines: from `turns`. [T, D / 2]
        width: Q, a multiple of D.
    """
    cosines, sines = cosines.to(states.dtype), sines.to(states.dtype)
    turned: Tensor = _Turn.apply(states, cosines, sines, width)
    return turned


class _Turn(torch.autograd.Function):
    """A rotation, whose gradient is turned back by the same angles: four passes over memory."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cosines: Tensor, sines: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.width = width
        return _turned(states, cosines, sines, width, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _turned(gradient, cosines, sines, ctx.width, -1), None, None, None


def _turned(states: Tensor, cosines: Tensor, sines: Tensor, width: int, sense: int) -> Tensor:
    result = torch.empty_like(states)
    result[:, width:] = states[:, width:]
    half = cosines.shape[1]
    cosines, sines = cosines[:, None], sines[:, None]  # [T, 1, D / 2]
    left, right = states[:, :width].unflatten(1, (-1, 2, half)).unbind(2)  # each [T, Q / D, D / 2]
    new_left, new_right = result[:, :width].unflatten(1, (-1, 2, half)).unbind(2)
    torch.mul(left, cosines, out=new_left).addcmul_(right, sines, value=-sense)
    torch.mul(right, cosines, out=new_right).addcmul_(left, sines, value=sense)
    return result
