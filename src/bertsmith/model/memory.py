"""The memory of this machine: whether a model fits, and how a process keeps what it frees.

Every step takes and frees the same hundreds of megabytes. By default glibc gives large pieces back
at once, and the kernel clears each of their pages anew when the next step asks: 50,000 page faults
in a step of 4,096 tokens at L=4, H=256, which is 7% of its processor time, on one core.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from bertsmith.config import EncoderConfig
from bertsmith.errors import ConfigError

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def refuse_what_does_not_fit(config: EncoderConfig) -> None:
    """Checks, before any is taken, that the weights of an encoder fit into this machine's memory.

    Raises:
        ConfigError: they do not; the message gives both numbers.
    """
    needed = 4 * config.encoder_weights  # fp32
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"the weights alone of an encoder of vocab_size {config.vocab_size}, hidden_size "
            f"{config.hidden_size}, intermediate_size {config.intermediate_size} and "
            f"num_hidden_layers {config.num_hidden_layers} take {needed / 1e9:,.0f} GB; this "
            f"machine has {there / 1e9:,.0f} GB: choose a smaller size"
        )


def available_bytes() -> int:
    """Returns how much memory programs can still take, what the kernel only caches included."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):  # not Linux: what is free, which is less
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, up to 2 GiB; returns whether the C library can do so.

    It is for processes that train or that answer many batches. Results do not change; the most
    memory that is held hardly does.
    """
    try:
        configure = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(configure(_MMAP_MAX, 0)) and bool(configure(_TRIM_THRESHOLD, 2**31 - 1))
