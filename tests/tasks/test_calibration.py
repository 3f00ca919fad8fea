"""Temperatures, calibration errors and thresholds are those of independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch.nn import functional as F

from bertsmith.tasks.calibration import (
    Floats,
    best_f1_threshold,
    cooled,
    cooled_alone,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def rows_of_an_oversure_model(
    num_labels: int, sureness: float, rows: int = 4000
) -> tuple[Floats, np.ndarray]:
    """Returns logits that are `sureness` times those that the labels were drawn by."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, num_labels))
    wanted = np.array([rng.choice(num_labels, p=row) for row in softmax(logits, axis=1)])
    return logits * sureness, wanted


@pytest.mark.parametrize("sureness", [0.5, 1.0, 3.0])
def test_the_temperature_is_how_much_too_sure_the_model_is(sureness: float) -> None:
    logits, wanted = rows_of_an_oversure_model(5, sureness)
    assert fit_temperature(logits, wanted) == pytest.approx(sureness, rel=0.1)


def test_the_temperature_is_where_torch_finds_the_least_loss() -> None:
    logits, wanted = rows_of_an_oversure_model(4, 2.5, rows=300)
    coldness = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coldness], line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(coldness * torch.from_numpy(logits), torch.from_numpy(wanted))
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert fit_temperature(logits, wanted) == pytest.approx(1 / coldness.item(), rel=1e-6)


def test_the_temperature_of_labels_by_themselves_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 3)) * 2
    wanted = (rng.random((500, 3)) < expit(logits / 3)).astype(np.int64)
    regression = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10)
    regression.fit(logits.reshape(-1, 1), wanted.ravel())
    expected = 1 / regression.coef_[0, 0]
    assert fit_temperature(logits, wanted) == pytest.approx(expected, rel=1e-4)


def test_rows_that_tell_nothing_of_doubt_leave_the_temperature_at_1() -> None:
    logits = np.array([[2.0, -1.0], [-1.0, 0.5]])
    assert fit_temperature(logits, np.array([0, 1])) == 1  # all right
    assert fit_temperature(logits, np.array([1, 0])) == 1  # all wrong
    assert fit_temperature(np.empty((0, 2)), np.empty(0, np.int64)) == 1


def test_a_temperature_can_be_put_on_probabilities_and_taken_away() -> None:
    logits, _ = rows_of_an_oversure_model(4, 3.0, rows=50)
    np.testing.assert_allclose(cooled(softmax(logits, axis=1), 3), softmax(logits / 3, axis=1))
    np.testing.assert_allclose(cooled(softmax(logits / 3, axis=1), 1 / 3), softmax(logits, axis=1))
    np.testing.assert_allclose(cooled_alone(expit(logits), 3), expit(logits / 3))


@pytest.mark.parametrize("bins", [10, 15])
def test_the_calibration_error_is_that_of_its_definition_row_by_row(bins: int) -> None:
    rng = np.random.default_rng(2)
    probabilities = np.append(rng.random(400), [0.0, 1.0, 0.2, 0.6])
    came_true = rng.random(404) < probabilities**2
    expected = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            (share, truth)
            for share, truth in zip(probabilities, came_true, strict=True)
            if low < share <= high or (number == 0 and share == 0)
        ]
        if inside:
            mean = sum(share for share, _ in inside) / len(inside)
            right = sum(bool(truth) for _, truth in inside) / len(inside)
            expected += len(inside) / 404 * abs(mean - right)
    assert expected_calibration_error(probabilities, came_true, bins) == pytest.approx(expected)
    assert sum(one.count for one in reliability(probabilities, came_true, bins)) == 404


def test_a_model_that_is_always_sure_and_half_right_has_an_error_of_a_half() -> None:
    sure = np.ones(10)
    assert expected_calibration_error(sure, np.arange(10) % 2 == 0) == 0.5
    assert expected_calibration_error(np.empty(0), np.empty(0, bool)) == 0


def test_a_fitted_temperature_lowers_the_calibration_error() -> None:
    logits, wanted = rows_of_an_oversure_model(5, 3.0)
    shares = softmax(logits, axis=1)
    right = shares.argmax(axis=1) == wanted
    truer = cooled(shares, fit_temperature(logits, wanted))
    before = expected_calibration_error(shares.max(axis=1), right)
    assert expected_calibration_error(truer.max(axis=1), right) < before / 4


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_has_a_better_f1_than_the_one_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.choice([rng.random(), *rng.random(12)], size=40)  # with ties
    wanted = rng.random(40) < shares * rng.random()
    if not wanted.any():
        wanted[0] = True
    found = best_f1_threshold(shares, wanted)
    every = [0.0, 0.5, *(np.unique(shares) - 1e-9)]
    best = max(f1_score(wanted, shares > threshold, zero_division=0) for threshold in every)
    assert f1_score(wanted, shares > found) == pytest.approx(best)


def test_a_threshold_moves_only_for_a_better_f1() -> None:
    assert best_f1_threshold(np.array([0.9, 0.8, 0.1]), np.array([True, True, False])) == 0.5
    assert best_f1_threshold(np.array([0.9, 0.3]), np.array([False, False])) == 0.5
    assert best_f1_threshold(np.array([0.4, 0.3, 0.2]), np.array([True, True, False])) == 0.25
    assert best_f1_threshold(np.array([0.0, 0.0]), np.array([True, False])) == 0.5
