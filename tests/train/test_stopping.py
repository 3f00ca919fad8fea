"""Signals become flags, and handlers are put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bertsmith.errors import StoppedError
from bertsmith.train.stopping import StopRequests, stopped_at_once

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
TWICE = """
import os, signal
from bertsmith.train.stopping import StopRequests
with StopRequests() as requests:
    os.kill(os.getpid(), signal.SIGTERM)
    print(requests.stop, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("never printed", flush=True)
"""

TWICE_AT_ONCE = """
import os, pathlib, signal
from bertsmith.train.stopping import stopped_at_once
with stopped_at_once(pathlib.Path("run")):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("saves what it has", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("never printed", flush=True)
"""


@pytest.mark.parametrize("asked", STOPS)
def test_a_signal_sets_a_flag_and_the_handler_is_put_back(asked: signal.Signals) -> None:
    before = signal.getsignal(asked)
    with StopRequests() as requests:
        assert requests.stop == ""
        os.kill(os.getpid(), asked)
        assert requests.stop == asked.name
    assert signal.getsignal(asked) is before


@pytest.mark.parametrize("asked", STOPS)
def test_where_nothing_is_saved_a_signal_ends_the_work(asked: signal.Signals) -> None:
    before = signal.getsignal(asked)
    with (
        pytest.raises(StoppedError, match=f"run: stopped by {asked.name} .* with --resume"),
        stopped_at_once(Path("run")),
    ):
        os.kill(os.getpid(), signal.SIGUSR1)  # there is nothing to save
        with StopRequests() as requests:
            os.kill(os.getpid(), asked)
        assert requests.stop == asked.name
        os.kill(os.getpid(), asked)
        raise AssertionError("the signal has ended nothing")
    assert signal.getsignal(asked) is before


@pytest.mark.parametrize(
    ("program", "said"), [(TWICE, "SIGTERM\n"), (TWICE_AT_ONCE, "saves what it has\n")]
)
def test_a_second_signal_ends_the_process_at_once(program: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, said)


def test_under_nohup_a_closed_terminal_is_no_request() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            assert requests.stop == ""
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_save_asked_for_is_taken_once() -> None:
    with StopRequests() as requests:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert [requests.take_save(), requests.take_save()] == [True, False]
        assert requests.stop == ""


def test_outside_the_main_thread_the_flags_stay_down() -> None:
    seen: list[str] = []

    def work() -> None:
        with StopRequests() as requests:
            seen.append(requests.stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [""]
