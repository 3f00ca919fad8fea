"""Processes that write checkpoints and are killed at the k-th call that makes something durable.

    python writer.py FOLDER

For k = 1, 2, .. a process saves steps 1, 2, 3 of a toy run in FOLDER/k, keeping two, and kills
itself just before the k-th sync, rename or removal of the third save; the first k that it survives
is the last. Prints one line a process: k and how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.train.toys import Toy, toy_run

from bertsmith.train.checkpoint import purge_checkpoints, save_checkpoint


def write(folder: Path, kill_at: int) -> None:
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += run.step == 3
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return wrapped

    run = toy_run(Toy())
    # A kill loses no pages, so that nothing need wait for the disk.
    setattr(os, "fsync", lambda descriptor: None)  # noqa: B010
    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    for step in (1, 2, 3):
        run.step = step
        save_checkpoint(folder, run, {"position": step * 10})
        purge_checkpoints(folder, keep=2)


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    toy_run(Toy())  # the first step of an optimizer loads modules for seconds
    kill_at, status = 0, -1
    while status != 0:
        kill_at += 1
        child = os.fork()
        if not child:
            write(folder / str(kill_at), kill_at)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(kill_at, status, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
