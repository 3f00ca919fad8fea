"""One run broken a hundred times, and the same run unbroken: do they end with the same weights?

    mount -t tmpfs -o size=96m tmpfs /mnt/small
    python benchmarks/kills.py --corpus PREPARED --out /mnt/small

SIGKILL, SIGTERM and a full disk take turns, each at a random moment after the run has saved once
more; every time the same command goes on with `--resume`. The disk is full in earnest: a file takes
all the room that the file system has left, so give a small one of its own. Besides weights, the
rows of metrics.jsonl are compared, all but their times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bertsmith.storage import sha256_of

TURNS = ("SIGKILL", "SIGTERM", "full disk")
LARGEST_FILE_SYSTEM = 1 << 30  # bytes that are filled without asking
QUIET = subprocess.DEVNULL
TIMES = {"seconds", "tokens_per_second", "time"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="what `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder on a small file system")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--size", default="L2-H64")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    options = parser.parse_args()
    if shutil.disk_usage(options.out).total > LARGEST_FILE_SYSTEM:
        parser.error(f"{options.out}: its file system would be filled; give one below 1 GB")
    whole, broken = options.out / "unbroken", options.out / "broken"
    started = time.monotonic()
    if code := finished(command(options, whole)):
        sys.exit(f"the unbroken run ended with status {code}")
    seconds = time.monotonic() - started
    ends = break_often(options, broken, seconds)
    differing = [name for name in files_of(whole) if not same(whole / name, broken / name)]
    print(
        json.dumps(
            {
                "faults": sum(ends.values()),
                "ends": {f"{fault}: {status}": times for (fault, status), times in ends.items()},
                "steps": options.steps,
                "seconds_unbroken": round(seconds, 1),
                "weights_equal": not differing,
                "files_that_differ": differing,
                "metrics_equal": metrics_of(broken) == metrics_of(whole),
            },
            indent=2,
        )
    )


def break_often(options: argparse.Namespace, out: Path, seconds: float) -> Counter[tuple[str, int]]:
    """Breaks the run again and again, then lets it end; returns what it ended with each time."""
    rng = random.Random(options.seed)
    ends: Counter[tuple[str, int]] = Counter()
    number = 0
    while number < options.faults:
        fault = TURNS[number % len(TURNS)]
        before = newest_step(out)
        child = subprocess.Popen(command(options, out), stdout=QUIET, stderr=QUIET)
        wait_for_progress(child, out, before)
        time.sleep(rng.uniform(0, seconds / options.faults))  # so half of the run is left
        if child.poll() is not None:
            sys.exit(f"the run ended after {number} faults; give more steps")
        ends[fault, strike(child, fault, options.out)] += 1
        number += 1
        said = f"{number} faults, at step {newest_step(out)} of {options.steps}"
        print(said, file=sys.stderr, flush=True)
    if code := finished(command(options, out)):
        sys.exit(f"the last sitting ended with status {code}")
    return ends


def strike(child: subprocess.Popen[bytes], fault: str, disk: Path) -> int:
    """Does to a run what the fault says; returns the status that it ended with."""
    if fault != "full disk":
        child.send_signal(getattr(signal, fault))
        return child.wait()
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while child.poll() is None:  # what the run gives back is taken as well
                try:
                    file.write(bytes(1 << 16))
                except OSError:
                    time.sleep(0.01)
        return child.wait()
    finally:
        ballast.unlink()


def finished(run: list[str]) -> int:
    """Lets a run go on to its end; returns its exit status."""
    return subprocess.run(run, stdout=QUIET, stderr=QUIET).returncode


def wait_for_progress(child: subprocess.Popen[bytes], out: Path, before: int) -> None:
    """Waits until the run has saved one more checkpoint, or has ended."""
    while newest_step(out) <= before and child.poll() is None:
        time.sleep(0.02)


def newest_step(out: Path) -> int:
    """Returns the step of the newest checkpoint, 0 where there is none."""
    return max((int(path.name[5:]) for path in out.glob("checkpoints/step-*")), default=0)


def command(options: argparse.Namespace, out: Path) -> list[str]:
    settings = {
        "size": options.size,
        "steps": options.steps,
        "sequence-length": 64,
        "long-sequence-length": 64,
        "tokens-per-batch": 512,
        "threads": 1,
        "checkpoint-every": max(1, options.steps // 400),
        "evaluate-every": options.steps // 4,
        "evaluate-examples": 64,
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    run = [sys.executable, "-m", "bertsmith", "pretrain", str(options.corpus), "--out", str(out)]
    return [*run, "--resume", "--json", *flags]


def files_of(run: Path) -> list[str]:
    """Returns the files that must come out alike: weights, optimizer and vocabulary."""
    last = f"checkpoints/step-{newest_step(run):08d}"
    names = [f"{last}/model.safetensors", f"{last}/optimizer.safetensors"]
    return [*names, "model/model.safetensors", "model/vocab.txt"]


def same(first: Path, second: Path) -> bool:
    return second.is_file() and sha256_of(first) == sha256_of(second)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
