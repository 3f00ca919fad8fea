"""What a run is warned of while it goes on: that it learns nothing, or loses what it has learnt."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bertsmith.config import PretrainConfig, WatchConfig

PLATEAU_MARGIN = 0.02  # share of the unigram loss by which a model that reads lies below it
MEDIAN_ROWS = 50  # train rows whose losses the running median is of
FEWEST_ROWS = 3  # before which no loss is called high

PLATEAU, DIVERGENCE = "plateau", "divergence"
UNREPLACED = "unreplaced_share"  # of all pieces: how often 'not replaced' is the right answer


@dataclass
class Alarms:
    """Watches the losses as they are logged; what it knows can be told from the logged rows."""

    config: WatchConfig
    run: PretrainConfig
    weights: Mapping[str, float] = field(default_factory=dict)  # of losses in the objective
    # Of the newest train rows, as many as the median is of, and one.
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_ROWS + 1))
    is_plateau_told: bool = False

    @classmethod
    def after(
        cls,
        rows: Iterable[Mapping[str, Any]],
        config: WatchConfig,
        run: PretrainConfig,
        weights: Mapping[str, float],
    ) -> Alarms:
        """Returns the alarms of a run that has logged `rows`, as if it had never been stopped."""
        alarms = cls(config, run, weights)
        for row in rows:
            if row.get("split") == "train":
                alarms.losses.append(objective(row, weights))
            elif row.get("alarm") == PLATEAU:
                alarms.is_plateau_told = True
        return alarms

    def on_train(self, figures: Mapping[str, float]) -> str | None:
        """Takes in the means of a train row; returns a warning where the loss has just jumped.

        A row is compared with the running median before it, and one warning is given however long
        the loss stays up.
        """
        before = self._ratio()
        self.losses.append(objective(figures, self.weights))
        ratio = self._ratio()
        highest = self.config.divergence_ratio
        if ratio <= highest or before > highest:
            return None
        return (
            f"the loss is {self.losses[-1]:.3g}, {ratio:.1f} times its running median of "
            f"{self.losses[-1] / ratio:.3g}: what was learnt is being lost; begin again with a "
            f"lower --learning-rate or a longer --warmup"
        )

    def on_plateau(self, done: float, loss: float, unigram_loss: float) -> str | None:
        """Returns a warning, once, where a share `done` of the run has not passed frequencies."""
        is_passed = loss < unigram_loss * (1 - PLATEAU_MARGIN)
        if self.is_plateau_told or done < self.config.plateau_share or is_passed:
            return None
        self.is_plateau_told = True
        return (
            f"after {min(done, 1.0):.0%} of the run the loss on masked pieces is {loss:.3f}, and "
            f"that of piece frequencies alone is {unigram_loss:.3f}: nothing is learnt from "
            f"context yet; try {_ways_off(self.run)}"
        )

    def _ratio(self) -> float:
        """Returns the last loss over the median of those before it."""
        *before, last = self.losses or [0.0]
        return last / statistics.median(before) if len(before) >= FEWEST_ROWS else 1.0


def _ways_off(run: PretrainConfig) -> str:
    """Returns what may help a run off the plateau and is not in its settings already."""
    ways = ["a smaller --vocab-size or --size", "a lower --learning-rate", "a longer run"]
    if run.dropout:
        ways.insert(0, "--dropout 0")
    if run.initialization != "directed" and run.architecture == "bert":
        ways.insert(0, "--initialization directed")
    return f"{', '.join(ways[:-1])} or {ways[-1]}"


def objective(figures: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    """Returns what training minimises: the sum of the losses in a row, each by its weight or 1."""
    return float(sum(value * weights.get(name, 1.0) for name, value in _losses(figures).items()))


def piece_loss(figures: Mapping[str, Any]) -> float:
    """Returns the loss on pieces, which is the first that a model tells."""
    return next(iter(_losses(figures).values()))


def _losses(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in figures.items()
        if name.endswith("_loss") and name != "unigram_loss"
    }
