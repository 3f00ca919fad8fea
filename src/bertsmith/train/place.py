"""The place of a process among those that torchrun has started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from bertsmith.cores import usable_cores
from bertsmith.errors import ConfigError

# What torchrun tells a process; the last two say where the ranks meet.
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_VARIABLES = (*_OF_RANKS, "MASTER_ADDR", "MASTER_PORT")


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
        return max(1, usable_cores() // self.local_count)


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
