"""The settings of a pre-training run, over all its stages: what goes together, and what may change.

Source: Devlin et al. 2019, appendix A.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import (
    CorpusConfig,
    ExamplesConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    RanksConfig,
    WatchConfig,
    setting_names,
)
from bertsmith.errors import ConfigError
from bertsmith.recipes.pretraining.data import phases
from bertsmith.train.place import Place

# What a resumed run may do otherwise than it began: how long, how fast, how often it reports.
MAY_CHANGE = frozenset(
    {
        *("steps", "budget", "tokens_per_batch", "accumulate"),
        *("learning_rate", "muon_learning_rate", "schedule", "warmup", "decay_share"),
        *("first_tokens_per_batch", "batch_growth"),
        *("checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_examples"),
        *("log_every", "threads", "workers", "skip_bad_shards", "rank_timeout", "shard_model"),
        *setting_names(WatchConfig),
    }
)


@dataclass(frozen=True)
class PretrainSettings:
    """The settings of every stage that pre-training runs through."""

    run: PretrainConfig
    examples: ExamplesConfig
    optimizer: OptimizerConfig
    corpus: CorpusConfig
    prepare: PrepareConfig
    watch: WatchConfig = WatchConfig()
    ranks: RanksConfig = RanksConfig()

    def to_mapping(self) -> dict[str, Any]:
        """Returns all settings in one table; their names are unique over the stages."""
        table: dict[str, Any] = {}
        for stage in vars(self).values():
            table |= stage.to_mapping()
        return table

    def defaults(self) -> PretrainSettings:
        """Returns the same stages with nothing set: what runs had before a setting was there."""
        return PretrainSettings(**{name: type(stage)() for name, stage in vars(self).items()})

    @property
    def longest(self) -> int:
        """Returns the pieces of the longest example of any phase."""
        return max(each.sequence_length for each in phases(self.run, self.examples))


def check_settings(settings: PretrainSettings, vocab: Path | None, place: Place) -> None:
    """Refuses settings of several stages that contradict each other.

    Args:
        settings: of the run.
        vocab: the folder of a vocabulary, if one is given.
        place: of this process among the ranks.

    Raises:
        ConfigError: two settings contradict each other, or the number of ranks.
    """
    if vocab is not None and settings.run.vocab_size is not None:
        raise ConfigError(
            f"vocab is {vocab} and vocab_size is {settings.run.vocab_size}; expected one of them: "
            f"a vocabulary that is there, or the size of one to learn"
        )
    _refuse_what_modern_lacks(settings)
    _check_ranks(place, settings)


def _refuse_what_modern_lacks(settings: PretrainSettings) -> None:
    examples = settings.examples
    if settings.run.architecture == "modern" and (
        examples.sentence_task != "none" or examples.objective == "lm"
    ):
        raise ConfigError(
            f"architecture is 'modern' with sentence_task {examples.sentence_task!r} and objective "
            f"{examples.objective!r}; expected --sentence-task none and --objective mlm or rtd: "
            f"that kind of encoder reads in both directions and judges no pairs, and "
            f"--architecture bert is for the rest"
        )


def _check_ranks(place: Place, settings: PretrainSettings) -> None:
    if settings.ranks.shard_model and settings.examples.objective == "rtd":
        raise ConfigError(
            "objective is 'rtd' with shard_model, but generator and detection read the same "
            "embeddings, which a rank would hold parts of; give --no-shard-model, or "
            "--objective mlm"
        )
    if settings.ranks.shard_model and place.count == 1:
        raise ConfigError(
            "shard_model is set, but this is the only rank; start several by torchrun, or give "
            "--no-shard-model"
        )
    if settings.ranks.shard_model and settings.optimizer.optimizer == "muon":
        raise ConfigError(
            "optimizer is 'muon' with shard_model, but Muon needs whole matrices and a rank would "
            "hold parts of them; give --optimizer adamw, or --no-shard-model"
        )
    changes = (settings.run.first_tokens_per_batch, settings.examples.final_masked_lm_prob)
    if place.count > 1 and settings.run.budget is not None and changes != (None, None):
        raise ConfigError(
            "first_tokens_per_batch or final_masked_lm_prob is set with a budget, but clocks of "
            "ranks differ and their steps must not; give steps, or leave these two out"
        )
