"""Weights too many for one device: every rank keeps a part of each, by FSDP2.

The first rank has besides, in its machine's memory, the whole run. Weights and optimizer go from
there to the shards at the start, and back before they are written: so a checkpoint does not show
how many ranks wrote it, and goes on with any other number, or on one device.

Source: `torch.distributed.fsdp.fully_shard`; Zhao et al. 2023 (arXiv 2304.11277) for the idea.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from bertsmith.train.checkpoint import tensors_of
from bertsmith.train.loop import Run


def shard(model: nn.Module, num_ranks: int) -> None:
    """Cuts the weights of `model`, which has shapes alone, into shards of unset memory, in place.

    The blocks of each `nn.ModuleList` are brought together one at a time as they are needed, and
    what stands around them for the whole of a step. Gradients are summed over the ranks.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (num_ranks,))
    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=device)


def scatter(whole: Run | None, sharded: Run) -> None:
    """Copies weights and optimizer of the first rank's `whole` run into the shards of all ranks."""
    sources = tensors_of(whole) if whole is not None else {}
    with torch.no_grad():
        for name, target in tensors_of(sharded).items():
            source = sources.get(name)
            if isinstance(target, DTensor):
                if source is None:  # of a rank that only receives
                    source = torch.empty(target.shape, dtype=target.dtype)
                source = source.detach().to(target.device)
                target.copy_(distribute_tensor(source, target.device_mesh, target.placements))
            else:
                _copy_from_first(source, target)


def gather(sharded: Run, whole: Run | None) -> None:
    """Copies the shards of all ranks into the first rank's `whole` run, one tensor at a time."""
    for part in sharded.model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # a forward pass without a backward one leaves the outermost part whole
    targets = tensors_of(whole) if whole is not None else {}
    with torch.no_grad():
        for name, source in tensors_of(sharded).items():
            full = source.full_tensor() if isinstance(source, DTensor) else source
            if name in targets:
                targets[name].copy_(full)
    if whole is not None:
        whole.step = sharded.step


def _copy_from_first(source: Tensor | None, target: Tensor) -> None:
    """Copies what is the same on all ranks, such as the optimizer's count of steps."""
    if source is not None:
        target.copy_(source)
    torch.distributed.broadcast(target, 0)
