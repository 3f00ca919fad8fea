"""The fastest matrix product of a device: the ceiling that the speed of any model stays under."""

from __future__ import annotations

import time

import torch

REPEATS = 5
SIZE_ON_CPU = 1024  # rows and columns: a product takes tens of milliseconds
SIZE_ON_GPU = 8192


def peak_flops(device: torch.device | str = "cpu") -> float:
    """Returns the operations a second of the best of five square products, in about 0.3 s.

    They are in the arithmetic that training is in: fp32 with torch's threads on a CPU, bfloat16 on
    a GPU. No random number is drawn.
    """
    device = torch.device(device)
    is_gpu = device.type == "cuda"
    size = SIZE_ON_GPU if is_gpu else SIZE_ON_CPU
    kind = torch.bfloat16 if is_gpu else torch.float32
    left = torch.full((size, size), 0.5, dtype=kind, device=device)
    best = float("inf")
    for _ in range(REPEATS + 1):  # one to warm up, which is never the best
        started = time.perf_counter()
        torch.mm(left, left)
        if is_gpu:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
