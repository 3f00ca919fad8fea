"""Which engine computes a model: the one that was asked for, or the fastest that agrees.

Whatever is measured is measured on the user's own model and texts, and is said: the speed of each
engine, how far its states are from torch's, and what keeps another from being taken.

Shapes:  T tokens   S sequences   H hidden size   C classes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bertsmith.config import InferenceConfig
from bertsmith.data.framing import Framed, group_by_length
from bertsmith.data.packing import PackedBatch, pack_texts
from bertsmith.engines import ctranslate2_engine, onnxruntime_engine
from bertsmith.engines.ctranslate2_engine import CTranslate2Engine
from bertsmith.engines.engine import Engine, standing_on
from bertsmith.engines.onnxruntime_engine import OnnxRuntimeEngine
from bertsmith.engines.torch_engine import with_engine
from bertsmith.errors import ConfigError, MissingInputError
from bertsmith.model.bilstm import BertForFeatureTagging
from bertsmith.model.kinds import Encoder
from bertsmith.model.published import AnyModel, encoder_in
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForClassification,
    BertForTagging,
)
from bertsmith.tasks.pieces import TOKENS_PER_BATCH

FARTHEST = 1e-4  # states of float32 may be this far from torch's, as a share of the largest or of 1
_SECONDS = 1.0  # for which each engine is measured, or one pass if that takes longer
_CHECKED_LENGTHS = (23, 7)  # pieces of the sequences that an engine is held to torch on
_TIMED_TOKENS = 4096  # of the sample, spread over its lengths: a pass takes a moment

_MAKERS: dict[str, Callable[[Encoder, str], Engine]] = {
    "ctranslate2": CTranslate2Engine,
    "onnxruntime": OnnxRuntimeEngine,
}
_WHY_NOT: dict[str, Callable[[Encoder], str | None]] = {
    "ctranslate2": ctranslate2_engine.why_not,
    "onnxruntime": onnxruntime_engine.why_not,
}


@dataclass(frozen=True)
class Chosen:
    """A model that stands on an engine, and what is said of the choice."""

    model: AnyModel
    said: dict[str, Any] = field(default_factory=dict)  # of a command's result; empty by default


@dataclass(frozen=True)
class _Likeness:
    """How a model answers the sample, beside the same model by torch in float32."""

    farthest: float  # of one number of a state, as a share of the largest or of 1
    mean_cosine: float  # of the texts' mean vectors
    worst_cosine: float
    equal_labels: float | None  # share of them, where the model tells labels

    def told(self, precision: str) -> dict[str, float]:
        """Returns the figures that count in a precision."""
        if precision == "float32":
            return {"max_abs_difference": self.farthest}
        figures = {"mean_cosine": self.mean_cosine, "worst_cosine": self.worst_cosine}
        return figures | ({} if self.equal_labels is None else {"equal_labels": self.equal_labels})

    def refusal(self, config: InferenceConfig) -> str | None:
        """Returns why answers like these are not good enough, or None."""
        if config.precision == "float32":
            if self.farthest <= FARTHEST:
                return None
            return f"its states are {self.farthest:.1e} from torch's; expected {FARTHEST:.0e}"
        name, found = "mean cosine to float32", self.mean_cosine
        if self.equal_labels is not None:
            name, found = "share of labels equal to those of float32", self.equal_labels
        if found >= config.int8_bound:
            return None
        return f"its {name} is {found:.4f}; expected {config.int8_bound} (int8_bound)"


def choose(model: AnyModel, config: InferenceConfig, sample: Sequence[Framed]) -> Chosen:
    """Returns the model on the engine that `config` asks for, or that proves the fastest.

    Args:
        model: by torch, in evaluation mode; it stays as it is.
        config: which engine, and the bound of int8.
        sample: some of the user's texts; read where engines are measured.

    Raises:
        ConfigError: an engine that is asked for cannot compute the model, its int8 is not as near
            as the bound demands, a sample is needed and empty, or an engine's answers differ from
            torch's.
        MissingInputError: the engine is not installed.
    """
    device = encoder_in(model).embeddings.pieces.weight.device
    if config.engine != "torch" and device.type != "cpu":
        raise ConfigError(
            f"engine is {config.engine!r}, which is for a CPU, but the model is on {device}; "
            f"expected engine torch"
        )
    if isinstance(model, BertForFeatureTagging):
        return _by_torch_alone(model, config)
    if config.needs_sample and not sample:
        raise ConfigError(
            f"engine {config.engine} with precision {config.precision} is measured on your texts, "
            f"and none are given; expected some, as in load(path, engine='auto', sample=texts)"
        )
    if config.engine == "torch":
        return Chosen(with_engine(model))
    if config.engine == "auto":
        return _fastest(model, config, _Sample(model, sample))
    chosen = standing_on(model, _MAKERS[config.engine](encoder_in(model), config.precision))
    said: dict[str, Any] = {"engine": config.engine, "precision": config.precision}
    if config.precision == "int8":
        likeness = _Sample(model, sample).likeness(chosen)
        if reason := likeness.refusal(config):
            raise ConfigError(
                f"engine {config.engine} in int8 is refused on these texts: {reason}; use "
                f"precision float32, or a bound that your work allows"
            )
        said |= likeness.told("int8")
    elif reason := _Sample(model, _any_rows(encoder_in(model))).likeness(chosen).refusal(config):
        raise ConfigError(
            f"engine {config.engine} does not compute this model as torch does: {reason}; use "
            f"engine torch, and report it"
        )
    return Chosen(chosen, said)


def _by_torch_alone(model: BertForFeatureTagging, config: InferenceConfig) -> Chosen:
    """Returns a tagger on several layers by torch, as other engines give the last layer alone."""
    if config.engine not in ("torch", "auto") or config.precision != "float32":
        raise ConfigError(
            f"engine is {config.engine!r} with precision {config.precision}, but the model tags by "
            f"states of several layers, which torch alone gives; expected engine torch and float32"
        )
    said = {} if config.engine == "torch" else {"engine": "torch", "precision": "float32"}
    return Chosen(with_engine(model), said)


def _any_rows(encoder: Encoder) -> list[Framed]:
    """Returns sequences of pieces from all over the vocabulary, on which any engine is checked."""
    rng = np.random.default_rng(0)
    longest = encoder.config.max_position_embeddings
    pieces = [
        rng.integers(encoder.config.vocab_size, size=min(length, longest), dtype=np.int32)
        for length in _CHECKED_LENGTHS
    ]
    return [Framed(ids, np.zeros_like(ids), False) for ids in pieces]


def _fastest(model: AnyModel, config: InferenceConfig, sample: _Sample) -> Chosen:
    """Returns the model on the fastest engine of those that answer as they must."""
    started = time.perf_counter()
    candidates: dict[str, AnyModel] = {}
    told: dict[str, dict[str, Any]] = {}
    if config.precision == "float32":
        candidates["torch"], told["torch"] = with_engine(model), {}
    for name, make in _MAKERS.items():
        if reason := _WHY_NOT[name](encoder_in(model)):
            told[name] = {"passed_over": reason}
            continue
        try:
            candidate = standing_on(model, make(encoder_in(model), config.precision))
        except MissingInputError as error:
            told[name] = {"passed_over": str(error)}
            continue
        likeness = sample.likeness(candidate)
        told[name] = dict[str, Any](likeness.told(config.precision))
        if reason := likeness.refusal(config):
            told[name]["passed_over"] = reason
        else:
            candidates[name] = candidate
    if not candidates:
        reasons = "; ".join(f"{name}: {facts['passed_over']}" for name, facts in told.items())
        raise ConfigError(
            f"no engine can compute this model in {config.precision} on these texts ({reasons}); "
            f"use precision float32"
        )
    speeds = sample.speeds(candidates)
    best = max(speeds, key=lambda name: speeds[name])
    for name, speed in speeds.items():
        told[name] = {"texts_per_second": speed} | told[name]
    said = {"engine": best, "precision": config.precision, "engines": told}
    return Chosen(candidates[best], said | {"choosing_seconds": time.perf_counter() - started})


class _Sample:
    """Some of the user's texts in batches, with torch's answers to them."""

    def __init__(self, model: AnyModel, rows: Sequence[Framed]) -> None:
        self._batches = _batches(rows)
        self._exact = [_answers(model, batch) for batch in self._batches]
        every = max(1, round(sum(map(len, rows)) / _TIMED_TOKENS))
        timed = sorted(rows, key=len)[::every]
        self._timed, self._num_timed = _batches(timed), len(timed)

    def likeness(self, model: AnyModel) -> _Likeness:
        """Returns how near the answers of a model are to torch's in float32."""
        farthest, cosines, equal = 0.0, [], []
        for batch, (exact, exact_labels) in zip(self._batches, self._exact, strict=True):
            states, labels = _answers(model, batch)
            largest = max(1.0, float(exact.abs().max()))
            farthest = max(farthest, float((states - exact).abs().max()) / largest)
            starts = batch.sequence_starts
            cosines.append(F.cosine_similarity(_means(states, starts), _means(exact, starts)))
            if labels is not None and exact_labels is not None:
                equal.append((labels == exact_labels).all(1).float())
        every = torch.cat(cosines)  # [S]
        shares = float(torch.cat(equal).mean()) if equal else None
        return _Likeness(farthest, float(every.mean()), float(every.min()), shares)

    def speeds(self, models: dict[str, AnyModel]) -> dict[str, float]:
        """Returns the texts that each model's encoder reads in a second, its best pass counted.

        Passes take turns, so that a busy moment of the machine meets all alike.
        """
        best = dict.fromkeys(models, float("inf"))
        spent = dict.fromkeys(models, 0.0)
        while waiting := [name for name in models if spent[name] < _SECONDS]:
            for name in waiting:
                started = time.perf_counter()
                with torch.inference_mode():
                    for batch in self._timed:
                        encoder_in(models[name])(*_inputs(batch))
                seconds = time.perf_counter() - started
                best[name] = min(best[name], seconds)
                spent[name] += seconds
        return {name: self._num_timed / seconds for name, seconds in best.items()}


