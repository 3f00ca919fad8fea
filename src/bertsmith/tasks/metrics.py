"""Scores of predictions by their usual names, as scikit-learn and scipy define them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Metrics of which less is better; of all others more is.
LOWER_IS_BETTER = ("mse", "ece")


def classification_scores(
    wanted: Sequence[int] | NDArray[np.integer],
    predicted: Sequence[int] | NDArray[np.integer],
    num_labels: int,
) -> dict[str, float]:
    """Returns `accuracy`, `f1`, `f1_macro` and `mcc` of predicted label numbers.

    With two labels `f1` is that of label 1, the second; with more it is the mean over the labels,
    as `f1_macro` is. A label that occurs nowhere in `wanted` or `predicted` is left out of that
    mean. F1 without any hit is 0, and so is the correlation where one side is all the same.

    Source: `sklearn.metrics`; the correlation is that of Matthews 1975.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    f1_macro = float(f1_score(wanted, predicted, average="macro", zero_division=0))
    f1 = f1_macro
    if num_labels == 2:
        f1 = float(f1_score(wanted, predicted, labels=[1], average="macro", zero_division=0))
    return {
        "accuracy": float(accuracy_score(wanted, predicted)),
        "f1": f1,
        "f1_macro": f1_macro,
        "mcc": float(matthews_corrcoef(wanted, predicted)),
    }


def multi_label_scores(
    wanted: NDArray[np.integer], predicted: NDArray[np.integer]
) -> dict[str, float]:
    """Returns `f1_micro`, `f1_macro`, `f1_samples` and `accuracy` of rows with several labels.

    Accuracy is the share of rows whose labels are all right. F1 without any hit is 0.

    Source: `sklearn.metrics`.

    Args:
        wanted, predicted: 1 where a row has a label. [N, C]
    """
    from sklearn.metrics import accuracy_score, f1_score

    return {
        f"f1_{average}": float(f1_score(wanted, predicted, average=average, zero_division=0))
        for average in ("micro", "macro", "samples")
    } | {"accuracy": float(accuracy_score(wanted, predicted))}


def regression_scores(
    wanted: Sequence[float] | NDArray[np.floating],
    predicted: Sequence[float] | NDArray[np.floating],
) -> dict[str, float]:
    """Returns `pearson`, `spearman` and `mse` of predicted numbers.

    A correlation where one side is all the same is 0: it tells nothing of the other's order.

    Source: `scipy.stats`; the squared error is its mean.
    """
    from scipy.stats import pearsonr, spearmanr

    first, second = np.asarray(wanted, np.float64), np.asarray(predicted, np.float64)
    constant = len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0
    return {
        "pearson": 0.0 if constant else float(pearsonr(first, second).statistic),
        "spearman": 0.0 if constant else float(spearmanr(first, second).statistic),
        "mse": float(np.mean(np.square(first - second))),
    }


def better(name: str, score: float, than: float | None) -> bool:
    """Returns whether `score` is better than an earlier one; any is better than None."""
    if than is None:
        return True
    return score < than if name in LOWER_IS_BETTER else score > than
