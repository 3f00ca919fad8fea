"""Work on a stream of items, shared out to processes, its results in the order of the items."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

from bertsmith.errors import BertsmithError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Iterator[Item], workers: int | None
) -> Iterator[Result]:
    """Yields `work(item)` for each item, in order; at most two more than the workers are in flight.

    `work` is sent to each process once, so it may hold much; it must be picklable. With one worker,
    or a single item, all is done in this process. Without `workers` there is one for each core.

    Raises:
        BertsmithError: a process was killed.
    """
    workers = workers or cores()
    first = list(_take(items, 2))
    items = chain(first, items)
    if workers == 1 or len(first) < 2:  # starting a process would take longer
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ExitStack() as stack:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (work,))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        try:
            for item in items:
                waiting.append(pool.submit(_do, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise BertsmithError(
                "a worker process ended before its work was done: it was killed, perhaps for want "
                "of memory; nothing was written: try again, with fewer --workers"
            ) from None


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _take(items: Iterator[Item], most: int) -> Iterator[Item]:
    for _, item in zip(range(most), items, strict=False):
        yield item


_work: Callable[[Any], Any] | None = None  # of this worker process


def _start(work: Callable[[Any], Any]) -> None:
    import signal

    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
