"""Fine-tuning as scikit-learn has it: estimators with fit, predict and score.

    classifier = TextClassifier("run/model", epochs=2).fit(texts, labels)
    cross_val_score(classifier, texts, labels)

An estimator's parameters are the flags of `bertsmith finetune`, with their defaults. It runs the
same recipe on rows in memory, in a temporary folder that is gone when `fit` returns. What it keeps
is a model folder: `save` writes it, `load` reads it, and a pickle holds its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from bertsmith.config import TaskConfig
from bertsmith.errors import DataError
from bertsmith.fine_tuned import (
    NO_TARGETS,
    REMEMBERED,
    FineTuned,
    classes_as_json,
    classes_from_json,
    targets_of,
)

if TYPE_CHECKING:
    from bertsmith.folder import Loaded
    from bertsmith.tasks.classify import Classify
    from bertsmith.tasks.forms import Prediction


@dataclass(kw_only=True, eq=False, repr=False)
class OnTexts(FineTuned):
    """What the estimators on texts, or on pairs of texts, share.

    X is a list, an array or a series of texts; for pairs a list of tuples, or two columns.
    """

    long_texts: Literal["cut", "windows"] = TaskConfig.long_texts

    def _keep(self, loaded: Loaded, where: str) -> None:
        super()._keep(loaded, where)
        self.n_features_in_ = 2 if loaded.facts.get("columns", {}).get("pair") else 1

    def _predictions(self, X: Any) -> list[Prediction]:
        from bertsmith.recipes.finetuning.given_rows import texts_of

        check_is_fitted(self, "model_")
        return self.model_.predict(texts_of(X, "X"))

    def _examples(
        self, X: Any, labels: Sequence[str], name: str, like: dict[str, Any] | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Returns the rows, and what the model shall remember of their columns: as those `like`."""
        from bertsmith.recipes.finetuning.given_rows import columns_of, example_of, texts_of

        texts = texts_of(X, name)
        check_consistent_length(texts, labels)
        if len(texts) < 2 and name == "X":
            raise ValueError(f"X has {len(texts)} sample(s); expected two or more to learn from")
        facts = {"columns": columns_of(texts)}
        if like not in (None, facts):
            raise DataError(
                f"one of X and {name} holds pairs and one single texts; expected one kind"
            )
        examples = [
            example_of(text, label, f"{name}[{number}]")
            for number, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        return examples, facts


@dataclass(kw_only=True, eq=False, repr=False)
class TextClassifier(ClassifierMixin, OnTexts):  # type: ignore[misc]
    """Tells which label a text, or a pair of texts, has.

    Labels may be texts, whole numbers or truth values; an array of 0 and 1 of two dimensions says
    which several labels each row has. `classes_` are the labels in the order of `predict_proba`.
    """

    task: ClassVar[str] = "classify"

    class_weights: Literal["balanced"] | None = TaskConfig.class_weights
    label_smoothing: float = TaskConfig.label_smoothing

    def fit(self, X: Any, y: Any, X_dev: Any = None, y_dev: Any = None) -> Self:
        """Fine-tunes the encoder on texts and their labels; returns the estimator itself.

        The epoch that is kept is the best on the dev rows; without them a share `dev_share` of
        the rows is split off.

        Raises:
            ValueError: X and y are not of one length, or y holds no labels or only one.
            DataError: a row is no text, or is empty.
            ConfigError: a parameter is out of its range.
        """
        from bertsmith.tasks.classify import Classify

        y = targets_of(y)
        several = y.ndim == 2
        classes = np.arange(y.shape[1]) if several else np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"y holds one class, {classes.tolist()}; expected two classes or more")
        options = self._stage(TaskConfig, multi_label=several)
        examples, facts = self._examples(X, _names(y, options), "X")
        task = Classify.learn(examples, options)
        if not several and len(task.labels) < len(classes):
            raise DataError(
                f"y has {len(classes)} classes of which some are one number spelt differently, "
                f"as '1' and '1.0'; expected one spelling for each"
            )
        dev = None
        if X_dev is not None:
            dev = self._examples(X_dev, _names(targets_of(y_dev), options), "X_dev", facts)[0]
        own = {"classes": classes_as_json(classes)}
        return self._finetune(task, examples, dev, options, facts | {REMEMBERED: own})

    def predict(self, X: Any) -> NDArray[Any]:
        """Returns the likeliest class of each row, [N]; of several labels 0 and 1, [N, C]."""
        found = self._predictions(X)
        places = {label: place for place, label in enumerate(self._labels) if label is not None}
        if not self._is_several:
            return self.classes_[np.array([places[row.answer] for row in found], dtype=np.int64)]
        says = np.zeros((len(found), len(self.classes_)), dtype=np.int64)  # [N, C]
        for number, row in enumerate(found):
            says[number, [places[label] for label in row.answer]] = 1
        return says

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Returns the probability of each class, in the order of `classes_`. [N, C]"""
        found = self._predictions(X)
        shares = [
            [0.0 if label is None else row.probabilities[label] for label in self._labels]
            for row in found
        ]
        return np.array(shares).reshape(len(found), len(self.classes_))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Returns the logarithm of each probability, [N, C]; of two classes that of the odds, [N].

        Of several labels at once they are the odds of each, [N, C].
        """
        shares = np.clip(self.predict_proba(X), np.finfo(np.float64).tiny, 1.0)  # [N, C]
        if self._is_several:
            rest = np.clip(1.0 - shares, np.finfo(np.float64).eps, 1.0)  # [N, C]
            return np.log(shares) - np.log(rest)
        logs = np.log(shares)
        return logs[:, 1] - logs[:, 0] if len(self.classes_) == 2 else logs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _keep(self, loaded: Loaded, where: str) -> None:
        from bertsmith.tasks.task import task_of

        super()._keep(loaded, where)
        task: Any = task_of(loaded.facts, where)
        known = loaded.facts.get(REMEMBERED, {}).get("classes")
        self._is_several = task.options.multi_label
        self.classes_ = classes_from_json(known) if known else np.array(task.labels)
        self._labels = [_label_of(task, value) for value in self.classes_.tolist()]


