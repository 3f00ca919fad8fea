"""Fine-tuning as scikit-learn has it: estimators with fit, predict and score.

    classifier = TextClassifier("run/model", epochs=2).fit(texts, labels)
    cross_val_score(classifier, texts, labels)

An estimator's parameters are the flags of `bertsmith finetune`, with their defaults. It runs the
same recipe on rows in memory, in a temporary folder that is gone when `fit` returns. What it keeps
is a model folder: `save` writes it, `load` reads it, and a pickle holds its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from bertsmith.config import FinetuneConfig, OptimizerConfig, Settings, TaskConfig, setting_names
from bertsmith.errors import CheckpointError, ConfigError, DataError, StoppedError

if TYPE_CHECKING:
    from bertsmith.folder import Loaded
    from bertsmith.predict import Model
    from bertsmith.tasks.classify import Classify
    from bertsmith.tasks.forms import Prediction
    from bertsmith.tasks.task import Task

Stage = TypeVar("Stage", bound=Settings)

REMEMBERED = "estimator"  # the key of a model folder's facts under which an estimator keeps its own
NO_TARGETS = "fit requires y to be passed, but the target y is None; give one label for each row"
OF_THE_FOLDER = ("format_version", "versions", "files")  # facts that a folder is given when written


@dataclass(kw_only=True, eq=False, repr=False)
class FineTuned(BaseEstimator):  # type: ignore[misc]
    """What the estimators share: their parameters, and what they keep of a fitted model.

    `model` is the folder of the encoder. `learning_rate` is by default the usual one for its width.
    `seed` has the meaning of scikit-learn's `random_state`: a number gives the same model from the
    same rows each time, None or a `RandomState` another one. All else is as `bertsmith finetune
    --help` explains it.
    """

    task: ClassVar[str]

    model: str | Path | None = field(default=None, kw_only=False)
    epochs: int = FinetuneConfig.epochs
    batch_size: int = FinetuneConfig.batch_size
    learning_rate: float | None = None
    max_length: int = FinetuneConfig.max_length
    dev_share: float = FinetuneConfig.dev_share
    evaluations_per_epoch: int = FinetuneConfig.evaluations_per_epoch
    early_stopping: int | None = FinetuneConfig.early_stopping
    layer_decay: float = FinetuneConfig.layer_decay
    reinit_layers: int = FinetuneConfig.reinit_layers
    freeze_encoder: bool = FinetuneConfig.freeze_encoder
    restarts: int = FinetuneConfig.restarts
    weight_decay: float = OptimizerConfig.weight_decay
    warmup: float = OptimizerConfig.warmup
    seed: int | np.random.RandomState | None = FinetuneConfig.seed
    threads: int | None = FinetuneConfig.threads
    verbose: bool = False

    def save(self, path: str | Path) -> None:
        """Writes the fitted model as a model folder, which `bertsmith predict` reads as well.

        Raises:
            NotFittedError: there is no fitted model.
            FolderInUseError, StorageError: see `folder.save_model`.
        """
        from bertsmith.folder import save_model

        check_is_fitted(self, "model_")
        loaded = self.model_.loaded
        facts = {key: value for key, value in loaded.facts.items() if key not in OF_THE_FOLDER}
        save_model(Path(path), loaded.model, loaded.tokenizer, facts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Returns the fitted estimator of a model folder.

        The folder may also be one that `bertsmith finetune` wrote for the same task.

        Raises:
            MissingInputError, CheckpointError: the folder is not there, damaged, or of another
                task.
        """
        from bertsmith.folder import load_model

        loaded = load_model(Path(path))
        if loaded.facts.get("task") != cls.task:
            raise CheckpointError(
                f"{path}: its task is {loaded.facts.get('task')!r}; expected {cls.task!r}, "
                f"which a {cls.__name__} answers"
            )
        own = loaded.facts.get(REMEMBERED, {})
        given = own.get("parameters", loaded.facts.get("settings", {}))
        known = cls._get_param_names()
        estimator = cls(**{name: value for name, value in given.items() if name in known})
        estimator._keep(loaded, str(path))
        return estimator

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            with TemporaryDirectory(prefix="bertsmith-") as place:
                self.save(Path(place) / "model")
                files = sorted((Path(place) / "model").iterdir())
                state["model_"] = {file.name: file.read_bytes() for file in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        from bertsmith.predict import load

        state = dict(state)
        if "model_" in state:
            with TemporaryDirectory(prefix="bertsmith-") as place:
                for name, content in state["model_"].items():
                    (Path(place) / Path(name).name).write_bytes(content)
                state["model_"] = load(place)
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = (
            False  # one of numbers, which scikit-learn's checks would give
        )
        tags.non_deterministic = self.seed is None
        return tags

    def _finetune(
        self,
        task: Task,
        examples: Sequence[Any],
        dev: Sequence[Any] | None,
        options: TaskConfig,
        facts: Mapping[str, Any],
    ) -> Self:
        """Trains on examples and keeps the model of the best epoch."""
        from bertsmith.recipes.finetune import usual_learning_rate
        from bertsmith.recipes.given_rows import finetune_given

        model = self._encoder()
        is_drawn = not isinstance(self.seed, int | np.integer)
        seed: Any = check_random_state(self.seed).randint(2**31) if is_drawn else self.seed
        rate = self.learning_rate
        rate = usual_learning_rate(model) if rate is None else rate
        parameters = self.get_params(deep=False) | {"model": str(model)}
        if is_drawn:
            parameters["seed"] = None
        own = {"parameters": {name: _plain(value) for name, value in parameters.items()}}
        try:
            loaded, result = finetune_given(
                task,
                examples,
                dev,
                model,
                self._stage(FinetuneConfig, seed=int(seed)),
                self._stage(OptimizerConfig, learning_rate=float(rate)),
                options,
                {**facts, REMEMBERED: own | facts.get(REMEMBERED, {})},
                verbose=bool(self.verbose),
            )
        except StoppedError:
            raise KeyboardInterrupt("fit was stopped; nothing of it is kept") from None
        self._keep(loaded, f"the fitted {type(self).__name__}")
        self.dev_scores_: dict[str, float] = result["scores"]
        self.best_epoch_: float = result["best_epoch"]
        return self

    def _keep(self, loaded: Loaded, where: str) -> None:
        """Takes over a model, with what its folder remembers."""
        from bertsmith.predict import Model

        self.model_: Model = Model(loaded, where)

    def _stage(self, stage: type[Stage], **changes: Any) -> Stage:
        """Returns one stage's settings, made of the parameters."""
        known = setting_names(stage)
        given = self.get_params(deep=False)
        plain = {name: _plain(value) for name, value in given.items() if name in known}
        return stage(**(plain | changes))

    def _encoder(self) -> Path:
        if not isinstance(self.model, str | Path):
            raise ConfigError(
                f"model is {self.model!r}; expected the folder of an encoder, as in "
                f"{type(self).__name__}('run/model')"
            )
        return Path(self.model)

    def _predictions(self, X: Any) -> list[Prediction]:
        from bertsmith.recipes.given_rows import texts_of

        check_is_fitted(self, "model_")
        return self.model_.predict(texts_of(X, "X"))


@dataclass(kw_only=True, eq=False, repr=False)
class OnTexts(FineTuned):
    """What the estimators on texts, or on pairs of texts, share.

    X is a list, an array or a series of texts; for pairs a list of tuples, or two columns.
    """

    long_texts: Literal["cut", "windows"] = TaskConfig.long_texts

    def _keep(self, loaded: Loaded, where: str) -> None:
        super()._keep(loaded, where)
        self.n_features_in_ = 2 if loaded.facts.get("columns", {}).get("pair") else 1

    def _examples(
        self, X: Any, labels: Sequence[str], name: str
    ) -> tuple[list[Any], dict[str, Any]]:
        """Returns the rows, and what the model shall remember of their columns."""
        from bertsmith.recipes.given_rows import columns_of, example_of, texts_of

        texts = texts_of(X, name)
        check_consistent_length(texts, labels)
        if len(texts) < 2 and name == "X":
            raise ValueError(f"X has {len(texts)} sample(s); expected two or more to learn from")
        examples = [
            example_of(text, label, f"{name}[{number}]")
            for number, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        return examples, {"columns": columns_of(texts)}


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

        y = _targets(y)
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
            dev, _ = self._examples(X_dev, _names(_targets(y_dev), options), "X_dev")
        known = {"dtype": classes.dtype.str, "values": classes.tolist()}
        return self._finetune(
            task, examples, dev, options, facts | {REMEMBERED: {"classes": known}}
        )

    def predict(self, X: Any) -> NDArray[Any]:
        """Returns the likeliest class of each row, [N]; of several labels 0 and 1, [N, C]."""
        found = self._predictions(X)
        places = {label: place for place, label in enumerate(self._labels) if label is not None}
        if not self._is_several:
            return self.classes_[[places[row.answer] for row in found]]
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
        if known is None:
            self.classes_ = np.array(task.labels)
        else:
            self.classes_ = np.array(known["values"], dtype=known["dtype"])
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
            dev, _ = self._examples(X_dev, _numbers(y_dev), "X_dev")
        return self._finetune(Regress.learn(examples, options), examples, dev, options, facts)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Returns the number of each row. [N]"""
        return np.array([row.answer for row in self._predictions(X)], dtype=np.float64)


def _targets(y: Any) -> NDArray[Any]:
    """Returns labels as an array, [N], or [N, C] of 0 and 1 where rows have several."""
    if y is None:
        raise ValueError(NO_TARGETS)
    if np.asarray(y).dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("y contains NaN or infinity; expected a label in every row")
    check_classification_targets(y)
    if type_of_target(y, input_name="y") == "multilabel-indicator":
        return np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    labels = column_or_1d(y, warn=True)
    odd = [v for v in labels.tolist() if not isinstance(v, str | int | float | bool)]
    if odd:
        raise ValueError(
            f"y holds {odd[0]!r:.40}; expected labels that are texts, numbers or truth values"
        )
    return labels


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


def _plain(value: Any) -> Any:
    """Returns numpy's numbers as Python's, which settings and JSON take."""
    return value.item() if isinstance(value, np.generic) else value
