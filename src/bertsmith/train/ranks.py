"""The ranks of a run: the processes that train one model together, on one machine or on many.

Every rank has the whole model (or, sharded, a part of every weight) and takes its share of each
optimizer step. Rank 0, the first, also holds the run folder, writes and talks. A process that
torchrun did not start is `Alone`; nothing of several ranks is loaded or done then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from bertsmith.errors import ConfigError

Item = TypeVar("Item")

# What torchrun tells a process; the last two say where the ranks meet.
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_VARIABLES = (*_OF_RANKS, "MASTER_ADDR", "MASTER_PORT")


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


@dataclass(frozen=True)
class Place:
    """The place of this process among those that torchrun has started."""

    rank: int
    count: int
    local_rank: int = 0
    local_count: int = 1  # ranks on this machine
    restarts: int = 0  # how often torchrun has started the ranks again

    @property
    def threads(self) -> int:
        """Returns how many threads a rank of this machine may take for all to have as many."""
        return max(1, (os.cpu_count() or 1) // self.local_count)


def place_of_this_process(environment: Mapping[str, str] = os.environ) -> Place:
    """Returns the place that torchrun has given this process, or that of a process alone.

    Raises:
        ConfigError: only a part of what torchrun sets is set.
    """
    if not any(name in environment for name in _OF_RANKS):
        return Place(0, 1)
    missing = [name for name in _VARIABLES if name not in environment]
    if missing:
        there = [name for name in _OF_RANKS if name in environment]
        raise ConfigError(
            f"environment: {', '.join(there)} is set but {', '.join(missing)} is not; expected all "
            f"of them or none: start the ranks by torchrun, or unset {' '.join(there)} for one"
        )
    numbers = []
    for name in (*_OF_RANKS, "TORCHELASTIC_RESTART_COUNT"):
        value = environment.get(name, "0")
        if not value.isdecimal():
            raise ConfigError(
                f"environment: {name} is {value!r}; expected a whole number, as torchrun sets it"
            )
        numbers.append(int(value))
    rank, count, local_rank, local_count, restarts = numbers
    if not (rank < count and local_rank < local_count <= count):
        raise ConfigError(
            f"environment: RANK is {rank} of WORLD_SIZE {count} and LOCAL_RANK {local_rank} of "
            f"LOCAL_WORLD_SIZE {local_count}; expected each below the number after it: start the "
            f"ranks by torchrun"
        )
    return Place(rank, count, local_rank, local_count, restarts)


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
