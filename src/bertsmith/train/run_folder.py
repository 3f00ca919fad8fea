"""The folder of one run: its lock, its settings and its metrics.

RUN/
  run.lock         who is at work in it
  settings.json    the resolved settings; `--config RUN/settings.json` runs them again
  metrics.jsonl    one JSON object a line, in the order of the steps
  checkpoints/     see `checkpoint.py`
  model/           the model folder of the newest state
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertsmith.errors import ConfigError, DataError, FolderInUseError
from bertsmith.storage import read_json, replace_file, storage_errors
from bertsmith.train.sealed import remove_unfinished

_LOCK, _SETTINGS, _METRICS = "run.lock", "settings.json", "metrics.jsonl"


class RunFolder:
    """The folder of a run that this process holds; made by `open_run_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"

    def settle(
        self,
        settings: Mapping[str, Any],
        *,
        may_change: Collection[str],
        say: Callable[[str], None],
        unnamed: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the settings, after comparing them with those that the run was begun with.

        Settings in `may_change` may differ from then, which is said; the others may not. A run that
        was begun before there was a setting has the value that `unnamed` gives it.

        Raises:
            ConfigError: another setting differs; the message lists each with both values.
        """
        path = self.path / _SETTINGS
        before = dict(settings)
        if path.exists():
            before = dict(unnamed or {}) | read_json(path)
        changes = {
            name: f"{name}: {before.get(name)!r} -> {settings.get(name)!r}"
            for name in sorted(before.keys() | settings.keys())
            if before.get(name) != settings.get(name)
        }
        refused = [change for name, change in changes.items() if name not in may_change]
        if refused:
            raise ConfigError(
                f"{self.path}: cannot go on with other settings than it was begun with "
                f"({'; '.join(refused)}): repeat those it has in {_SETTINGS}, "
                f"or start anew in another folder"
            )
        for change in changes.values():
            say(f"goes on with a changed setting: {change}")
        replace_file(path, (json.dumps(settings, indent=1) + "\n").encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one row to the metrics; a row is there whole or, after a fault, cut short.

        Raises:
            StorageError: it could not be written; what had been written of it is taken back.
        """
        path = self.path / _METRICS
        line = (json.dumps(row) + "\n").encode()
        with storage_errors(path, len(line)), path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                left = line
                while left:  # a disk that is nearly full takes a part, and refuses the rest
                    left = left[file.write(left) or 0 :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), before)
                raise

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the rows logged so far; see `read_metrics`."""
        return read_metrics(self.path)

    def forget_after(self, step: int) -> None:
        """Removes the metrics after `step`, which the resumed run will log again."""
        path = self.path / _METRICS
        if path.exists():
            rows = [row for row in self.metrics() if row["step"] <= step]
            replace_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the rows that a run has logged so far; a last row cut short by a fault is left out.

    The run may be at work meanwhile.

    Raises:
        DataError: a row before the last is none; the message names its line.
    """
    path = run / _METRICS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise DataError(
                f"{path}:{number}: is no row of metrics; expected a JSON object with a step: "
                f"remove that line, or restore the file from a copy"
            )
        rows.append(row)
    return rows


@contextmanager
def open_run_folder(path: Path, *, resume: bool) -> Iterator[RunFolder]:
    """Makes and locks the folder of a run for the length of a `with` block.

    With `resume` the folder may hold a run, finished, stopped or not yet begun. The lock is the
    operating system's and ends with the process: what a killed process leaves is taken over.

    On a disk that knows no locks, as some network disks, it is opened all the same, with a warning.

    Raises:
        FolderInUseError: another process holds it, or it holds something and `resume` is false.
        StorageError: it cannot be made.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        held = sorted(os.listdir(path))
        if held and not resume and _LOCK not in held:  # never a run's: nothing is left in it
            raise FolderInUseError(
                f"{path}: holds {_listed(held)}, and no run; choose another folder"
            )
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{path}: in use by {_holder(lock)}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            warnings.warn(
                f"{path}: this disk knows no locks; all works, but a second run in this folder "
                f"would not be refused: start none",
                RuntimeWarning,
                stacklevel=3,
            )
        held = sorted(set(os.listdir(path)) - {_LOCK})
        if held and not resume:
            raise FolderInUseError(
                f"{path}: holds {_listed(held)}; go on with that run by --resume, "
                f"or choose another folder"
            )
        with storage_errors(path):
            _sign(lock)
        for folder in (path, path / "checkpoints"):
            remove_unfinished(folder)
        yield RunFolder(path)
    finally:
        os.close(lock)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{', ..' if len(names) > 4 else ''}"


def _sign(lock: int) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(holder).encode(), 0)


def _holder(lock: int) -> str:
    try:
        holder = json.loads(os.pread(lock, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (ValueError, KeyError, TypeError):  # it has locked the file but not signed it yet
        return "another process"
