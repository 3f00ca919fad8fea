"""Models whose weights are about to be read: neither drawn nor given memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = {
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_uniform_,
    Tensor.normal_,
    Tensor.uniform_,
}


class _Undrawn(TorchFunctionMode):
    """Passes over whatever draws random numbers into a tensor."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def undrawn() -> Iterator[None]:
    """Lets modules that are made in its body have shapes alone, on the device `meta`.

    Drawing there would change nothing, but loads half of torch's compiler first, which takes longer
    than all else before a command's first answer.
    """
    with torch.device("meta"), _Undrawn():
        yield
