"""The optimizer against the published formula, written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.train.toys import Toy, toy_batch

from bertsmith.config import OptimizerConfig
from bertsmith.errors import ConfigError
from bertsmith.train.optimizer import adamw, schedule_of, warmup_then_decay


@pytest.mark.parametrize("bias_correction", [False, True])
def test_steps_are_those_of_the_published_formula(bias_correction: bool) -> None:
    config = OptimizerConfig(bias_correction=bias_correction, weight_decay=0.1, learning_rate=0.01)
    model = Toy()
    optimizer = adamw(model, config)
    weights = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    means = {name: np.zeros_like(value) for name, value in weights.items()}
    squares = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(1, 8):
        sums = model(**toy_batch(6, seed=step))
        (sums["class_loss"] + sums["sum_loss"]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double().numpy()
            means[name] = 0.9 * means[name] + 0.1 * gradient
            squares[name] = 0.999 * squares[name] + 0.001 * gradient**2
            mean, square = means[name], squares[name]
            if bias_correction:
                mean, square = mean / (1 - 0.9**step), square / (1 - 0.999**step)
            update = mean / (np.sqrt(square) + 1e-6)
            if "norm" not in name and "bias" not in name:
                update += 0.1 * weights[name]
            weights[name] = weights[name] - 0.01 * update
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in model.named_parameters():
            # fp32 against fp64; without correction the first steps are 3 times as long
            np.testing.assert_allclose(parameter.detach(), weights[name], rtol=2e-5, atol=2e-6)


def test_biases_and_norms_are_not_decayed() -> None:
    model = Toy()
    decay = {
        id(parameter): group["weight_decay"]
        for group in adamw(model, OptimizerConfig()).param_groups
        for parameter in group["params"]
    }
    found = {name for name, parameter in model.named_parameters() if decay[id(parameter)]}
    assert found == {"hidden.weight", "classes.weight", "total.weight"}


def test_frozen_parameters_are_left_out() -> None:
    model = Toy()
    model.hidden.requires_grad_(False)
    kept = [p for group in adamw(model, OptimizerConfig()).param_groups for p in group["params"]]
    assert not any(parameter is model.hidden.weight for parameter in kept)
    assert len(kept) == 6


def test_the_rate_is_that_of_the_published_schedule() -> None:
    """At every step of a run of 50 with 5 steps of warm-up, as `create_optimizer` computes it."""
    schedule = warmup_then_decay(OptimizerConfig(learning_rate=2.0, warmup=0.1))
    for step in range(50):
        expected = 2.0 * step / 5 if step < 5 else 2.0 * (1 - step / 50)
        assert schedule(step / 50) == pytest.approx(expected)
    assert schedule(1.0) == 0.0
    assert schedule(1.1) == 0.0


def test_without_warmup_the_rate_starts_at_its_peak() -> None:
    assert warmup_then_decay(OptimizerConfig(learning_rate=2.0, warmup=0.0))(0.0) == 2.0


def rates(shares: list[float], **settings: Any) -> list[float]:
    schedule = schedule_of(OptimizerConfig(learning_rate=2.0, **settings))
    return [schedule(done) for done in shares]


def test_one_cycle_rises_to_its_peak_and_falls_to_zero() -> None:
    found = rates([0.0, 0.1, 0.2, 0.6, 1.0, 1.1], schedule="one-cycle", warmup=0.2)
    assert found == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0, 0.0])
    assert rates([0.0, 0.5], schedule="one-cycle", warmup=0.0) == pytest.approx([2.0, 1.0])
    assert rates([0.5, 1.0], schedule="one-cycle", warmup=1.0) == pytest.approx([1.0, 0.0])


def test_flat_stays_at_its_peak_until_the_share_that_is_left_begins() -> None:
    found = rates([0.0, 0.1, 0.2, 0.6, 0.8, 1.0, 1.1], schedule="flat", warmup=0.2, decay_share=0.4)
    assert found == pytest.approx([0.0, 1.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    found = rates([0.0, 0.99, 1.0], schedule="flat", warmup=0.0, decay_share=0.0)
    assert found == pytest.approx([2.0, 2.0, 0.0])


def test_the_schedule_is_the_published_one_unless_told() -> None:
    published = warmup_then_decay(OptimizerConfig(learning_rate=2.0))
    shares = [0.0, 0.05, 0.1, 0.5, 1.0]
    assert rates(shares) == [published(done) for done in shares]


def test_a_flat_schedule_that_rises_and_falls_at_once_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup 0\.6 and decay_share 0\.5 are together more"):
        OptimizerConfig(schedule="flat", warmup=0.6, decay_share=0.5)


def test_the_optimizers_state_has_its_full_shape_before_the_first_step() -> None:
    model = Toy()
    optimizer = adamw(model, OptimizerConfig(bias_correction=False))
    before = {k: v.shape for p in model.parameters() for k, v in optimizer.state[p].items()}
    sums = model(**toy_batch(4))
    (sums["class_loss"] + sums["sum_loss"]).backward()
    optimizer.step()
    after = {k: v.shape for p in model.parameters() for k, v in optimizer.state[p].items()}
    assert before == after
    assert all(torch.isinf(optimizer.state[p]["step"]) for p in model.parameters())