def _batches(rows: Sequence[Framed]) -> list[PackedBatch]:
    budget = max([TOKENS_PER_BATCH, *map(len, rows)])
    groups = group_by_length([len(row) for row in rows], tokens_per_batch=budget)
    return [pack_texts([rows[place] for place in group]) for group in groups]


def _inputs(batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts


def _answers(model: AnyModel, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
    """Returns the states, [T, H], and the labels of a model that tells some, a row of each."""
    with torch.inference_mode():
        states = encoder_in(model)(*_inputs(batch))  # [T, H]
        if not isinstance(model, BertForClassification | BertForTagging | BertForAnswering):
            return states, None
        logits = model.logits(*_inputs(batch))  # [S, C] or [T, C]
    if isinstance(model, BertForClassification) and model.several:
        return states, logits > 0
    if isinstance(model, BertForTagging) and model.num_intents:
        parts = logits.split([model.num_labels, model.num_intents], 1)
        return states, torch.stack([part.argmax(1) for part in parts], 1)  # [T, 2]
    return states, logits.argmax(1, keepdim=True)


def _means(states: Tensor, sequence_starts: Tensor) -> Tensor:
    """Returns the mean state of every sequence. [T, H], int32 [S + 1] -> [S, H]"""
    parts = states.split(sequence_starts.diff().tolist())
    return torch.stack([part.mean(0) for part in parts])  # [S, H]
