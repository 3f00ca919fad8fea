"""How far a run is: by steps, or by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

Pace = Callable[[int], float]  # steps done -> share of the run done; 1 or more ends it


class Stopwatch:
    """Counts the seconds of a run over all its sittings, whatever happens to the wall clock."""

    def __init__(self, seconds_before: float = 0.0, began: float | None = None) -> None:
        """Starts to count.

        Args:
            seconds_before: of earlier sittings.
            began: when this one did, by `time.monotonic`; by default now.
        """
        self._started = (time.monotonic() if began is None else began) - seconds_before

    def seconds(self) -> float:
        """Returns the seconds since the start, those of earlier sittings included."""
        return time.monotonic() - self._started


class Ending:
    """How many seconds the end of a run will take, by what its parts have taken before."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds  # never fewer than before, so that what has ended stays ended
        self._longest: dict[str, float] = {}

    def took(self, part: str, seconds: float) -> None:
        """Takes in how long a part of it has taken, or is thought to take."""
        self._longest[part] = max(seconds, self._longest.get(part, 0.0))
        self.seconds = max(self.seconds, sum(self._longest.values()))


def by_steps(steps: int) -> Pace:
    """Returns the pace of a run that ends after `steps` optimizer steps."""
    return lambda done: done / steps


def by_time(budget_seconds: float, stopwatch: Stopwatch, ending: Ending | None = None) -> Pace:
    """Returns the pace of a run that ends with its budget, after a step or more.

    Steps end as long before that as the `ending` takes; the share done never falls.
    """
    ending = ending or Ending()
    furthest = 0.0

    def pace(done: int) -> float:
        nonlocal furthest
        if not done:
            return 0.0
        left = budget_seconds - ending.seconds
        furthest = max(furthest, stopwatch.seconds() / left if left > 0 else 1.0)
        return furthest

    return pace
