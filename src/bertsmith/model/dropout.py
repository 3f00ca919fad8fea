"""Dropout masks from cheap random bits.

On a CPU it is the random numbers that make dropout dear, not the product: torch draws them one at
a time on one core. Here one number is drawn from torch's generator for each forward pass and seeds
a faster stream (SFC64), whose bits are cut into 16-bit numbers and compared with a threshold; this
was measured as ten times cheaper. So `torch.manual_seed` decides every mask, as it does elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16  # what a 16-bit number can be compared with


class Noise:
    """The dropout masks of one forward pass.

    Rates are rounded to the nearest 1/65536, and what is kept is scaled by the rounded rate, so
    that expectations are exact: 0.1 becomes 6554/65536 = 0.100006.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.SFC64(seed)

    @classmethod
    def draw(cls) -> Noise:
        """Returns a stream seeded by one number of torch's default generator."""
        return cls(int(torch.randint(1 << 62, ())))

    def keep(self, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        """Returns a mask of `shape`: 0 with probability `rate`, else 1 / (1 - rate).

        Type and device are those of `like`. On other devices than the CPU the mask comes from the
        device's own generator.
        """
        if like.device.type != "cpu":
            kept = torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - rate)
            return kept.div_(1 - rate)
        size = math.prod(shape)
        dropped = round(rate * _LEVELS)
        bits = self._bits.random_raw((size + 3) // 4).view(np.int16)[:size]
        kept = torch.from_numpy(bits).view(tuple(shape)) >= dropped - _LEVELS // 2
        return kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def drop(states: Tensor, rate: float, noise: Noise | None) -> Tensor:
    """Returns `states` with a share of `rate` set to 0 and the rest scaled up to make up for it.

    Without `noise` (not training), or at rate 0, it is `states` itself.
    """
    if noise is None or not rate:
        return states
    return states * noise.keep(states.shape, rate, states)


def drop_and_add(states: Tensor, rate: float, noise: Noise | None, residual: Tensor) -> Tensor:
    """Returns `residual` plus `states` after dropout, in one pass over memory."""
    if noise is None or not rate:
        return residual + states
    return torch.addcmul(residual, states, noise.keep(states.shape, rate, states))
