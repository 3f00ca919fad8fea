"""The gate of a feed-forward block: half of the numbers, activated, times the other half.

Shapes:  T tokens   F feed-forward width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bertsmith.model.bert import activate


def gated(states: Tensor, activation: str) -> Tensor:
    """Returns the activated first half of every row times its second half. [T, 2 * F] -> [T, F]

    Source: Shazeer 2020 (GLU variants), section 2; `activation` is as in `hidden_act`.
    """
    if activation == "relu":
        value, gate = states.chunk(2, 1)  # [T, F] each
        return activate(value, activation) * gate  # [T, F]
    gated: Tensor = _GatedGelu.apply(states, "tanh" if activation == "gelu_new" else "none")
    return gated


class _GatedGelu(torch.autograd.Function):
    """GELU and gate in one, whose gradient is written where the product below reads it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, approximate: str) -> Tensor:
        value, gate = states.chunk(2, 1)  # [T, F] each
        active = F.gelu(value, approximate=approximate)  # [T, F]
        ctx.save_for_backward(states, active)
        ctx.approximate = approximate
        return active * gate  # [T, F]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, active = ctx.saved_tensors
        value, gate = states.chunk(2, 1)  # [T, F] each
        result = torch.empty_like(states)  # [T, 2 * F]
        for_value, for_gate = result.chunk(2, 1)
        torch.mul(gradient, active, out=for_gate)
        torch.ops.aten.gelu_backward.grad_input(
            gradient * gate, value, approximate=ctx.approximate, grad_input=for_value
        )
        return result, None
