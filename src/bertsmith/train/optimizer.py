"""How weights are moved: BERT's AdamW, and the learning rate over a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import torch
from torch import nn

from bertsmith.config import OptimizerConfig

Schedule = Callable[[float], float]  # share of the run done -> learning rate


def adamw(
    model: nn.Module, config: OptimizerConfig, scales: Mapping[str, float] | None = None
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
    """
    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
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