@dataclass(kw_only=True, eq=False, repr=False)
class TextRegressor(RegressorMixin, OnTexts):  # type: ignore[misc]
    """Tells which number belongs to a text, or to a pair of texts."""

    task: ClassVar[str] = "regress"

    def fit(self, X: Any, y: Any, X_dev: Any = None, y_dev: Any = None) -> Self:
        """Fine-tunes the encoder on texts and their numbers; returns the estimator itself.

        The epoch that is kept is the best on the dev rows; without them a share `dev_share` of
        the rows is split off.

        Raises:
            ValueError: X and y are not of one length, or y holds something else than numbers.
            DataError: a row is no text or is empty, or all numbers are the same.
            ConfigError: a parameter is out of its range.
        """
        from bertsmith.tasks.regress import Regress

        options = self._stage(TaskConfig)
        examples, facts = self._examples(X, _numbers(y), "X")
        dev = None
        if X_dev is not None:
            dev = self._examples(X_dev, _numbers(y_dev), "X_dev", facts)[0]
        return self._finetune(Regress.learn(examples, options), examples, dev, options, facts)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Returns the number of each row. [N]"""
        return np.array([row.answer for row in self._predictions(X)], dtype=np.float64)


@dataclass(kw_only=True, eq=False, repr=False)
class TokenTagger(FineTuned):
    """Tells the tag of each word: entities in the usual schemes, or any other tags.

    X is a list of sentences, each a list of words, and y the list of their tags. `classes_` are the
    tags that occurred in y.
    """

    task: ClassVar[str] = "tag"

    tag_scheme: Literal["iob1", "iob2", "bioes", "bmes", "bilou", "plain"] | None = (
        TaskConfig.tag_scheme
    )
    crf: bool = TaskConfig.crf

    def fit(self, X: Any, y: Any, X_dev: Any = None, y_dev: Any = None) -> Self:
        """Fine-tunes the encoder on sentences and their tags; returns the estimator itself.

        The epoch that is kept is the best on the dev rows; without them a share `dev_share` of
        the rows is split off.

        Raises:
            DataError: a sentence has not one tag for each word, or a tag is of another scheme.
            ConfigError: a parameter is out of its range.
        """
        from bertsmith.recipes.finetuning.given_rows import tagged_of
        from bertsmith.tasks.tag import Tag

        if y is None:
            raise ValueError(NO_TARGETS)
        examples = tagged_of(X, y, "X", "y")
        dev = None if X_dev is None else tagged_of(X_dev, y_dev, "X_dev", "y_dev")
        options = self._stage(TaskConfig)
        classes = np.unique(np.concatenate([targets_of(tags) for tags in y]))
        own = {"classes": classes_as_json(classes)}
        return self._finetune(
            Tag.learn(examples, options), examples, dev, options, {REMEMBERED: own}
        )

    def predict(self, X: Any) -> list[list[Any]]:
        """Returns for each sentence the tags of its words."""
        from bertsmith.recipes.finetuning.given_rows import sentences_of

        check_is_fitted(self, "model_")
        known = {str(tag): tag for tag in self.classes_.tolist()}
        found = self.model_.tag(sentences_of(X, "X"))
        return [[known.get(tag, tag) for tag in row.answer] for row in found]

    def score(self, X: Any, y: Any) -> float:
        """Returns the F1 of entities as conlleval counts it; of other tags the share of right ones.

        Raises:
            DataError: a sentence has not one tag for each word, or a tag is of another scheme.
        """
        from bertsmith.recipes.finetuning.given_rows import tagged_of
        from bertsmith.tasks.task import task_of

        check_is_fitted(self, "model_")
        examples = tagged_of(X, y, "X", "y")
        task = task_of(self.model_.facts, "the fitted TokenTagger")
        scorer = task.scorer()
        found = self.model_.tag([example.words for example in examples])
        for example, prediction in zip(examples, found, strict=True):
            scorer.add(example, prediction)
        scores = scorer.scores()
        return scores["f1"] if "f1" in scores else scores["accuracy"]

    def _keep(self, loaded: Loaded, where: str) -> None:
        super()._keep(loaded, where)
        known = loaded.facts.get(REMEMBERED, {}).get("classes")
        self.classes_ = classes_from_json(known) if known else np.array(loaded.facts["labels"])


def _names(y: NDArray[Any], options: TaskConfig) -> list[str]:
    """Returns labels as a file would spell them."""
    if not options.multi_label:
        return [str(value) for value in y.tolist()]
    return [options.label_separator.join(map(str, np.flatnonzero(row))) for row in y]


def _numbers(y: Any) -> list[str]:
    if y is None:
        raise ValueError(NO_TARGETS)
    values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    return [repr(value) for value in column_or_1d(values, warn=True).tolist()]


def _label_of(task: Classify, value: Any) -> str | None:
    """Returns how the task spells a class; None if none of the training rows had it."""
    from bertsmith.tasks.forms import Features
    from bertsmith.tasks.labelled import Example

    try:
        [number] = task.target(Example("classes_", "", label=str(value)), Features(()))
    except DataError:
        return None
    return task.labels[number]
