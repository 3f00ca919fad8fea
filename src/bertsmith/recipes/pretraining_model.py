"""The model that a pre-training run begins with: of random weights, drawn from the run's seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from bertsmith.config import BertConfig, EncoderConfig, bert_of_size, modern_of_size
from bertsmith.data.mixture import Mixture
from bertsmith.data.shards import Corpus
from bertsmith.model.bert import Bert, begin_directed
from bertsmith.model.electra import BertForReplacedTokens
from bertsmith.model.kinds import PretrainingModel, begin_silent, pretraining_model_of
from bertsmith.recipes.pretraining_settings import PretrainSettings


def new_model(corpus: Corpus | Mixture, settings: PretrainSettings) -> PretrainingModel:
    """Returns a model of random weights, drawn from the run's seed."""
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
    config = replace(config, **config.with_dropout(settings.run.dropout))  # type: ignore[arg-type]
    torch.manual_seed(settings.run.seed)
    model: PretrainingModel
    if settings.examples.objective == "rtd":
        assert isinstance(config, BertConfig), "settings are refused where both are given"
        model = BertForReplacedTokens(config, settings.examples.generator_share)
    else:
        with_pairs = settings.examples.sentence_task != "none"
        model = pretraining_model_of(config, next_sentence=with_pairs)
    if settings.run.initialization == "directed":
        assert isinstance(model.encoder, Bert), "settings are refused where both are given"
        begin_directed(model.encoder)
        if isinstance(model, BertForReplacedTokens):
            model.generator.begin_directed()
    elif settings.run.initialization == "silent":
        begin_silent(model.encoder)
        if isinstance(model, BertForReplacedTokens):
            begin_silent(model.generator)
    if settings.ranks.shard_model:
        return model  # whole in this machine's memory alone: devices hold their shards
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
