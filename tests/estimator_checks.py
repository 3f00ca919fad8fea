"""Estimators that read numbers as words, so that scikit-learn's own checks can be run on them.

The checks make tables of numbers; each row becomes the words of its numbers, and all else is the
estimator's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import validate_data

from bertsmith.estimators import TextClassifier, TextRegressor

# Checks that an estimator of texts does not pass, and why.
EXPECTED_TO_FAIL = {
    "check_methods_subset_invariance": (
        "it asks for equal answers to 1e-7; sums of 32 bits come out as the rows that go through "
        "the model together decide, and are equal to 1e-6"
    ),
}


def words_of(X: Any) -> list[str]:
    """Returns a text for each row: a word for each number, by its size."""
    places = np.clip(np.round(np.asarray(X, dtype=float) * 2) + 13, 0, 25).astype(int)
    return [" ".join(chr(97 + place) for place in row) for row in places]


class _OnNumbers:
    n_features_in_: int

    def fit(self, X: Any, y: Any, X_dev: Any = None, y_dev: Any = None) -> Self:
        X = validate_data(self, X, dtype="numeric")
        return super().fit(words_of(X), y)  # type: ignore[misc]

    def _predictions(self, X: Any) -> Any:
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype="numeric", reset=False)
        return super()._predictions(words_of(X))  # type: ignore[misc]

    def _keep(self, loaded: Any, where: str) -> None:
        found = self.n_features_in_
        super()._keep(loaded, where)  # type: ignore[misc]
        self.n_features_in_ = found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        tags.input_tags.string = tags.input_tags.one_d_array = False
        for kind in (tags.classifier_tags, tags.regressor_tags):
            if kind is not None:
                kind.poor_score = True  # an encoder that has learnt nothing, and one epoch
        return tags


@dataclass(kw_only=True, eq=False, repr=False)
class ClassifierOnNumbers(_OnNumbers, TextClassifier):
    """A classifier of tables."""


@dataclass(kw_only=True, eq=False, repr=False)
class RegressorOnNumbers(_OnNumbers, TextRegressor):
    """A regressor of tables."""
