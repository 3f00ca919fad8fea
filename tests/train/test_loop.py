"""The training loop against hand-written steps, on a toy model."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch
from tests.train.toys import Toy, cut, toy_batch
from torch import Tensor

from bertsmith.config import OptimizerConfig
from bertsmith.errors import NotFiniteError
from bertsmith.train.loop import Run, evaluate, noise_seed, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps

CONFIG = OptimizerConfig(learning_rate=0.02, warmup=0.1)


def trained(
    model: Toy, parts: list[dict[str, Tensor]], steps: int, config: OptimizerConfig = CONFIG
) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    train(
        Run(model, adamw(model, config)),
        repeat(parts),
        pace=by_steps(steps),
        schedule=warmup_then_decay(config),
        max_gradient_norm=config.max_gradient_norm,
        seed=1,
        after_step=lambda run, figures: rows.append(figures),
    )
    return rows


class Recorder(torch.optim.SGD):
    """Keeps the gradients of its last step."""

    def __init__(self, model: Toy) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.model = model
        self.gradients: dict[str, Tensor] = {}

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None
            self.gradients[name] = parameter.grad.clone()


def gradients(
    model: Toy, parts: list[dict[str, Tensor]], max_gradient_norm: float = 1e9
) -> dict[str, Tensor]:
    recorder = Recorder(model)
    train(
        Run(model, recorder),
        repeat(parts),
        pace=by_steps(1),
        schedule=lambda done: 0.1,
        max_gradient_norm=max_gradient_norm,
        seed=1,
        after_step=lambda run, figures: None,
    )
    return recorder.gradients


def test_one_batch_is_learnt_to_nearly_zero_loss() -> None:
    rows = trained(Toy(), [toy_batch(12)], 400)
    assert rows[0]["class_loss"] > 0.9
    assert rows[-1]["class_loss"] < 0.01
    assert rows[-1]["sum_loss"] < 0.01
    assert rows[-1]["accuracy"] == 1.0


def test_four_ragged_parts_give_the_gradients_of_the_whole() -> None:
    batch = toy_batch(17, unlabelled=5)  # the first part holds no class at all
    whole = gradients(Toy(), [batch])
    parted = gradients(Toy(), cut(batch, 3, 4, 11))
    for name, gradient in whole.items():
        torch.testing.assert_close(parted[name], gradient, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_that_of_the_sum_of_the_mean_losses() -> None:
    batch, model = toy_batch(9, unlabelled=2), Toy()
    sums = model(**batch)
    (sums["class_loss"] / 7 + sums["sum_loss"] / 9).backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = gradients(Toy(), [batch])
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_long_gradients_are_shortened() -> None:
    def norm(found: dict[str, Tensor]) -> float:
        return float(torch.cat([gradient.flatten() for gradient in found.values()]).norm())

    assert norm(gradients(Toy(), [toy_batch(9)])) > 0.25
    assert norm(gradients(Toy(), [toy_batch(9)], 0.25)) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run_before_the_weights_move(value: float) -> None:
    model = Toy()
    good, bad = toy_batch(6), toy_batch(6)
    bad["sums"][2] = value
    steps = iter([[good], [good], [bad], [good]])
    run = Run(model, adamw(model, CONFIG))
    weights: list[dict[str, Tensor]] = []
    with pytest.raises(NotFiniteError, match=r"step 3: sum_loss is (nan|inf) at learning rate 0"):
        train(
            run,
            steps,
            pace=by_steps(4),
            schedule=warmup_then_decay(CONFIG),
            max_gradient_norm=1.0,
            seed=0,
            after_step=lambda run, figures: weights.append(
                {n: p.detach().clone() for n, p in run.model.named_parameters()}
            ),
        )
    assert run.step == 2
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[-1][name])


def test_noise_depends_on_seed_and_step_alone() -> None:
    """So a run begun at step 2 with the weights of step 2 goes on as the unbroken one."""
    config = OptimizerConfig(learning_rate=0.02)
    unbroken, resumed = Toy(dropout=0.5), Toy(dropout=0.5)
    batch = toy_batch(8)

    def go(run: Run, steps: int) -> None:
        train(
            run,
            repeat([batch]),
            pace=lambda done: 1.0 if done >= steps else done / 5,
            schedule=warmup_then_decay(config),
            max_gradient_norm=1.0,
            seed=7,
            after_step=lambda run, figures: None,
        )

    go(Run(unbroken, adamw(unbroken, config)), 5)
    run = Run(resumed, adamw(resumed, config))
    go(run, 2)
    torch.manual_seed(12345)
    go(run, 5)
    for ours, theirs in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_noise_seeds_differ_between_seeds_and_steps() -> None:
    assert len({noise_seed(seed, step) for seed in range(50) for step in range(50)}) == 2500


def test_evaluation_in_batches_equals_evaluation_at_once() -> None:
    model, batch = Toy(dropout=0.5), toy_batch(20, unlabelled=4)
    at_once = evaluate(model, [batch])
    for name, value in evaluate(model, cut(batch, 1, 3, 11)).items():
        assert value == pytest.approx(at_once[name], rel=1e-5)


def test_evaluation_leaves_mode_and_generator_alone() -> None:
    model = Toy(dropout=0.5).train()
    before = torch.get_rng_state()
    evaluate(model, [toy_batch(3)])
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
