"""The settings of whoever watches a run: what is measured, sent elsewhere and warned of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from bertsmith.config.settings import Help, Settings


@dataclass(frozen=True, kw_only=True)
class WatchConfig(Settings):
    """How a pre-training run is watched; none of it changes the weights."""

    log_to: Annotated[
        Literal["tensorboard", "wandb", "mlflow", "trackio"] | None,
        Help("send the rows of metrics.jsonl there too"),
    ] = None
    measure_peak: Annotated[
        bool, Help("time matrix products first, and log the share of their speed that is reached")
    ] = False
    plateau_share: Annotated[
        float, Gt(0), Le(1), Help("share of the run after which no better than frequencies is odd")
    ] = 0.3
    divergence_ratio: Annotated[
        float, Gt(1), Help("a loss this many times its running median is warned of")
    ] = 2.0
    stop_at_divergence: Annotated[bool, Help("stop at such a loss")] = False
