"""Muon: matrices are moved along gradients whose singular values are all made about 1.

Shapes:  N matrices   R rows   C columns, never fewer than rows
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95  # memory of the gradient's mean
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5
_ITERATIONS = 5
_LEAST_NORM = 1e-7  # what a matrix is divided by at least
_WIDE = 1.5  # columns for each row from which the products of rows with rows are fewer operations
_MOST_NUMBERS = 1 << 22  # that are orthogonalised at once: 16 MB, and thrice that while it lasts

Group = dict[str, Any]


class Muon(torch.optim.Optimizer):
    """Moves matrices by Muon, and with them, in the same step, whatever another optimizer holds.

    A matrix W of `rows x columns`, of gradient G, is moved by

        M <- 0.95 * M + 0.05 * G
        W <- W - rate * weight_decay * W - rate * sqrt(max(1, rows / columns)) * U

    where U is 0.95 * M + 0.05 * G with its singular values moved to about 1: within 0.7 and 1.2,
    but for those that are nearly 0. So a step changes no state by more than about `rate` times its
    size, and a rate found at one width holds at another. That is why the step is scaled by the
    shape alone; the other rule in use, 0.2 * sqrt(max(rows, columns)), gives steps the size of
    AdamW's so as to share its rate, which is then one for each width.

    Source: Jordan et al. 2024 (Muon), https://kellerjordan.github.io/posts/muon/, whose published
    code `torch.optim.Muon` follows, in bfloat16 on any device; Bernstein 2025 (Deriving Muon) for
    why rates transfer; Liu et al. 2025 (arXiv 2502.16982) for the other rule.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        parts: Mapping[nn.Parameter, int],
        rest: torch.optim.Optimizer,
    ) -> None:
        """Makes the state of all matrices, zero.

        Args:
            groups: of matrices; each group has its `params`, `lr` and `weight_decay`.
            parts: how many matrices of as many rows a parameter holds, one below the other, as one
                of query, key and value does; each of them is orthogonalised by itself.
            rest: the optimizer of all other parameters, its state made.
        """
        super().__init__(groups, {})
        self._own_groups = list(self.param_groups)
        self._parts = dict(parts)
        self._rest = rest
        # The loop sets rates in all groups, and a checkpoint holds the state of all parameters.
        self.param_groups.extend(rest.param_groups)
        self.state = rest.state
        for group in self._own_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves all parameters that have a gradient."""
        assert closure is None, "the loop works out gradients itself"
        for group in self._own_groups:
            moved = [part for part in group["params"] if part.grad is not None]
            for parameters in _batches(moved, self._parts):
                self._move(parameters, group["lr"], group["weight_decay"])
        self._rest.step()

    def _move(self, parameters: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        gradients = [part.grad for part in parameters if part.grad is not None]
        momenta = [self.state[part]["momentum"] for part in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        stacks = [
            _upright(update.unflatten(0, (self._parts[part], -1)))  # [N, R, C]
            for part, update in zip(parameters, updates, strict=True)
        ]
        moves = orthogonalized(torch.cat(stacks)).split([len(stack) for stack in stacks])
        torch._foreach_mul_(list[Tensor](parameters), 1 - rate * weight_decay)
        for part, move in zip(parameters, moves, strict=True):
            rows, columns = _matrix_shape(part, self._parts[part])
            if rows > columns:
                move = move.mT
            scale = math.sqrt(max(1.0, rows / columns))
            part.add_(move.reshape(part.shape), alpha=-rate * scale)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Returns matrices whose singular vectors are kept and whose singular values are about 1.

    Five rounds of x -> a x + b (x x') x + c (x x')^2 x. Of wide matrices only products of rows with
    rows are followed from round to round, and the matrix that they amount to is applied at last:
    the same numbers but for rounding, with fewer operations. On a GPU it is done in bfloat16, in
    which that would lose too much.

    Source: Jordan et al. 2024 (Muon), for rounds and coefficients.

    Args:
        matrices: [N, R, C], no more rows than columns.
    """
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices  # [N, R, C]
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)  # [N, R, C]
    is_wide = x.shape[2] > _WIDE * x.shape[1] and x.dtype != torch.bfloat16
    moved = _by_products_of_rows(x) if is_wide else _round_by_round(x)  # [N, R, C]
    return moved.to(matrices.dtype)


def _round_by_round(x: Tensor) -> Tensor:
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        products = x @ x.mT  # [N, R, R]
        higher = torch.baddbmm(products, products, products, beta=third, alpha=fifth)  # [N, R, R]
        x = torch.baddbmm(x, higher, x, beta=first)  # [N, R, C]
    return x


def _by_products_of_rows(x: Tensor) -> Tensor:
    first, third, fifth = _COEFFICIENTS
    products = x @ x.mT  # [N, R, R]
    whole: Tensor | None = None
    for number in range(_ITERATIONS):
        factor = torch.baddbmm(products, products, products, beta=third, alpha=fifth)  # [N, R, R]
        factor.diagonal(dim1=1, dim2=2).add_(first)
        whole = factor if whole is None else factor @ whole  # [N, R, R]
        if number + 1 < _ITERATIONS:
            products = factor @ products @ factor  # [N, R, R]
    assert whole is not None
    return whole @ x  # [N, R, C]


def _batches(
    parameters: Iterable[nn.Parameter], parts: Mapping[nn.Parameter, int]
) -> Iterator[list[nn.Parameter]]:
    """Yields parameters whose matrices have one shape, or are turned to it, so many at a time."""
    by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        shape = tuple(sorted(_matrix_shape(parameter, parts[parameter])))
        batch = by_shape.setdefault(shape, [])
        if batch and sum(part.numel() for part in (*batch, parameter)) > _MOST_NUMBERS:
            yield by_shape.pop(shape)
            batch = by_shape.setdefault(shape, [])
        batch.append(parameter)
    yield from by_shape.values()


def _matrix_shape(parameter: Tensor, parts: int) -> tuple[int, int]:
    rows, columns = parameter.shape
    return rows // parts, columns


def _upright(stack: Tensor) -> Tensor:
    """Returns matrices with no more rows than columns."""
    return stack.mT if stack.shape[1] > stack.shape[2] else stack
