"""How far a run is, by steps and by the clock."""

from __future__ import annotations

import time

from bertsmith.train.pace import Ending, Stopwatch, by_steps, by_time


def test_a_run_by_steps_ends_after_them() -> None:
    pace = by_steps(8)
    assert [pace(0), pace(2), pace(8)] == [0.0, 0.25, 1.0]


def test_a_run_by_time_counts_earlier_sittings() -> None:
    assert 0.5 <= by_time(100.0, Stopwatch(50.0))(7) < 0.6
    assert by_time(100.0, Stopwatch(100.0))(7) >= 1.0


def test_a_run_by_time_does_one_step_whatever_the_time() -> None:
    assert by_time(0.001, Stopwatch(100.0))(0) == 0.0
    assert by_time(0.001, Stopwatch(100.0))(1) >= 1.0


def test_steps_end_as_long_before_the_budget_as_the_ending_takes() -> None:
    ending = Ending()
    pace = by_time(100.0, Stopwatch(80.0), ending)
    assert 0.8 <= pace(7) < 0.81
    ending.took("evaluating", 12.0)
    ending.took("saving", 9.0)
    assert pace(7) >= 1.0


def test_an_ending_takes_what_its_parts_took_the_last_time() -> None:
    ending = Ending(5.0)
    ending.took("saving", 2.0)
    assert ending.seconds == 5.0  # as long as evaluating is not known
    ending.took("evaluating", 4.0)
    assert ending.seconds == 6.0
    ending.took("evaluating", 1.0)
    assert ending.seconds == 3.0


def test_an_ending_that_has_begun_does_not_shrink() -> None:
    ending = Ending()
    ending.took("evaluating", 9.0)
    ending.took("saving", 2.0)
    assert by_time(100.0, Stopwatch(90.0), ending)(7) >= 1.0
    ending.took("evaluating", 1.0)
    assert ending.seconds == 11.0
    again = Ending(ending.seconds)  # of a sitting that goes on with what has ended
    assert by_time(100.0, Stopwatch(92.0), again)(7) >= 1.0


def test_the_share_done_never_falls() -> None:
    stopwatch = Stopwatch(60.0)
    pace = by_time(100.0, stopwatch)
    before = pace(3)
    stopwatch._started += 50.0
    assert pace(4) == before


def test_a_stopwatch_counts_from_when_the_command_began() -> None:
    assert 7.0 <= Stopwatch(5.0, time.monotonic() - 2.0).seconds() < 8.0
