"""Stopping on request: a signal sets a flag that the run reads between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


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
        if threading.current_thread() is threading.main_thread():
            for asked, handler in (
                (signal.SIGINT, self._on_stop),
                (signal.SIGTERM, self._on_stop),
                (signal.SIGHUP, self._on_stop),
                (signal.SIGUSR1, self._on_save),
            ):
                if asked is signal.SIGHUP and signal.getsignal(asked) is signal.SIG_IGN:
                    continue
                self._before[asked] = signal.signal(asked, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for asked, handler in self._before.items():
            signal.signal(asked, handler)

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
