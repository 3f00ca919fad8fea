"""How far a model's probabilities can be taken at their word, and what makes them truer.

A temperature divides the logits: it changes no order, only how sure the model seems. A threshold
changes which label is said. Both are fitted on rows that the model was not trained on.

Shapes:  N rows   C labels   B bins

Source: Guo et al. 2017, "On calibration of modern neural networks", sections 2 and 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Temperatures that rows may ask for; beyond them the rows tell nothing but their own small number.
COLDEST, HOTTEST = 1 / 16, 16.0


@dataclass(frozen=True, slots=True)
class Bin:
    """The predictions whose probability is from `low` to `high`."""

    low: float
    high: float
    count: int
    probability: float  # the mean of what was said; 0 where there is none
    share_right: float  # how many of them came true; 0 where there is none


def fit_temperature(logits: Floats, wanted: NDArray[np.integer]) -> float:
    """Returns the temperature under which the right labels are likeliest.

    It is 1 where none is best: with rows that are all right the likelihood rises for ever as it
    falls, and with a model worse than chance as it rises.

    Args:
        logits: of each label. [N, C]
        wanted: the number of the right label, [N]; or, of rows that may have several, 1 where a
            label is right, [N, C].
    """
    if not len(logits):
        return 1.0
    if wanted.ndim == 1:
        right = logits[np.arange(len(logits)), wanted]  # [N]
        highest = logits.max(axis=1, keepdims=True)  # [N, 1]

        def slope(coldness: float) -> float:
            weights = np.exp(coldness * (logits - highest))  # [N, C]
            means = (weights * logits).sum(axis=1) / weights.sum(axis=1)  # [N]
            return float((means - right).mean())
    else:

        def slope(coldness: float) -> float:
            return float(((_sigmoid(coldness * logits) - wanted) * logits).mean())

    return 1 / _root(slope)


def cooled(shares: Floats, temperature: float) -> Floats:
    """Returns the probabilities that logits divided by `temperature` would have had. [N, C]

    Each row of `shares` sums to 1. With the inverse, a temperature is taken away again.
    """
    logits = logits_of_shares(shares) / temperature  # [N, C]
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))  # [N, C]
    return weights / weights.sum(axis=1, keepdims=True)


def cooled_alone(shares: Floats, temperature: float) -> Floats:
    """Returns as `cooled`, of labels each of which is right or not by itself. [N, C]"""
    return _sigmoid((np.log(_above_0(shares)) - np.log(_above_0(1 - shares))) / temperature)


def logits_of_shares(shares: Floats) -> Floats:
    """Returns logits whose softmax are these probabilities. [N, C]"""
    return np.log(_above_0(shares))


def reliability(probabilities: Floats, came_true: NDArray[np.bool_], bins: int = 15) -> list[Bin]:
    """Returns equally wide bins of predictions: how sure the model was, and how often rightly.

    A probability on a border belongs to the bin below it, as in the paper.

    Args:
        probabilities: of what was said. [N]
        came_true: whether it was right. [N]
        bins: their number (B).
    """
    places = np.clip(np.ceil(probabilities * bins).astype(np.int64) - 1, 0, bins - 1)  # [N]
    counts = np.bincount(places, minlength=bins)  # [B]
    some = np.maximum(counts, 1)  # [B]
    means = np.bincount(places, probabilities, minlength=bins) / some  # [B]
    shares = np.bincount(places, came_true.astype(np.float64), minlength=bins) / some  # [B]
    return [
        Bin(place / bins, (place + 1) / bins, int(count), float(mean), float(share))
        for place, (count, mean, share) in enumerate(zip(counts, means, shares, strict=True))
    ]


def expected_calibration_error(
    probabilities: Floats, came_true: NDArray[np.bool_], bins: int = 15
) -> float:
    """Returns how far probabilities and outcomes lie apart in a bin, on average over predictions.

    0 is perfect; a model that is always sure and right half the time has 0.5.
    """
    found = reliability(probabilities, came_true, bins)
    apart = sum(one.count * abs(one.probability - one.share_right) for one in found)
    return apart / max(1, len(probabilities))


def best_f1_threshold(shares: Floats, wanted: NDArray[np.bool_]) -> float:
    """Returns the threshold above which a label must be said for the best F1 on these rows.

    It lies midway between two probabilities that occur; of several equally good ones it is the
    nearest to 0.5, and 0.5 itself where no row has the label.

    Args:
        shares: probability of the label. [N]
        wanted: whether the row has it. [N]
    """
    if not wanted.any():
        return 0.5
    order = np.argsort(-shares, kind="stable")
    sorted_shares = shares[order]  # [N], falling
    hits = np.cumsum(wanted[order])  # [N]
    f1 = 2 * hits / (np.arange(1, len(shares) + 1) + wanted.sum())  # [N], of the first n said
    below = np.append(sorted_shares[1:], 0.0)  # [N]
    thresholds = (sorted_shares + below) / 2  # [N]
    is_cut = sorted_shares > below  # rows of equal probability are said together
    is_cut &= thresholds < sorted_shares
    best = f1 == f1[is_cut].max(initial=0.0)
    choices = thresholds[is_cut & best]
    if not len(choices) or f1[is_cut].max() <= _f1_at(shares, wanted, 0.5):
        return 0.5
    return float(choices[np.argmin(np.abs(choices - 0.5))])


def _f1_at(shares: Floats, wanted: NDArray[np.bool_], threshold: float) -> float:
    said = shares > threshold
    return float(2 * (said & wanted).sum() / (said.sum() + wanted.sum()))


def _root(slope: Callable[[float], float]) -> float:
    """Returns where a rising function is 0 within the coldness allowed, else 1."""
    from scipy.optimize import brentq

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0 or slope(high) <= 0:
        return 1.0
    return float(brentq(slope, low, high, xtol=1e-9))


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0, -values))


def _above_0(shares: Floats) -> Floats:
    return np.maximum(shares, 1e-300)
