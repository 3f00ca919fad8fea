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
    """How many seconds the end of a run will take, by what its parts took the last time."""

    def __init__(self, seconds: float = 0.0) -> None:
        """Takes what earlier sittings thought, which holds until two parts have been seen."""
        self.seconds = self._least = seconds
        self._latest: dict[str, float] = {}
        self._has_begun = False

    def took(self, part: str, seconds: float) -> None:
        """Takes in how long a part of it has taken, or is thought to take."""
        self._latest[part] = seconds
        if len(self._latest) == 2 and not self._has_begun:
            self._least = 0.0
        self.seconds = max(self._least, sum(self._latest.values()))

    def begin(self) -> None:
        """Says that the end has begun: from now on it takes no less, so that it stays the end."""
        self._has_begun, self._least = True, self.seconds


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
        if furthest >= 1:
            ending.begin()
        return furthest

    return pace
