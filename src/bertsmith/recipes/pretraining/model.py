"""The model that a pre-training run begins with: of random weights, or of those of another model.

What is drawn is drawn from the run's seed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from bertsmith.config import BertConfig, EncoderConfig, bert_of_size, modern_of_size
from bertsmith.data.mixture import Mixture
from bertsmith.data.shards import Corpus
from bertsmith.folder import load_encoder, load_model
from bertsmith.model.bert import Bert, begin_directed
from bertsmith.model.electra import ForReplacedTokens
from bertsmith.model.kinds import PretrainingModel, begin_silent, pretraining_model_of
from bertsmith.progress import ProgressLine
from bertsmith.recipes.pretraining.out_of_memory import refuse_too_large
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.recipes.pretraining.start import Say, start_folder


def new_model(corpus: Corpus | Mixture, settings: PretrainSettings) -> PretrainingModel:
    """Returns the model that a run begins with: that of `--from`, or one of random weights.

    Raises:
        TooLargeError: it is larger than the memory of this machine.
    """
    model = started_model(settings, ProgressLine().say)
    if model is None:
        config = _config_of(corpus, settings)
        refuse_too_large(config, settings.run.size)
        model = _drawn(config, settings)
    if settings.ranks.shard_model:
        return model  # whole in this machine's memory alone: devices hold their shards
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def started_model(settings: PretrainSettings, say: Say) -> PretrainingModel | None:
    """Returns the model that the run begins with; None where it begins with random weights.

    Raises:
        MissingInputError, ConfigError, CheckpointError: see `folder.load_model`.
    """
    folder = start_folder(settings, say)
    if folder is None:
        return None
    loaded = load_encoder(folder, dropout=settings.run.dropout)
    model = _drawn(loaded.config, settings)
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


def _config_of(corpus: Corpus | Mixture, settings: PretrainSettings) -> EncoderConfig:
    shape: dict[str, Any] = {
        "vocab_size": corpus.vocab_size,
        "max_position_embeddings": max(settings.longest, BertConfig.max_position_embeddings),
    }
    config: EncoderConfig
    if settings.run.architecture == "modern":
        config = modern_of_size(settings.run.size, **shape)
    else:
        is_decoder = settings.examples.objective == "lm"
        config = bert_of_size(settings.run.size, is_decoder=is_decoder, **shape)
    return replace(config, **config.with_dropout(settings.run.dropout))  # type: ignore[arg-type]


def _drawn(config: EncoderConfig, settings: PretrainSettings) -> PretrainingModel:
    """Returns a model of random weights, drawn from the run's seed."""
    torch.manual_seed(settings.run.seed)
    model: PretrainingModel
    if settings.examples.objective == "rtd":
        model = ForReplacedTokens(config, settings.examples.generator_share)
    else:
        with_pairs = settings.examples.sentence_task != "none"
        model = pretraining_model_of(config, next_sentence=with_pairs)
    if settings.run.initialization == "directed":
        assert isinstance(model.encoder, Bert), "settings are refused where both are given"
        begin_directed(model.encoder)
        if isinstance(model, ForReplacedTokens):
            model.generator.begin_directed()
    elif settings.run.initialization == "silent":
        begin_silent(model.encoder)
        if isinstance(model, ForReplacedTokens):
            begin_silent(model.generator)
    return model
