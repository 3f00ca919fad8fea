"""`bertsmith` as a rank among several, with a fault on one of them at one step.

python ranks_program.py RANK:STEP:KIND ARGUMENT...

KIND is what befalls that rank after its optimizer has moved STEP times: `killed` (SIGKILL, and not
again once torchrun has restarted it), `frozen` (SIGSTOP), `asked` (SIGTERM), `nan` (its next loss),
`full` (it can write no file of more than 4 kB from then on) or `none`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from bertsmith.cli import main
from bertsmith.model.heads import BertForPreTraining

SIGNALS = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP, "asked": signal.SIGTERM}


def befall(step: int, kind: str) -> None:
    done = 0

    def after_step(*_: Any) -> None:
        nonlocal done
        done += 1
        if done == step and kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[kind])
        if done == step and kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    def after_forward(module: torch.nn.Module, _: Any, sums: Any) -> Any:
        if done == step and kind == "nan" and isinstance(module, BertForPreTraining):
            return {name: value * float("nan") for name, value in sums.items()}
        return None

    register_optimizer_step_post_hook(after_step)
    register_module_forward_hook(after_forward)


if __name__ == "__main__":
    rank, step, kind = sys.argv[1].split(":")
    is_first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if rank == os.environ.get("RANK") and is_first_life:
        befall(int(step), kind)
    sys.exit(main(sys.argv[2:]))
