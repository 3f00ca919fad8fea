"""Scores of predicted labels, one or several of each row, and how far they can be believed."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from bertsmith.tasks.calibration import expected_calibration_error
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.metrics import classification_scores, multi_label_scores


class ClassScorer:
    """Scores of predicted labels; of each row it keeps a few numbers."""

    def __init__(
        self,
        labels: Sequence[str],
        right: Callable[[Example], tuple[int, ...]],
        *,
        several: bool,
    ) -> None:
        """Makes a scorer without rows.

        Args:
            labels: that the model knows, in the order of its outputs.
            right: tells the numbers of a labelled row's labels.
            several: a row may have any number of labels, or none.
        """
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._right = right
        self._several = several
        self._wanted = array("i")
        self._predicted = array("i")
        self._sure = array("d")  # probability of what was said, or of each of several labels
        self._came_true = array("b")

    def add(self, example: Example, prediction: Prediction) -> None:
        """Takes in the prediction of a labelled row.

        Raises:
            DataError: the model knows no such label as the row's; the row is named.
        """
        wanted, shares = self._right(example), prediction.probabilities
        if self._several:
            for label, number in self._numbers.items():
                self._wanted.append(number in wanted)
                self._predicted.append(label in prediction.answer)
                self._sure.append(shares[label])
                self._came_true.append(number in wanted)
            return
        likeliest = max(shares, key=shares.__getitem__)
        self._wanted.append(wanted[0])
        self._predicted.append(self._numbers[prediction.answer])
        self._sure.append(shares[likeliest])
        self._came_true.append(self._numbers[likeliest] == wanted[0])

    def scores(self) -> dict[str, float]:
        """Returns the usual metrics, see `metrics.py`, and the expected calibration error, `ece`.

        That is of 15 bins; of several labels, of the probability of each.
        """
        wanted, predicted = (np.array(part) for part in (self._wanted, self._predicted))
        came_true = np.array(self._came_true, dtype=bool)
        ece = expected_calibration_error(np.array(self._sure), came_true)
        if self._several:
            shape = -1, len(self._numbers)
            found = multi_label_scores(wanted.reshape(shape), predicted.reshape(shape))
        else:
            found = classification_scores(wanted, predicted, len(self._numbers))
        return found | {"ece": ece}
