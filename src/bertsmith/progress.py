"""What a waiting person sees: a bar on a terminal, plain lines elsewhere, on standard error.

Where nobody can see it any more (the terminal is closed, the reader of a pipe has gone, the disk
behind it is full) the work goes on in silence.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_BAR_SECONDS = 0.5  # between two drawings of the bar
_LINE_SECONDS = 15.0  # between two plain lines
_PATIENCE_SECONDS = 3.0  # for which nobody wants to be told anything


class ProgressLine:
    """Shows how far a run is and how it fares, within a `with` block."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        is_closed = self._stream is None  # as by `2>&-`; rich would write to standard output
        self._console = _Console(
            file=self._stream, highlight=False, soft_wrap=True, quiet=is_closed
        )
        self._bar = Progress(
            TextColumn("{task.percentage:3.0f}%"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=self._console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=1.0)
        self._shown = -1e9

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            with self._unless_gone():
                self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            with self._unless_gone():
                self._bar.stop()

    def say(self, message: str) -> None:
        """Prints one line that stays."""
        with self._unless_gone():
            self._console.print(message, markup=False)

    def show(self, done: float | None, line: str) -> None:
        """Shows now and then that a share `done` of the work lies behind, with `line` beside it.

        `done` is None where the whole is not known.
        """
        now = time.monotonic()
        is_terminal = self._console.is_terminal
        is_last = done is not None and done >= 1
        if not is_last and now - self._shown < (_BAR_SECONDS if is_terminal else _LINE_SECONDS):
            return
        self._shown = now
        if is_terminal:
            with self._unless_gone():
                self._bar.update(self._task, completed=done, description=line, refresh=True)
        else:
            self.say(line if done is None else f"{done:4.0%}  {line}")

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Lets its body write; once that fails, all that is written from then on goes nowhere."""
        try:
            yield
        except OSError:
            self._console.quiet = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())  # what is buffered must go somewhere
            except (io.UnsupportedOperation, ValueError):  # no file of the operating system's
                pass
            finally:
                os.close(nowhere)


class Tally:
    """Counts what has been done, within a `with` block, and shows it where it takes a while."""

    def __init__(self, things: str, stream: TextIO | None = None) -> None:
        self.count = 0
        self.tokens = 0
        self._things = things
        self._progress = ProgressLine(stream)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def add(self, count: int, tokens: int) -> None:
        """Takes in what has been done since, and shows how it goes once a few seconds are over."""
        self.count += count
        self.tokens += tokens
        seconds = time.monotonic() - self._started
        if seconds >= _PATIENCE_SECONDS:
            self._progress.show(
                None,
                f"{self.count:,} {self._things}, {self.count / seconds:,.0f} {self._things}/s, "
                f"{self.tokens / seconds:,.0f} tokens/s",
            )


class _Console(Console):
    """A console that hands a broken pipe on, where rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that rich is handling


def duration(seconds: float) -> str:
    """Returns seconds as '42s', '3m05s' or '2h07m'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
