"""The settings of the runs: how weights are moved and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """How weights are moved. The defaults are those of fine-tuning.

    Source: Devlin et al. 2019, appendix A.2 and A.3; `optimization.py`.
    """

    optimizer: Annotated[
        Literal["adamw", "muon"], Help("muon: for the matrices of all blocks, AdamW for the rest")
    ] = "adamw"
    learning_rate: Annotated[
        float,
        Gt(0),
        Help("peak learning rate", default="by the recipe and the encoder's width", alias="lr"),
    ] = 5e-5
    muon_learning_rate: Annotated[float, Gt(0), Help("peak rate of what Muon moves")] = 0.02
    weight_decay: Annotated[float, Ge(0), Help("decay of weights, not of biases and norms")] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1), Help("memory of the gradient's mean")] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1), Help("memory of the gradient's square")] = 0.999
    epsilon: Annotated[float, Gt(0), Help("added to the root of the gradient's square")] = 1e-6
    bias_correction: Annotated[
        bool, Help("correct Adam's means for their start; the published code does not")
    ] = True
    max_gradient_norm: Annotated[float, Gt(0), Help("longer gradients are shortened to this")] = 1.0
    schedule: Annotated[
        Literal["linear", "one-cycle", "flat"],
        Help("published, a triangle with its peak after warmup, or flat until decay_share is left"),
    ] = "linear"
    warmup: Annotated[float, Ge(0), Le(1), Help("share of the run in which the rate rises")] = 0.1
    decay_share: Annotated[
        float, Ge(0), Le(1), Help("share of the run in which a flat schedule falls to zero")
    ] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "flat" and self.warmup + self.decay_share > 1:
            raise ConfigError(
                f"warmup {self.warmup} and decay_share {self.decay_share} are together more than "
                f"1; expected shares of one run, as in 0.02 and 0.5"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """One pre-training run. The defaults are those of `--recipe paper`."""

    recipe: Annotated[
        Literal["paper", "modern"], Help("what is not set otherwise: as in the paper, or ours")
    ] = "paper"
    size: Annotated[
        str, Help("tiny mini small medium base large, or L6-H384-A12; with a budget: chosen")
    ] = "mini"
    from_: Annotated[
        str | None, Help("model to begin with: its weights, shape, vocabulary and casing")
    ] = None
    steps: Annotated[int | None, Ge(1), Help("optimizer steps; by default one epoch")] = None
    budget: Annotated[str | None, Help("time of the whole command instead, as in 90s, 30m, 3h")] = (
        None
    )
    architecture: Annotated[
        Literal["bert", "modern"], Help("modern: rotary positions, local attention, gated blocks")
    ] = "bert"
    dropout: Annotated[float, Ge(0), Lt(1), Help("of states and of attention weights")] = 0.1
    initialization: Annotated[
        Literal["published", "directed", "silent"],
        Help("directed: half of the heads begin by reading nearby; silent: blocks add nothing yet"),
    ] = "published"
    tokens_per_batch: Annotated[int, Ge(8), Help("most pieces in one optimizer step")] = 4096
    first_tokens_per_batch: Annotated[
        int | None, Ge(8), Help("most pieces in the first step; grows to tokens_per_batch")
    ] = None
    batch_growth: Annotated[
        Literal["linear", "doubling"], Help("how it grows over the run: evenly, or twofold at once")
    ] = "linear"
    accumulate: Annotated[int, Ge(1), Help("parts in which a batch goes through the model")] = 1
    long_sequence_length: Annotated[int, Ge(8), Help("pieces in an example of the last phase")] = (
        512
    )
    long_sequence_share: Annotated[
        float, Ge(0), Lt(1), Help("share of the steps in the last phase (0: none)")
    ] = 0.1
    vocab_size: Annotated[
        int | None, Gt(5), Help("learn a vocabulary of this size from the text")
    ] = None
    weights: Annotated[
        str | None,
        Help("how often each of several corpora is drawn, as in 0.7,0.3; by default as its size"),
    ] = None
    skip_bad_shards: Annotated[
        bool, Help("train without the shards of a corpus that are damaged, and say what is lost")
    ] = False
    cased: Annotated[
        bool | None, Help("keep case and accents; by default as a given vocabulary does, else no")
    ] = None
    checkpoint_every: Annotated[int, Ge(1), Help("steps between checkpoints")] = 1000
    keep_checkpoints: Annotated[int, Ge(1), Help("newest checkpoints kept")] = 2
    evaluate_every: Annotated[int, Ge(1), Help("steps between held-out evaluations")] = 500
    evaluate_examples: Annotated[int, Ge(1), Help("held-out examples in an evaluation")] = 1024
    log_every: Annotated[int, Ge(1), Help("steps between rows of metrics.jsonl")] = 10
    seed: Annotated[int, Ge(0), Lt(2**32), Help("of weights, order, masks and dropout")] = 0
    threads: Annotated[int | None, Ge(1), Help("threads of torch; by default one per core")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.budget is not None:
            raise ConfigError("steps and budget are both given; choose one of them")
        if self.budget is not None:
            seconds_of(self.budget)
        if self.first_tokens_per_batch and self.first_tokens_per_batch > self.tokens_per_batch:
            raise ConfigError(
                f"first_tokens_per_batch is {self.first_tokens_per_batch}; expected at most "
                f"tokens_per_batch, {self.tokens_per_batch}, to which it grows"
            )
        if self.weights is not None:
            weights_of(self.weights)
        if self.architecture == "modern" and self.initialization == "directed":
            raise ConfigError(
                "initialization is 'directed', which draws position embeddings, and architecture "
                "'modern' has none; choose initialization 'published' or 'silent'"
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """One fine-tuning run.

    Source: Devlin et al. 2019, appendix A.3, for the rates, batch sizes and epochs.
    """

    epochs: Annotated[int, Ge(1), Help("passes over the training rows")] = 3
    batch_size: Annotated[int, Ge(1), Help("rows in one optimizer step")] = 32
    max_length: Annotated[
        int, Ge(4), Help("longer texts are cut to this many pieces", default="128; for answer 384")
    ] = 128
    dev_share: Annotated[
        float, Gt(0), Lt(1), Help("share of training rows split off where there is no dev file")
    ] = 0.1
    evaluations_per_epoch: Annotated[int, Ge(1), Help("dev evaluations in each epoch")] = 1
    early_stopping: Annotated[
        int | None, Ge(1), Help("stop after this many evaluations without a better score")
    ] = None
    dropout: Annotated[
        float, Ge(0), Lt(1), Help("of states and attention weights, whatever it was before")
    ] = 0.1
    layer_decay: Annotated[
        float, Gt(0), Le(1), Help("rate of each block as a share of that of the block above")
    ] = 1.0
    reinit_layers: Annotated[int, Ge(0), Help("top blocks that begin with new weights")] = 0
    freeze_encoder: Annotated[bool, Help("train what stands on the encoder alone")] = False
    restarts: Annotated[
        int, Ge(0), Help("how often a run that learnt nothing is begun again with another seed")
    ] = 2
    train_anyway: Annotated[bool, Help("train even if the data check finds an error")] = False
    seed: Annotated[int, Ge(0), Lt(2**32), Help("of the head, order and dropout")] = 0
    split_seed: Annotated[
        int, Ge(0), Lt(2**32), Help("of the dev rows split off, and of folds")
    ] = 0
    threads: Annotated[int | None, Ge(1), Help("threads of torch; by default one per core")] = None


@dataclass(frozen=True, kw_only=True)
class RanksConfig(Settings):
    """How several ranks, started by torchrun, train together."""

    rank_timeout: Annotated[
        str, Help("how long a rank waits for one that does not answer, as in 90s, 10m")
    ] = "10m"
    shard_model: Annotated[bool, Help("keep only a part of the weights on each rank, by FSDP2")] = (
        False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        seconds_of(self.rank_timeout, "rank_timeout")

    @property
    def timeout_seconds(self) -> float:
        """Returns `rank_timeout` in seconds."""
        return seconds_of(self.rank_timeout, "rank_timeout")


def seconds_of(duration: str, setting: str = "budget") -> float:
    """Returns the seconds in a duration such as '90s', '30m', '1.5h' or '2d' of a setting.

    Raises:
        ConfigError: it is not a positive number with one of those units.
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", duration)
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not seconds > 0:
        raise ConfigError(
            f"{setting} is {duration!r}; expected a duration such as 90s, 30m, 3h or 2d"
        )
    return seconds


def weights_of(weights: str) -> tuple[float, ...]:
    """Returns the numbers in weights such as '0.7,0.3'.

    Raises:
        ConfigError: one is not a number above zero.
    """
    numbers = [re.fullmatch(r" *([0-9]{0,9}\.?[0-9]{1,9}) *", part) for part in weights.split(",")]
    found = tuple(float(number[1]) if number else 0.0 for number in numbers)
    if not all(number > 0 for number in found):
        raise ConfigError(
            f"weights is {weights!r}; expected a number above zero for each corpus, as in 0.7,0.3"
        )
    return found
