"""The toy run of `toy_runs.py` on several ranks, by torchrun or as processes of the test's own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipes.toy_runs import SETTINGS, environment

PROGRAM = Path(__file__).with_name("ranks_program.py")
SECONDS = 200  # after which a run that should have ended hangs


@dataclass(frozen=True)
class Ended:
    """What ranks have left behind, the first one first."""

    statuses: list[int]
    results: list[str]
    said: list[str]


def arguments(sources: Sequence[Path], out: Path, *flags: str, **changes: Any) -> list[str]:
    """Returns the command line of the toy run; its settings stand in a file beside `out`."""
    settings = {name: value for name, value in SETTINGS.to_mapping().items() if value is not None}
    path = out.with_name(f"{out.name}.json")
    path.write_text(json.dumps(settings | changes))
    texts = [str(source) for source in sources]
    return ["pretrain", *texts, "--out", str(out), "--config", str(path), "--json", *flags]


def start_ranks(
    command: list[str], *, fault: str = "0:0:none", count: int = 2
) -> list[subprocess.Popen[str]]:
    """Starts the ranks of one machine with the variables that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), fault, *command],
            env=environment()
            | {"RANK": str(rank), "WORLD_SIZE": str(count)}
            | {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def wait_for(ranks: Sequence[subprocess.Popen[str]]) -> Ended:
    """Returns what the ranks have said, once all have ended."""
    said = [rank.communicate(timeout=SECONDS) for rank in ranks]
    statuses = [rank.returncode for rank in ranks]
    return Ended(statuses, [out for out, _ in said], [error for _, error in said])


def run_ranks(command: list[str], *, fault: str = "0:0:none", count: int = 2) -> Ended:
    """Runs the ranks to their end; none is left behind."""
    ranks = start_ranks(command, fault=fault, count=count)
    try:
        return wait_for(ranks)
    finally:
        for rank in ranks:
            rank.kill()


def torchrun(program: Sequence[str], *options: str) -> subprocess.Popen[str]:
    """Starts two ranks by torchrun."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*run, *options, *program],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
