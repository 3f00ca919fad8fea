"""Commands that pre-train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    from bertsmith.progress import ProgressLine
    from bertsmith.recipes.pretrain import pretrain
    from bertsmith.recipes.pretraining_settings import PretrainSettings, paper_optimizer
    from bertsmith.recipes.pretraining_start import settings_of_start

    source = given.values.get("from_")
    run = given.stage(
        PretrainConfig, **(settings_of_start(source, ProgressLine().say) if source else {})
    )
    settings = PretrainSettings(
        run=run,
        examples=given.stage(ExamplesConfig),
        optimizer=given.stage(OptimizerConfig, **paper_optimizer(run)),
        corpus=given.stage(CorpusConfig),
        prepare=given.stage(PrepareConfig),
        watch=given.stage(WatchConfig),
        ranks=given.stage(RanksConfig),
    )
    return pretrain(data, out, settings, vocab=vocab, resume=resume)


def report(
    given: Given, run: Annotated[Path, Help("run folder of a pre-training, also of one at work")]
) -> Result:
    """Writes the report of a pre-training run anew, from the metrics that it has logged."""
    from bertsmith.recipes.pretraining_report import write_report

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
