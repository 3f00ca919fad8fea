"""Commands that pre-train."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from bertsmith.commands.arguments import RunOut
from bertsmith.config import (
    CorpusConfig,
    ExamplesConfig,
    Help,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    RanksConfig,
    WatchConfig,
)
from bertsmith.flags import Given, Result


def pretrain(
    given: Given,
    data: Annotated[list[str], Help("folders that `prepare` wrote, or raw text")],
    *,
    out: RunOut,
    vocab: Annotated[Path | None, Help("folder of the vocabulary, for raw text")] = None,
    resume: Annotated[bool, Help("go on from the newest checkpoint in the run folder")] = False,
) -> Result:
    """Trains an encoder on hidden pieces and next sentences, or on what else is asked for."""
    began = time.monotonic()  # before torch is loaded: a budget is that of the whole command
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.pretraining.budget import Choices
    from bertsmith.recipes.pretraining.named_recipes import recipe_of
    from bertsmith.recipes.pretraining.pretrain import pretrain
    from bertsmith.recipes.pretraining.settings import PretrainSettings
    from bertsmith.recipes.pretraining.start import settings_of_start

    source = given.values.get("from_")
    if source:
        given = given.over(settings_of_start(source, ProgressLine().say))

    def resolve(chosen: Mapping[str, Any]) -> PretrainSettings:
        told = given.over(chosen)
        told = told.over(recipe_of(told.values, told.where))
        return PretrainSettings(
            run=told.stage(PretrainConfig),
            examples=told.stage(ExamplesConfig),
            optimizer=told.stage(OptimizerConfig),
            corpus=told.stage(CorpusConfig),
            prepare=told.stage(PrepareConfig),
            watch=told.stage(WatchConfig),
            ranks=told.stage(RanksConfig),
        )

    settings = resolve({})
    choices: Choices | None = None
    if settings.run.budget is not None and "size" not in given.values:
        names = {"size", "sequence_length", "tokens_per_batch"} - given.values.keys()
        choices = Choices(names, settings, resolve)
    return pretrain(data, out, settings, vocab=vocab, resume=resume, began=began, choices=choices)


def report(
    given: Given, run: Annotated[Path, Help("run folder of a pre-training, also of one at work")]
) -> Result:
    """Writes the report of a pre-training run anew, from the metrics that it has logged."""
    from bertsmith.recipes.pretraining.report import write_report

    return {"out": str(write_report(run))}


COMMANDS = (
    (
        pretrain,
        (
            *(PretrainConfig, ExamplesConfig, OptimizerConfig),
            *(CorpusConfig, PrepareConfig, WatchConfig, RanksConfig),
        ),
    ),
    (report, ()),
)
