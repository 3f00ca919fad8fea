"""What this machine and this installation can do, and what to install for the rest."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from bertsmith.cores import usable_cores

EXTRAS = {"report": ("matplotlib",)}
CORE = ("bertsmith", "torch", "numpy", "safetensors", "tokenizers", "pyarrow", "scikit-learn")


def describe() -> dict[str, Any]:
    """Returns versions, cores, memory, devices and the measured speed of a matrix product.

    `matmul_gflops` is the best of five fp32 products of 1024 x 1024 with torch's own threads: the
    ceiling that the speed of any model on this CPU stays under. `missing` says what to install.
    """
    import torch

    from bertsmith.model.peak import peak_flops

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: metadata.version(name) for name in CORE},
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "devices": _devices(torch),
        "matmul_gflops": round(peak_flops() / 1e9, 1),
        "missing": _missing(),
    }


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return 0


def _devices(torch: Any) -> list[str]:
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _missing() -> list[str]:
    """Returns the command that installs each extra whose packages are not there."""
    commands = []
    for extra, packages in EXTRAS.items():
        for package in packages:
            try:
                metadata.version(package)
            except metadata.PackageNotFoundError:
                commands.append(f"pip install 'bertsmith[{extra}]'")
                break
    return commands
