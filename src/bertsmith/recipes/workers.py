"""Work on a stream of items, shared out to processes, its results in the order of the items.

A thread here sends a process its item and waits for the result, so that it is known at every moment
which process has which item: one that was killed, has ended or hangs is told with its item.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from bertsmith.cores import usable_cores
from bertsmith.errors import BertsmithError

Item = TypeVar("Item")
Result = TypeVar("Result")

_BEGINNING_SECONDS = 600.0  # for a process to start and import what it needs
_PATIENCE_SECONDS = 600.0


def map_in_order(
    work: Callable[[Item], Result],
    items: Iterator[Item],
    workers: int | None,
    *,
    name_of: Callable[[Item], str] = lambda _: "its item",
    timeout_seconds: float = _PATIENCE_SECONDS,
) -> Iterator[Result]:
    """Yields `work(item)` for each item, in order; at most two more than the workers are in flight.

    `work` is sent to each process once, so it may hold much; it must be picklable. With one worker,
    or a single item, all is done in this process. Without `workers` there is one for each core.

    Raises:
        BertsmithError: a process was killed, ended, or took longer than `timeout_seconds` for one
            item; the message names process and item. The other processes are ended.
    """
    workers = workers or usable_cores()
    first = list(_take(items, 2))
    items = chain(first, items)
    if workers == 1 or len(first) < 2:  # starting a process would take longer
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    crew = _Crew(work, workers, name_of, timeout_seconds)
    try:
        for item in items:
            waiting.append(crew.submit(item))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        crew.end()


def _take(items: Iterator[Item], most: int) -> Iterator[Item]:
    for _, item in zip(range(most), items, strict=False):
        yield item


# ---------------------------------------------------------------------------------- this side


class _Crew(Generic[Item, Result]):
    """Processes, and as many threads, each of which waits for one of them at a time."""

    def __init__(
        self,
        work: Callable[[Item], Result],
        workers: int,
        name_of: Callable[[Item], str],
        timeout_seconds: float,
    ) -> None:
        self._work = work
        self._most = workers
        self._name_of = name_of
        self._timeout_seconds = timeout_seconds
        self._workers: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def submit(self, item: Item) -> Future[Result]:
        """Returns the result to come."""
        if len(self._workers) < self._most:
            self._workers.append(_Worker(self._work))
            self._idle.put(self._workers[-1])
        return self._threads.submit(self._do, item)

    def end(self) -> None:
        """Ends all processes, whatever they are at; waits until they and the threads are gone."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.join()

    def _do(self, item: Item) -> Result:
        worker = self._idle.get()
        try:
            return worker.ask(item, self._name_of(item), self._timeout_seconds)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, and this side's end of the pipe to it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        context = get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, work), daemon=True)
        self._process.start()
        other.close()
        self._has_begun = False

    def ask(self, item: Any, name: str, timeout_seconds: float) -> Any:
        """Returns the work's result; raises what it raised, or BertsmithError where none comes."""
        if not self._has_begun:
            with self._watched(name, _BEGINNING_SECONDS):
                self._has_begun = self._pipe.recv()
        with self._watched(name, timeout_seconds):
            self._pipe.send(item)
            has_result, answer = self._pipe.recv()
        if not has_result:
            raise answer
        return answer

    @contextmanager
    def _watched(self, name: str, seconds: float) -> Iterator[None]:
        """Ends the process if the body takes longer; tells of a process that has ended."""
        is_overdue = threading.Event()

        def end_overdue() -> None:
            is_overdue.set()
            self.kill()

        watchdog = threading.Timer(seconds, end_overdue)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except (EOFError, OSError):
            self._process.join()
            raise BertsmithError(self._loss(name, seconds, is_overdue.is_set())) from None
        finally:
            watchdog.cancel()

    def _loss(self, name: str, seconds: float, is_overdue: bool) -> str:
        worker = f"{name}: worker process {self._process.pid}"
        if is_overdue:
            return (
                f"{worker} had not done its work after {seconds:g} seconds and was ended; "
                f"nothing was written: try again, with fewer --workers or a longer --worker-timeout"
            )
        return (
            f"{worker} ended before its work was done: {_reason(self._process.exitcode)}; nothing "
            f"was written: try again, with fewer --workers"
        )

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def join(self) -> None:
        """Waits until the process has ended."""
        self._process.join()
        self._pipe.close()


def _reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with suppress(ValueError):
            name = signal.Signals(-exit_code).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            return f"it was killed by {name}{hint}"
    return f"it ended with status {exit_code}"


# ---------------------------------------------------------------------------------- the other side


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Says when it has begun; answers each item with (True, result) or (False, error)."""
    for asked in (signal.SIGINT, signal.SIGHUP):  # the terminal's are the parent's to handle
        signal.signal(asked, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(True)
    with suppress(EOFError):  # the pipe was closed
        while True:
            item = pipe.recv()
            try:
                answer = (True, work(item))
            except BaseException as error:  # raised again on the other side, whatever it is
                answer = (False, error)
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
