"""What is shown while a run goes on."""

from __future__ import annotations

import os
import sys
from io import StringIO

import pytest

from bertsmith.progress import ProgressLine, Tally, duration


def test_plain_lines_are_written_where_there_is_no_terminal() -> None:
    stream = StringIO()
    with ProgressLine(stream) as progress:
        progress.say("reads [MASK] as it is")
        progress.show(0.25, "loss 7.12")
        progress.show(0.26, "too soon for another line")
        progress.show(1.0, "loss 6.90")
    assert stream.getvalue() == "reads [MASK] as it is\n 25%  loss 7.12\n100%  loss 6.90\n"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(41.7, "42s"), (185, "3m05s"), (7620, "2h07m"), (-3, "0s")]
)
def test_durations_are_short(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_reader_that_has_gone_is_not_missed() -> None:
    """As in `bertsmith pretrain ... 2>&1 | head`, or where a terminal was closed."""
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        progress = ProgressLine(stream)
        with progress:
            progress.say("heard")
            os.close(reader)
            progress.say("unheard")
            progress.show(0.5, "unheard")
        assert os.fstat(stream.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_full_disk_behind_standard_error_does_not_stop_the_work() -> None:
    with open("/dev/full", "w") as stream, ProgressLine(stream) as progress:
        progress.say("unheard")
        progress.show(1.0, "unheard")


def test_with_standard_error_closed_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `2>&-`, where Python has no standard error; the result alone is on standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressLine() as progress:
        progress.say("unheard")
        progress.show(1.0, "unheard")
    assert capsys.readouterr().out == ""


def test_a_tally_is_silent_until_it_takes_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    now = 100.0
    monkeypatch.setattr("bertsmith.progress.time.monotonic", lambda: now)
    with Tally("texts", stream) as tally:
        now += 2.5
        tally.add(500, 10_000)
        assert stream.getvalue() == ""
        now += 2.5
        tally.add(500, 10_000)
    assert stream.getvalue() == "1,000 texts, 200 texts/s, 4,000 tokens/s\n"
    assert (tally.count, tally.tokens) == (1000, 20_000)
