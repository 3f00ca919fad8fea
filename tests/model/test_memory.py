"""Freed memory that stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from bertsmith.model.memory import available_bytes

PROGRAM = """
import resource, torch
from bertsmith.model.memory import keep_freed_memory
assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    return [torch.ones(1 << 22) for _ in range(10)]
for _ in range(6):  # until the heap has the shape that the work needs
    work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000  # 160 MiB are 40,960 pages


def test_available_memory_lies_between_nothing_and_all() -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_bytes() <= everything
