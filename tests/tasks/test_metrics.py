"""Scores are those of scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bertsmith.tasks.metrics import better, classification_scores, regression_scores


@pytest.mark.parametrize("num_labels", [2, 5])
def test_classification_scores_are_those_of_scikit_learn(num_labels: int) -> None:
    rng = np.random.default_rng(num_labels)
    wanted = rng.integers(num_labels, size=200)
    predicted = np.where(rng.random(200) < 0.6, wanted, rng.integers(num_labels, size=200))
    scores = classification_scores(wanted.tolist(), predicted.tolist(), num_labels)
    average = "binary" if num_labels == 2 else "macro"
    assert scores == {
        "accuracy": metrics.accuracy_score(wanted, predicted),
        "f1": metrics.f1_score(wanted, predicted, average=average),
        "f1_macro": metrics.f1_score(wanted, predicted, average="macro"),
        "mcc": metrics.matthews_corrcoef(wanted, predicted),
    }


def test_a_model_that_always_says_the_same_scores_zero_without_a_warning() -> None:
    scores = classification_scores([0, 1, 1, 0], [0, 0, 0, 0], 2)
    assert (scores["accuracy"], scores["f1"], scores["mcc"]) == (0.5, 0.0, 0.0)
    scores = regression_scores([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)
    assert scores["mse"] == pytest.approx(2 / 3)


def test_regression_scores_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 6, size=100).astype(float)  # with ties
    predicted = wanted + rng.normal(size=100)
    scores = regression_scores(wanted.tolist(), predicted.tolist())
    assert scores["pearson"] == stats.pearsonr(wanted, predicted).statistic
    assert scores["spearman"] == stats.spearmanr(wanted, predicted).statistic
    assert scores["mse"] == pytest.approx(metrics.mean_squared_error(wanted, predicted), rel=1e-12)


def test_less_is_better_for_errors_alone() -> None:
    assert better("mse", 1.0, 2.0) and not better("mse", 2.0, 1.0)
    assert better("accuracy", 0.9, 0.8) and not better("accuracy", 0.8, 0.8)
    assert better("mcc", -1.0, None)
