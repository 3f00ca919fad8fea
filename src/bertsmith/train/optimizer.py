"""How weights are moved: BERT's AdamW, Muon for matrices, and the learning rate over a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import product

import torch
from torch import nn

from bertsmith.config import OptimizerConfig
from bertsmith.errors import ConfigError
from bertsmith.train.muon import Muon

Schedule = Callable[[float], float]  # share of the run done -> learning rate


def optimizer_of(
    model: nn.Module,
    config: OptimizerConfig,
    scales: Mapping[str, float] | None = None,
    *,
    matrices: Mapping[str, int],
) -> torch.optim.Optimizer:
    """Returns the optimizer that `config` names, over all parameters of `model`, its state made.

    Args:
        model: frozen parameters of it are left out.
        config: of the optimizer.
        scales: what the learning rate of a parameter is multiplied by, by name; by default 1.
        matrices: the parameters that Muon is for, by name, and how many matrices each holds; AdamW
            moves all others.

    Raises:
        ConfigError: Muon is asked for, and there is no matrix to train.
    """
    if config.optimizer == "adamw":
        return adamw(model, config, scales)
    moved = {name: part for name, part in _trained(model) if name in matrices}
    if not moved:
        raise ConfigError(
            "optimizer is 'muon', which is for the matrices of an encoder's blocks, and none of "
            "them is trained here; choose optimizer 'adamw'"
        )
    ratio = config.muon_learning_rate / config.learning_rate
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, parameter in moved.items():
        by_scale.setdefault((scales or {}).get(name, 1.0) * ratio, []).append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": config.learning_rate * scale,
            "weight_decay": config.weight_decay,
            "scale": scale,
        }
        for scale, parameters in by_scale.items()
    ]
    parts = {parameter: matrices[name] for name, parameter in moved.items()}
    return Muon(groups, parts, adamw(model, config, scales, without=moved.keys()))


def schedule_of(config: OptimizerConfig) -> Schedule:
    """Returns the learning rate over a run that `config` names; in each it ends at zero.

    All are functions of the share of the run that is done, so that by the clock they end in time.
    """
    if config.schedule == "one-cycle":
        return one_cycle(config)
    return flat_then_decay(config) if config.schedule == "flat" else warmup_then_decay(config)


def adamw(
    model: nn.Module,
    config: OptimizerConfig,
    scales: Mapping[str, float] | None = None,
    *,
    without: Collection[str] = (),
) -> torch.optim.AdamW:
    """Returns AdamW over all parameters of `model`, its state made and zero.

    Biases and the parameters of norms are not decayed: in an encoder these are the parameters of
    one dimension, and everything else has two.

    Without `bias_correction` each step is that of the published code,
    `w -= rate * (m / (sqrt(v) + epsilon) + weight_decay * w)`. torch divides the means by
    `1 - beta ** step`; a step count of infinity makes those divisors exactly 1.

    Source: Devlin et al. 2019, appendix A.2; `optimization.py`, AdamWeightDecayOptimizer.

    Args:
        model: frozen parameters of it are left out.
        config: of the optimizer.
        scales: what the learning rate of a parameter is multiplied by, by name; by default 1.
        without: names of parameters that another optimizer moves.
    """
    trained = {name: part for name, part in _trained(model) if name not in without}
    parameters = list(trained.values())
    by_scale: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        by_scale.setdefault((scales or {}).get(name, 1.0), []).append(parameter)
    groups = [
        {
            "params": [part for part in parts if (part.ndim > 1) == has_decay],
            "weight_decay": config.weight_decay if has_decay else 0.0,
            "scale": scale,
        }
        for (scale, parts), has_decay in product(by_scale.items(), (True, False))
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    steps_done = 0.0 if config.bias_correction else float("inf")
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.tensor(steps_done, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def warmup_then_decay(config: OptimizerConfig) -> Schedule:
    """Returns the published schedule: the rate rises linearly to its peak, then falls to zero.

    After the warm-up the rate lies on the line from the peak at the start of the run to zero at its
    end, as in the published code; so it drops by the warm-up's share as the warm-up ends.

    Source: `optimization.py`, `create_optimizer`.
    """
    peak, warmup = config.learning_rate, config.warmup
    return lambda done: peak * (done / warmup if done < warmup else max(0.0, 1.0 - done))


def one_cycle(config: OptimizerConfig) -> Schedule:
    """Returns a triangle: the rate rises linearly to its peak until `warmup`, then falls to zero.

    Source: Smith and Topin 2019 (super-convergence), in the form of Geiping and Goldstein 2023
    (cramming), section 4.3, tied to the budget.
    """
    peak, warmup = config.learning_rate, config.warmup
    return lambda done: peak * done / warmup if done < warmup else peak * _left(done, 1.0 - warmup)


def flat_then_decay(config: OptimizerConfig) -> Schedule:
    """Returns a trapezium: the rate rises until `warmup`, stays, and in `decay_share` falls to 0.

    Source: Hägele et al. 2024 (arXiv 2405.18392), section 3, with a linear cooldown.
    """
    peak, warmup, decay = config.learning_rate, config.warmup, config.decay_share
    return lambda done: peak * min(done / warmup if done < warmup else 1.0, _left(done, decay))


def _left(done: float, share: float) -> float:
    """Returns how much of the last `share` of a run is left when `done` of it is, 0 to 1."""
    return min(1.0, max(0.0, 1.0 - done) / share) if share else float(done < 1)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters of `model` that are not frozen, by name."""
    return ((name, part) for name, part in model.named_parameters() if part.requires_grad)
