"""How many cores there are for this process; a container or `taskset` may leave it fewer."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
