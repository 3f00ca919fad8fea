"""What scikit-learn's estimators here share: parameters, and a fitted model that is a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d

from bertsmith.config import FinetuneConfig, OptimizerConfig, Settings, TaskConfig, setting_names
from bertsmith.errors import CheckpointError, ConfigError, StoppedError

if TYPE_CHECKING:
    from bertsmith.folder import Loaded
    from bertsmith.predict import Model
    from bertsmith.tasks.task import Task

Stage = TypeVar("Stage", bound=Settings)

REMEMBERED = "estimator"  # the key of a model folder's facts under which an estimator keeps its own
OF_THE_FOLDER = ("format_version", "versions", "files")  # facts that a folder is given when written
NO_TARGETS = "fit requires y to be passed, but the target y is None; give one label for each row"


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
        from bertsmith.recipes.finetuning.finetune import usual_learning_rate
        from bertsmith.recipes.finetuning.given_rows import finetune_given

        model = self._encoder()
        is_drawn = not isinstance(self.seed, int | np.integer)
        seed: Any = check_random_state(self.seed).randint(2**31) if is_drawn else self.seed
        rate = self.learning_rate
        rate = usual_learning_rate(model) if rate is None else rate
        parameters = self.get_params(deep=False) | {"model": str(self.model)}
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
                f"model is {self.model!r}; expected the folder of an encoder, or a name at the "
                f"hub, as in {type(self).__name__}('run/model')"
            )
        from bertsmith.interop.sources import model_folder
        from bertsmith.progress import ProgressLine

        return model_folder(self.model, say=ProgressLine().say)


def targets_of(y: Any) -> NDArray[Any]:
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


def classes_as_json(classes: NDArray[Any]) -> dict[str, Any]:
    """Returns classes as JSON can hold them, with their type."""
    return {"dtype": classes.dtype.str, "values": classes.tolist()}


def classes_from_json(known: Mapping[str, Any]) -> NDArray[Any]:
    """Returns the classes that `classes_as_json` was given."""
    return np.array(known["values"], dtype=known["dtype"])


def _plain(value: Any) -> Any:
    """Returns numpy's numbers as Python's, which settings and JSON take."""
    return value.item() if isinstance(value, np.generic) else value
