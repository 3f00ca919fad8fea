"""A pre-training run that begins with the weights of a model: `pretrain TEXT --from MODEL`.

The model's vocabulary, casing and shape are the run's. Heads that the model has not are drawn anew,
and which these are is said.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertsmith.config import BertConfig, EncoderConfig, PretrainConfig
from bertsmith.config.encoder import shape_of_size
from bertsmith.errors import ConfigError
from bertsmith.interop.sources import model_folder
from bertsmith.model.published import config_of
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.storage import read_json

Say = Callable[[str], None]


def start_folder(settings: PretrainSettings, say: Say) -> Path | None:
    """Returns the folder of the model that the run begins with, if it begins with one.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `interop.sources.model_folder`.
    """
    return model_folder(settings.run.from_, say=say) if settings.run.from_ else None


def settings_of_start(source: str, say: Say) -> dict[str, Any]:
    """Returns the settings that a model gives a run which begins with it.

    They are `size` and `architecture`, which it has, and `initialization`, whatever the recipe's.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `interop.sources.model_folder`.
    """
    config = _config_in(model_folder(source, say=say))
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    return {
        "size": "L{}-H{}-A{}".format(*sizes),
        "architecture": "bert" if isinstance(config, BertConfig) else "modern",
        "initialization": PretrainConfig.initialization,
    }


def checked_start(settings: PretrainSettings, vocab: Path | None, say: Say) -> Path | None:
    """Returns the folder of the run's vocabulary: that of the model it begins with, else `vocab`.

    It is called before anything is written.

    Raises:
        ConfigError: a vocabulary is given beside the model's own, or settings ask for another
            shape, direction or length than the model has.
    """
    start = start_folder(settings, say)
    if start is None:
        return vocab
    if vocab is not None:
        raise ConfigError(
            f"vocab is {vocab}, but the run begins with {settings.run.from_}, which has a "
            f"vocabulary of its own; leave one of the two out"
        )
    _refuse_another_shape(_config_in(start), settings)
    return start


def _config_in(folder: Path) -> EncoderConfig:
    path = folder / "config.json"
    return config_of(read_json(path), str(path))


def _refuse_another_shape(config: EncoderConfig, settings: PretrainSettings) -> None:
    run = settings.run
    kind = "bert" if isinstance(config, BertConfig) else "modern"
    asked = {name: size for name, size in shape_of_size(run.size).items() if "inter" not in name}
    found = {name: getattr(config, name) for name in asked}
    if run.architecture != kind or asked != found:
        raise ConfigError(
            f"size is {run.size!r} and architecture {run.architecture!r}, but {run.from_} is of "
            f"architecture {kind!r} with {found}; leave size and architecture out"
        )
    if run.initialization != "published":
        raise ConfigError(
            f"initialization is {run.initialization!r}, but the run begins with the weights of "
            f"{run.from_}; leave initialization out"
        )
    if config.is_decoder != (settings.examples.objective == "lm"):
        reads = "left to right" if config.is_decoder else "in both directions"
        raise ConfigError(
            f"objective is {settings.examples.objective!r}, but {run.from_} reads {reads}; "
            f"give --objective {'lm' if config.is_decoder else 'mlm'}"
        )
    if settings.longest > config.max_position_embeddings:
        raise ConfigError(
            f"the longest examples have {settings.longest} pieces, but {run.from_} has positions "
            f"for {config.max_position_embeddings}; give --sequence-length and "
            f"--long-sequence-length of at most that"
        )
