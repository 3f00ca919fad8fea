"""Scores a model on one file after another, and prints the peak of memory after each, in MB."""

from __future__ import annotations

import sys
from pathlib import Path

from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.tasks import pieces

WINDOW_ROWS = 512  # fewer than by default, so that fewer rows tell whether they are held


def peak_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux tells the peak in VmHWM")


if __name__ == "__main__":
    pieces.WINDOW_ROWS = WINDOW_ROWS
    model, *files = map(Path, sys.argv[1:])
    for data in files:
        rows = evaluate_task(model, data)["rows"]
        print(rows, peak_megabytes())
