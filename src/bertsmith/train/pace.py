"""How far a run is: by steps, or by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

Pace = Callable[[int], float]  # steps done -> share of the run done; 1 or more ends it


class Stopwatch:
    """Counts the seconds of a run over all its sittings, whatever happens to the wall clock."""

    def __init__(self, seconds_before: float = 0.0) -> None:
        self._started = time.monotonic() - seconds_before

    def seconds(self) -> float:
        """Returns the seconds since the start, those of earlier sittings included."""
        return time.monotonic() - self._started


def by_steps(steps: int) -> Pace:
    """Returns the pace of a run that ends after `steps` optimizer steps."""
    return lambda done: done / steps


def by_time(budget_seconds: float, stopwatch: Stopwatch) -> Pace:
    """Returns the pace of a run that ends when `budget_seconds` are spent, after a step or more."""
    return lambda done: stopwatch.seconds() / budget_seconds if done else 0.0
