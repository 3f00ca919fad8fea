"""Muon against its published formula in fp64, against torch's own, and against itself saved."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.train.toys import Toy, toy_batch
from torch import Tensor, nn

from bertsmith.config import OptimizerConfig
from bertsmith.errors import ConfigError
from bertsmith.train import muon
from bertsmith.train.checkpoint import newest_checkpoint, restore, save_checkpoint
from bertsmith.train.loop import Run
from bertsmith.train.muon import orthogonalized
from bertsmith.train.optimizer import optimizer_of

CONFIG = OptimizerConfig(
    optimizer="muon", learning_rate=0.01, muon_learning_rate=0.05, weight_decay=0.1
)
PARTS = {"fused": 3, "tall": 1, "wide": 1, "gated": 2}


class Matrices(nn.Module):
    """A parameter of every shape that a block has, and two that Muon is not for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = nn.Parameter(torch.randn(24, 8))
        self.tall = nn.Parameter(torch.randn(32, 8))
        self.wide = nn.Parameter(torch.randn(8, 20))
        self.gated = nn.Parameter(torch.randn(40, 8))
        self.embedding = nn.Parameter(torch.randn(50, 8))
        self.bias = nn.Parameter(torch.randn(8))


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def published(update: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns `zeropower_via_newtonschulz5` of the published code, in fp64."""
    first, third, fifth = 3.4445, -4.7750, 2.0315
    x = update.T if update.shape[0] > update.shape[1] else update
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        products = x @ x.T
        x = first * x + (third * products + fifth * products @ products) @ x
    return x.T if update.shape[0] > update.shape[1] else x


def test_steps_are_those_of_the_published_formula() -> None:
    model = Matrices()
    optimizer = optimizer_of(model, CONFIG, matrices=PARTS)
    weights = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    momenta = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(5):
        set_gradients(model, step)
        for name, parts in PARTS.items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            for part in range(parts):
                rows = len(weights[name]) // parts
                here = slice(part * rows, (part + 1) * rows)
                own = gradient[here].double().numpy()
                momenta[name][here] = 0.95 * momenta[name][here] + 0.05 * own
                move = published(0.95 * momenta[name][here] + 0.05 * own)
                scale = math.sqrt(max(1.0, rows / weights[name].shape[1]))
                weights[name][here] *= 1 - 0.05 * 0.1
                weights[name][here] -= 0.05 * scale * move
        optimizer.step()
        for name in PARTS:
            found = model.get_parameter(name).detach()
            # fp32 against fp64, after five rounds of products of 8 to 32 terms
            np.testing.assert_allclose(found, weights[name], rtol=1e-5, atol=1e-5)


def test_a_step_is_that_of_torch() -> None:
    """torch works in bfloat16, which has 8 bits: five rounds are right to about a hundredth."""
    ours, theirs = Matrices(), Matrices()
    optimizer = optimizer_of(ours, CONFIG, matrices={"tall": 1, "wide": 1})
    peer = torch.optim.Muon([theirs.tall, theirs.wide], lr=0.05, weight_decay=0.1)
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        peer.step()
    for name in ("tall", "wide"):
        difference = (ours.get_parameter(name) - theirs.get_parameter(name)).abs().max()
        assert difference < 0.02 * 3 * 0.05 * 2  # of three steps of at most 0.05 * 2


def test_what_is_not_named_is_moved_as_by_adamw_alone() -> None:
    ours, theirs = Matrices(), Matrices()
    optimizer = optimizer_of(ours, CONFIG, matrices=PARTS)
    peer = optimizer_of(theirs, OptimizerConfig(learning_rate=0.01, weight_decay=0.1), matrices={})
    for step in range(3):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        peer.step()
    for name in ("embedding", "bias"):
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name))


def with_singular_values(values: Tensor, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = len(values)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator).double())
    right, _ = torch.linalg.qr(torch.randn(columns, rows, generator=generator).double())
    return (left * values) @ right.T


@pytest.mark.parametrize("columns", [64, 256])
def test_singular_values_become_about_one(columns: int) -> None:
    matrix = with_singular_values(torch.logspace(0, -2, 64).double(), columns)
    found = torch.linalg.svdvals(orthogonalized(matrix[None]))
    # The least is 0.0023 of the norm, from where five rounds just lead into the band.
    assert found.min() > 0.6 and found.max() < 1.25


@pytest.mark.parametrize("least", [-3, -6, -12])
def test_wide_matrices_have_the_same_result_by_products_of_rows(least: int) -> None:
    """Also where gradients have nearly no rank, of which such products keep the fewest digits."""
    matrix = with_singular_values(torch.logspace(0, least, 64).double(), 256)[None]
    exact = muon._round_by_round(matrix / matrix.norm())
    found = orthogonalized(matrix.float())
    # fp32 rounds products to 6e-8, and five rounds make them up to 3.4 ** 5 = 486 times as large
    assert (found - exact).abs().max() < 1e-4


def test_matrices_beside_one_another_are_moved_as_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together, alone = Matrices(), Matrices()
    optimizer = optimizer_of(together, CONFIG, matrices=PARTS)
    set_gradients(together, 0)
    optimizer.step()
    monkeypatch.setattr(muon, "_MOST_NUMBERS", 1)
    optimizer = optimizer_of(alone, CONFIG, matrices=PARTS)
    set_gradients(alone, 0)
    optimizer.step()
    for name in PARTS:
        torch.testing.assert_close(alone.get_parameter(name), together.get_parameter(name))


def toy_run() -> Run:
    model = Toy()
    return Run(model, optimizer_of(model, CONFIG, matrices={"hidden.weight": 1}))


def take_step(run: Run, seed: int) -> None:
    sums = run.model(**toy_batch(5, seed=seed))
    (sums["class_loss"] + sums["sum_loss"]).backward()
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1


def test_restored_it_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    unbroken, resumed = toy_run(), toy_run()
    for seed in range(3):
        take_step(unbroken, seed)
    save_checkpoint(tmp_path, unbroken, {})
    checkpoint = newest_checkpoint(tmp_path, lambda message: None)
    assert checkpoint is not None
    restore(resumed, checkpoint)
    for seed in range(3, 6):
        take_step(unbroken, seed)
        take_step(resumed, seed)
    for name, parameter in unbroken.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_rates_of_the_loop_keep_their_ratio_and_their_scales() -> None:
    model = Matrices()
    optimizer = optimizer_of(model, CONFIG, {"tall": 0.5, "bias": 0.5}, matrices=PARTS)
    scales = {
        id(parameter): group["scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert scales[id(model.tall)] == pytest.approx(2.5)
    assert scales[id(model.wide)] == pytest.approx(5.0)
    assert scales[id(model.bias)] == 0.5
    assert scales[id(model.embedding)] == 1.0


def test_frozen_matrices_are_left_alone_and_none_at_all_is_refused() -> None:
    model = Matrices()
    model.tall.requires_grad_(False)
    before = model.tall.clone()
    optimizer = optimizer_of(model, CONFIG, matrices=PARTS)
    set_gradients(model, 0)
    optimizer.step()
    assert torch.equal(model.tall, before)
    with pytest.raises(ConfigError, match="none of them is trained here; choose optimizer 'adamw'"):
        optimizer_of(Toy(), CONFIG, matrices={})
