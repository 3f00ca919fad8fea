"""Makes BERTs: from raw text to a vocabulary, a pre-trained encoder and a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertsmith.estimators import TextClassifier, TextRegressor, TokenTagger
    from bertsmith.predict import Model

__version__ = "0.1.0"
__all__ = ["TextClassifier", "TextRegressor", "TokenTagger", "load"]


def load(path: str | Path, engine: str = "torch", precision: str = "float32", **more: Any) -> Model:
    """Returns a model, ready for use, by its folder or by its name at the hub.

    The folder may be one that bertsmith or `transformers` wrote, or a Google checkpoint. The model
    has `.fill_mask()`, `.embed()` and `.predict()`. See `bertsmith.predict.Model`, and
    `bertsmith.predict.load` for engines.

    Raises:
        MissingInputError: there is no such folder, the hub gives no model of that name, or the
            engine is not installed.
        CheckpointError: it is damaged, or holds another kind of model.
        ConfigError: the engine cannot compute the model.
    """
    from bertsmith.predict import load  # torch loads here, not for --help or --version

    return load(path, engine, precision, **more)


def __getattr__(name: str) -> Any:
    """Returns an estimator; scikit-learn loads here, when one is asked for."""
    if name == "load" or name not in __all__:
        raise AttributeError(f"module 'bertsmith' has no attribute {name!r}")
    from bertsmith import estimators

    return vars(estimators)[name]
