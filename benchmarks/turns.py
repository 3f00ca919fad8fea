"""Systems that are measured in turns, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


class Side:
    """One of them: it works for so many steps whenever it is its turn."""

    def __init__(self, serve: Callable[..., None], *given: Any) -> None:
        """Starts `serve(*given, pipe)`, which answers each number of steps until that is 0."""
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve, args=(*given, theirs), daemon=True)
        self._process.start()

    def run(self, steps: int) -> tuple[Any, float]:
        """Returns what was done in so many steps, and the seconds that they took."""
        self._pipe.send(steps)
        done, seconds = self._pipe.recv()
        return done, seconds

    def stop(self) -> None:
        """Ends the process."""
        self._pipe.send(0)
        self._process.join()
