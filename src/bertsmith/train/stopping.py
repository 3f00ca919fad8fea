"""Stopping on request: a signal sets a flag that a run reads between two steps.

Where nothing is trained, so that there is nothing to save, it ends the work at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from bertsmith.errors import StoppedError

Handler = Callable[[int, FrameType | None], None]

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Turns signals into flags while its `with` block runs, then puts the old handlers back.

    SIGINT and SIGTERM ask the run to save and stop, and so does SIGHUP, which comes when a terminal
    is closed; under `nohup` that one is ignored, and the run goes on. A second one ends the process
    at once, which a checkpoint written whole or not at all survives. SIGUSR1 asks it to save and go
    on. Outside the main thread Python allows no handlers, and the flags stay down.
    """

    def __init__(self) -> None:
        self.stop = ""  # the name of the signal that asked
        self._save = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = _set(dict.fromkeys(_STOPS, self._on_stop) | {signal.SIGUSR1: self._on_save})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _put_back(self._before)

    def ask_save(self) -> None:
        """Asks for a save, as SIGUSR1 does."""
        self._save = True

    def take_save(self) -> bool:
        """Returns whether a save was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            os._exit(128 + number)
        self.stop = signal.Signals(number).name

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self._save = True


@contextmanager
def stopped_at_once(out: Path) -> Iterator[None]:
    """Lets a signal that asks to stop end the body at once, by an error; a second one the process.

    It is for work before and between the trainings of a run in `out`: what that has saved stands,
    the rest is done again. Within it, `StopRequests` set their flags as ever; SIGUSR1 is passed
    over, as there is nothing to save. Outside the main thread it changes nothing.

    Raises:
        StoppedError: a signal asked for it.
    """
    asked = ""

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = signal.Signals(number).name
        raise StoppedError(
            f"{out}: stopped by {asked} while nothing was trained; what is saved stands, and the "
            f"same command with --resume goes on"
        )

    before = _set(dict.fromkeys(_STOPS, stop) | {signal.SIGUSR1: lambda number, frame: None})
    try:
        yield
    finally:
        _put_back(before)


def _set(handlers: Mapping[signal.Signals, Handler]) -> dict[signal.Signals, Any]:
    """Sets handlers where they are allowed; returns those that they replace.

    A terminal's closing that is ignored, as under `nohup`, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        asked: signal.signal(asked, handler)
        for asked, handler in handlers.items()
        if asked is not signal.SIGHUP or signal.getsignal(asked) is not signal.SIG_IGN
    }


def _put_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for asked, handler in handlers.items():
        signal.signal(asked, handler)
