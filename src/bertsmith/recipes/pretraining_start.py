"""A pre-training run that begins with the weights of a model: `pretrain TEXT --from MODEL`.

The model's vocabulary, casing and shape are the run's. Heads that the model has not are drawn anew,
and which these are is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import BertConfig, EncoderConfig
from bertsmith.config.encoder import shape_of_size
from bertsmith.errors import ConfigError
from bertsmith.folder import load_encoder, load_model
from bertsmith.interop.sources import model_folder
from bertsmith.model.kinds import PretrainingModel, pretraining_model_of
from bertsmith.model.published import config_of
from bertsmith.recipes.pretraining_settings import PretrainSettings
from bertsmith.storage import read_json

Say = Callable[[str], None]


def start_folder(settings: PretrainSettings, say: Say) -> Path | None:
    """Returns the folder of the model that the run begins with, if it begins with one.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `interop.sources.model_folder`.
    """
    return model_folder(settings.run.from_, say=say) if settings.run.from_ else None


def settings_of_start(source: str, say: Say) -> dict[str, Any]:
    """Returns the settings that a model gives a run which begins with it: `size`, `architecture`.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `interop.sources.model_folder`.
    """
    config = _config_in(model_folder(source, say=say))
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    return {
        "size": "L{}-H{}-A{}".format(*sizes),
        "architecture": "bert" if isinstance(config, BertConfig) else "modern",
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


def started_model(settings: PretrainSettings, say: Say) -> PretrainingModel | None:
    """Returns the model that the run begins with; None where it begins with random weights.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `folder.load_model`.
    """
    folder = start_folder(settings, say)
    if folder is None:
        return None
    loaded = load_encoder(folder)
    config = replace(
        loaded.config,
        **loaded.config.with_dropout(settings.run.dropout),  # type: ignore[arg-type]
    )
    torch.manual_seed(settings.run.seed)
    model = pretraining_model_of(config, next_sentence=settings.examples.sentence_task != "none")
    there = load_model(folder).model
    state = there.state_dict() if isinstance(there, PretrainingModel) else {}
    state |= {f"encoder.{name}": weight for name, weight in loaded.model.state_dict().items()}
    wanted = model.state_dict()
    taken = {name: weight for name, weight in state.items() if name in wanted}
    drawn = sorted(wanted.keys() - taken.keys())
    if drawn:
        say(f"{folder}: has no {', '.join(drawn)}; drawn anew")
    model.load_state_dict(wanted | taken)
    return model


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
