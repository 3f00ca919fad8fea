"""The ranks of a run: the processes that train one model together, on one machine or on many.

Every rank has the whole model (or, sharded, a part of every weight) and takes its share of each
optimizer step. Rank 0, the first, also holds the run folder, writes and talks. A process that
torchrun did not start is `Alone`; nothing of several ranks is loaded or done then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from bertsmith.errors import ConfigError
from bertsmith.train.place import Place

Item = TypeVar("Item")


class Ranks(Protocol):
    """What the loop asks of the ranks of a run."""

    rank: int
    count: int

    def add_up(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the sum over the ranks of each value; all ranks give the same names."""

    def add_gradients(self, model: nn.Module) -> None:
        """Puts the sum over the ranks in the place of each rank's gradients."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that may be sharded as it is without shards."""

    def shares(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yields this rank's share of `items`, each with whether it counts.

        Every rank gets as many: where they do not come out even, one that does not count is added.
        """


class Alone:
    """The ranks of a run that has one."""

    rank = 0
    count = 1

    def add_up(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the values."""
        return dict(values)

    def add_gradients(self, model: nn.Module) -> None:
        """Leaves the gradients as they are."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns the tensor."""
        return tensor

    def shares(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yields all items."""
        return ((item, True) for item in items)


ALONE = Alone()


def join_ranks(place: Place, timeout_seconds: float) -> AbstractContextManager[Any]:
    """Returns the group of the ranks as a context manager; of a process alone, `ALONE`.

    Raises:
        ConfigError: this machine has not as many GPUs as ranks.
        RanksError: the others did not come within `timeout_seconds`.
    """
    if place.count == 1:
        return nullcontext(ALONE)
    from bertsmith.train.distributed import Group

    if torch.cuda.is_available() and torch.cuda.device_count() < place.local_count:
        raise ConfigError(
            f"torchrun started {place.local_count} ranks on a machine of "
            f"{torch.cuda.device_count()} GPUs; expected one GPU for each: lower --nproc-per-node"
        )
    return Group(place, timeout_seconds)
