"""Work shared out to processes: in order, and told with its item where a process is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest

from bertsmith.errors import BertsmithError, DataError
from bertsmith.recipes.workers import map_in_order


def doubled(number: int) -> int:
    return 2 * number


def killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def ended(number: int) -> int:
    if number == 3:
        os._exit(0)
    return number


def hanging(number: int) -> int:
    if number == 3:
        time.sleep(600)
    return number


def stopped(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


def refusing(number: int) -> int:
    if number == 3:
        raise DataError("a.txt:3: is no number")
    return number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_in_order(doubled, iter(range(20)), workers)) == list(range(0, 40, 2))
    assert active_children() == []


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (killed, "ended before its work was done: it was killed by SIGKILL"),
        (ended, "ended before its work was done: it ended with status 0"),
        (hanging, "had not done its work after 3 seconds and was ended"),
        (stopped, "had not done its work after 3 seconds and was ended"),
    ],
)
def test_a_lost_worker_is_told_with_its_item_in_time(
    work: Callable[[int], int], told: str, tmp_path: Path
) -> None:
    done = []
    started = time.monotonic()
    with pytest.raises(BertsmithError, match=rf"corpus/a\.txt:3: worker process \d+ {told}"):
        for number in map_in_order(
            work,
            iter(range(20)),
            2,
            name_of=lambda number: f"corpus/a.txt:{number}",
            timeout_seconds=3.0,
        ):
            done.append(number)
    assert done == [0, 1, 2]
    assert time.monotonic() - started < 60
    assert active_children() == []


def test_what_the_work_raises_is_raised_here() -> None:
    with pytest.raises(DataError, match=r"^a\.txt:3: is no number$"):
        list(map_in_order(refusing, iter(range(20)), 2))
    assert active_children() == []


def test_workers_end_where_the_results_are_left() -> None:
    results = map_in_order(doubled, iter(range(20)), 2)
    assert next(results) == 0
    assert len(active_children()) == 2
    results.close()  # type: ignore[attr-defined]
    assert active_children() == []
