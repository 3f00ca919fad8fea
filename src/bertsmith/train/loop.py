"""The one training loop: pre-training and every task go through it.

A model that can be trained here returns sums by name from `forward`, and the number of things
summed from `counts`, under the same names. Names ending in `loss` are minimised: the objective is
the sum over them of total / count, counted over the whole optimizer step; a model may have
`loss_weights` by which the losses that they name count in it. So a step cut into parts
has the same gradient as one that is not, even when the parts hold different numbers of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bertsmith.errors import NotFiniteError
from bertsmith.train.optimizer import Schedule
from bertsmith.train.pace import Pace
from bertsmith.train.ranks import ALONE, Ranks

Batch = Mapping[str, Tensor]  # keys are the argument names of the model's forward


class Trainable(Protocol):
    """What the loop asks of a model, besides being an `nn.Module`."""

    def __call__(self, **batch: Tensor) -> Mapping[str, Tensor]:
        """Returns the sums over one batch, by name."""

    def counts(self, **batch: Tensor) -> Mapping[str, float]:
        """Returns how many things each sum of that batch is over, under the same names."""


@dataclass
class Run:
    """What changes while training, and so what a checkpoint must hold."""

    model: nn.Module  # a `Trainable`
    optimizer: torch.optim.Optimizer
    step: int = 0  # optimizer steps done


def train(
    run: Run,
    steps: Iterator[Sequence[Batch]],
    *,
    pace: Pace,
    schedule: Schedule,
    max_gradient_norm: float,
    seed: int,
    after_step: Callable[[Run, dict[str, float]], None],
    ranks: Ranks = ALONE,
) -> None:
    """Advances `run` until its pace says 1, calling `after_step` once per optimizer step.

    `steps` yields the parts of one optimizer step at a time. `pace` says which share of the run is
    done, by steps or by the clock; `schedule` turns that share into the learning rate. `after_step`
    gets the step's means by name, the `gradient_norm` before clipping and the `learning_rate`; it
    is where a recipe logs, evaluates and saves.

    All noise (dropout) comes from torch's generator, which is set anew from `seed` and the step's
    number before each step: a resumed run draws what the unbroken one would have drawn.

    Each of several `ranks` gives its own share of every step's parts; sums, counts and gradients
    are those of the whole step, so that all ranks move alike, and fail alike.

    Raises:
        NotFiniteError: a loss or gradient is NaN or infinite; the weights are those of the step
            before.
    """
    while (done := pace(run.step)) < 1:
        rate = schedule(done)
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        run.model.train()
        _seed_noise(noise_seed(seed, run.step), ranks.rank)
        figures = accumulate(run.model, next(steps), ranks)
        norm = ranks.whole(
            nn.utils.clip_grad_norm_(run.model.parameters(), max_gradient_norm, foreach=True)
        )
        figures |= {"gradient_norm": norm.item(), "learning_rate": rate}
        _refuse_not_finite(run, figures)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.step += 1
        after_step(run, figures)


def evaluate(model: nn.Module, batches: Iterable[Batch], ranks: Ranks = ALONE) -> dict[str, float]:
    """Returns the mean of each of the model's sums over all `batches`, without dropout.

    Only running sums are kept, whatever the number of batches. The model is left in the mode, and
    torch's generator in the state, in which they were found. Each of several `ranks` is given all
    batches and takes its share.
    """
    was_training = model.training
    model.eval()
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    with torch.inference_mode():
        for batch, is_counted in ranks.shares(batches):
            with _autocast(model):
                sums = model(**batch)
            for name, count in model.counts(**batch).items():  # type: ignore[operator]
                totals[name] = totals.get(name, 0.0) + float(sums[name]) * is_counted
                counts[name] = counts.get(name, 0) + count * is_counted
    model.train(was_training)
    totals, counts = ranks.add_up(totals), ranks.add_up(counts)
    return {name: totals[name] / (counts[name] or 1) for name in totals}


def noise_seed(seed: int, step: int) -> int:
    """Returns the seed of the noise of one step: distinct for all seeds and steps below 2**32."""
    return (seed << 32) | step


def _seed_noise(seed: int, rank: int) -> None:
    """Seeds torch's generator; each further rank takes a number of its own, drawn from the seed."""
    torch.manual_seed(seed)
    if rank:
        torch.manual_seed(int(torch.randint(1 << 62, (rank,))[-1]))


def accumulate(model: nn.Module, parts: Sequence[Batch], ranks: Ranks = ALONE) -> dict[str, float]:
    """Adds the gradient of the step's objective to the parameters; returns the means by name."""
    counts: dict[str, float] = {}
    for part in parts:
        for name, count in model.counts(**part).items():  # type: ignore[operator]
            counts[name] = counts.get(name, 0) + count
    counts = ranks.add_up(counts)
    weights = loss_weights_of(model)
    totals: dict[str, Tensor] = {}
    for part in parts:
        with _autocast(model):
            sums = model(**part)
        means = {name: sums[name] / (counts[name] or 1) for name in counts}
        objective = sum(
            mean * weights.get(name, 1.0) for name, mean in means.items() if name.endswith("loss")
        )
        objective.backward()
        for name, mean in means.items():
            totals[name] = totals.get(name, 0) + mean.detach()
    ranks.add_gradients(model)
    return ranks.add_up({name: total.item() for name, total in totals.items()})


def loss_weights_of(model: nn.Module) -> Mapping[str, float]:
    """Returns how often the losses of a model count in its objective, by name; the rest once."""
    weights: Mapping[str, float] = getattr(model, "loss_weights", {})
    return weights


def _autocast(model: nn.Module) -> AbstractContextManager[None]:
    """Returns bfloat16 arithmetic on a GPU; on a CPU it would be several times slower."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def _refuse_not_finite(run: Run, figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"step {run.step + 1}: {name} is {value} at learning rate "
                f"{figures['learning_rate']:.3g}; the weights are those of step {run.step}: "
                f"go on from the last checkpoint with a lower learning rate or a longer warm-up"
            )
