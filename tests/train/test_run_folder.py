"""The lock, the settings and the metrics of a run folder."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertsmith.errors import ConfigError, DataError, FolderInUseError, StorageError
from bertsmith.train.run_folder import open_run_folder, read_metrics

HOLD = """
import sys, time
from pathlib import Path
from bertsmith.train.run_folder import open_run_folder
with open_run_folder(Path(sys.argv[1]), resume=True):
    print("held", flush=True)
    time.sleep(60)
"""


def silent(message: str) -> None:
    pass


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    source = str(Path(__file__).parents[2] / "src")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
    expected = rf"in use by process {holder.pid} on \S+ since \d{{4}}-.*; wait for it or choose"
    with (
        pytest.raises(FolderInUseError, match=expected),
        open_run_folder(tmp_path, resume=True),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with open_run_folder(tmp_path, resume=True) as folder:  # what the dead process left is taken
        assert folder.path == tmp_path


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(FolderInUseError, match=r"holds thesis\.txt, and no run; choose another"),
        open_run_folder(tmp_path, resume=False),
    ):
        pass
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_folder_that_holds_a_run_is_gone_on_with_by_resume_alone(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, resume=False) as folder:
        folder.log({"step": 1})
    with (
        pytest.raises(FolderInUseError, match=r"holds metrics\.jsonl; go on .* by --resume"),
        open_run_folder(tmp_path, resume=False),
    ):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_on_a_disk_without_locks_a_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.warns(RuntimeWarning, match="this disk knows no locks"),
        open_run_folder(tmp_path / "run", resume=False) as folder,
    ):
        folder.log({"step": 1})


def test_a_run_that_died_before_it_began_does_not_hold_its_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with open_run_folder(tmp_path / "run", resume=False):
            pass


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for name in (".tmp-settings.json-1", "checkpoints/.tmp-step-00000001-2"):
        (tmp_path / name).mkdir(parents=True)
    with open_run_folder(tmp_path, resume=True):
        assert sorted(os.listdir(tmp_path)) == ["checkpoints", "run.lock"]
        assert not os.listdir(tmp_path / "checkpoints")


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="Not a directory"),
        open_run_folder(tmp_path / "file" / "run", resume=False),
    ):
        pass


def test_changed_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, resume=True) as folder:
        folder.settle({"size": "mini", "seed": 0, "steps": 5}, may_change={"steps"}, say=silent)
        with pytest.raises(
            ConfigError, match=re.escape("(seed: 0 -> 1; size: 'mini' -> 'tiny'): repeat those")
        ):
            folder.settle({"size": "tiny", "seed": 1, "steps": 5}, may_change={"steps"}, say=silent)


def test_settings_that_may_change_are_said_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    with open_run_folder(tmp_path, resume=True) as folder:
        folder.settle({"seed": 0, "steps": 5}, may_change={"steps"}, say=silent)
        folder.settle({"seed": 0, "steps": 9}, may_change={"steps"}, say=said.append)
        folder.settle({"seed": 0, "steps": 9}, may_change={"steps"}, say=said.append)
    assert said == ["goes on with a changed setting: steps: 5 -> 9"]


def test_a_setting_that_an_older_run_does_not_name_has_the_value_given_for_it(
    tmp_path: Path,
) -> None:
    with open_run_folder(tmp_path / "run", resume=False) as folder:
        folder.settle({"steps": 3}, may_change=(), say=silent)
        now = {"steps": 3, "objective": "mlm"}
        with pytest.raises(ConfigError, match="objective: 'mlm' -> 'lm'"):
            folder.settle(now | {"objective": "lm"}, may_change=(), say=silent, unnamed=now)
        folder.settle(now, may_change=(), say=silent, unnamed=now)


def test_metrics_after_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, resume=True) as folder:
        rows = [{"step": step, "loss": 1 / step} for step in range(1, 8)]
        for row in rows:
            folder.log(row)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 8, "lo')  # the process was killed in this row
        folder.forget_after(4)
        assert folder.metrics() == rows[:4]
        folder.log(rows[4])
        assert folder.metrics() == rows[:5]


def test_metrics_that_cannot_be_written_are_a_storage_error(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, resume=True) as folder:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device; .* free"):
            folder.log({"step": 1})


def test_a_row_that_a_full_disk_cuts_short_is_taken_back(tmp_path: Path) -> None:
    """A limit on the file's size takes a part of the row and refuses the rest, as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_run_folder(tmp_path, resume=True) as folder:
        folder.log({"step": 1})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))
            with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written \(File too"):
                folder.log({"step": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert (tmp_path / "metrics.jsonl").stat().st_size == size
        folder.log({"step": 3})
        assert folder.metrics() == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("line", ['{"step": 2, "lo', "[2]", '{"loss": 1.0}', "\0\0\0"])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: is no row of metrics; .* remove that"):
        read_metrics(tmp_path)
