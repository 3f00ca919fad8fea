"""How far a run is, by steps and by the clock."""

from __future__ import annotations

from bertsmith.train.pace import Stopwatch, by_steps, by_time


def test_a_run_by_steps_ends_after_them() -> None:
    pace = by_steps(8)
    assert [pace(0), pace(2), pace(8)] == [0.0, 0.25, 1.0]


def test_a_run_by_time_counts_earlier_sittings() -> None:
    assert 0.5 <= by_time(100.0, Stopwatch(50.0))(7) < 0.6
    assert by_time(100.0, Stopwatch(100.0))(7) >= 1.0


def test_a_run_by_time_does_one_step_whatever_the_time() -> None:
    assert by_time(0.001, Stopwatch(100.0))(0) == 0.0
    assert by_time(0.001, Stopwatch(100.0))(1) >= 1.0
