"""Pre-training on several ranks: the first one leads, the others follow.

The first rank runs as one alone would, and tells the others at each step's end what it is about to
do that takes all of them: to measure, each on its share; to bring a sharded model together; to go
on. Where there is one rank, nothing is told and nothing is done otherwise.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from bertsmith.config import OptimizerConfig, PretrainConfig
from bertsmith.data.mixture import Mixture
from bertsmith.data.shards import MANIFEST, Corpus
from bertsmith.errors import DataError, MissingInputError
from bertsmith.model.kinds import matrices_of_blocks
from bertsmith.recipes.pretraining.corpora import open_prepared, places_of
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.recipes.pretraining.watch import Evaluator
from bertsmith.train.checkpoint import tensors_of
from bertsmith.train.loop import Run, evaluate
from bertsmith.train.optimizer import optimizer_of
from bertsmith.train.pace import Pace
from bertsmith.train.stopping import StopRequests

if TYPE_CHECKING:
    from bertsmith.train.distributed import Group

AfterStep = Callable[[Run, dict[str, float]], None]

_START = "start"  # where the first rank leaves what the others begin with
_ORDER, _GO_ON, _MEASURE, _GATHER = "order", "go on", "measure", "gather"


class _Rank:
    """What every rank has: the group, and the signals that came to its own process."""

    def __init__(self, ranks: Group) -> None:
        self.ranks = ranks
        self._own_requests = StopRequests()

    def __enter__(self) -> Self:
        self._own_requests.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._own_requests.__exit__(*reason)

    def pace(self, pace: Pace, config: PretrainConfig) -> Pace:
        """Returns the pace that all ranks go by: of clocks that of the first, read once a step."""
        self._agreed_pace = pace
        if self.ranks.count == 1 or config.budget is None:
            return pace
        known: dict[int, float] = {}

        def agreed(step: int) -> float:
            if step not in known:
                known.clear()
                own = -math.inf if self.ranks.rank else pace(step)
                known[step] = self.ranks.highest([own])[0]
            return known[step]

        self._agreed_pace = agreed
        return agreed

    def _meet(self, run: Run) -> tuple[str, bool]:
        """Meets the others after a step; returns which signal asked to stop, and if to save."""
        self.ranks.at = f"after step {run.step}"
        self._agreed_pace(run.step)
        own = self._own_requests
        asked = signal.Signals[own.stop].value if own.stop else 0
        stop, save = self.ranks.highest([asked, own.take_save()])
        return signal.Signals(int(stop)).name if stop else "", bool(save)


class FirstRank(_Rank):
    """The first of several ranks, or the only one; a context manager for its whole sitting."""

    def __init__(self, ranks: Group) -> None:
        super().__init__(ranks)
        # What is asked of all ranks together: of several, a signal that another rank was sent
        # must not make one's own signal the second, which ends a process at once.
        self.requests = self._own_requests if ranks.count == 1 else StopRequests()
        self._gathered = -1

    def begin(
        self,
        run: Run,
        corpus: Corpus | Mixture,
        state: Mapping[str, Any],
        settings: PretrainSettings,
        chosen: Mapping[str, int | str],
        new_model: Callable[[], nn.Module],
    ) -> Run:
        """Gives the others the state of `run`; returns the run to train, which may be sharded.

        Args:
            run: restored, if there was something to restore.
            corpus: that all are to read.
            state: what the checkpoint held besides.
            settings: the optimizer's and those of the ranks.
            chosen: settings that this rank has chosen for all.
            new_model: makes such a model.
        """
        self._whole = self._trained = run
        if self.ranks.count == 1:
            return run
        needed = {name: state[name] for name in ("stream",) if name in state}
        places = [str(place.resolve()) for place in places_of(corpus)]
        told = {"corpora": places, "fingerprint": corpus.fingerprint, "chosen": dict(chosen)}
        self.ranks.of_first(_START, lambda: told | {"step": run.step, "state": needed})
        if settings.ranks.shard_model:
            self._trained = _sharded(self.ranks, run, settings.optimizer, new_model, run.step)
        else:
            self.ranks.copy_from_first(tensors_of(run).values())
        return self._trained

    def evaluator(self, evaluator: Evaluator | None) -> Evaluator | None:
        """Returns an evaluator that measures on all ranks at once."""
        if self.ranks.count == 1 or evaluator is None:
            return evaluator
        return _SharedEvaluator(evaluator.batches, evaluator.unigram_loss, self)

    def measure(self, evaluator: Evaluator) -> dict[str, float]:
        """Returns the held-out figures of the trained model, measured by all ranks."""
        self._tell(_MEASURE)
        return _measure(self._trained, evaluator, self.ranks)

    def gather(self) -> None:
        """Brings a sharded model together in the run that is written, once for each step."""
        if self._trained is self._whole or self._gathered == self._trained.step:
            return
        from bertsmith.train.sharding import gather

        self._tell(_GATHER)
        gather(self._trained, self._whole)
        self._gathered = self._trained.step

    def after_step(self, after_step: AfterStep) -> AfterStep:
        """Returns the loop's hook: all ranks meet, the first does `after_step`, and all go on."""
        if self.ranks.count == 1:
            return after_step

        def lead(run: Run, figures: dict[str, float]) -> None:
            self._whole.step = run.step
            self.requests.stop, save = self._meet(run)
            if save:
                self.requests.ask_save()
            with self.leading():
                after_step(self._whole, figures)

        return lead

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Lets the others wait for its body, then go on; if it fails, they fail with its error."""
        if self.ranks.count == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            self.ranks.tell_failure(error)
            raise
        self._tell(_GO_ON)

    def _tell(self, order: str) -> None:
        self.ranks.tell({_ORDER: order})


class OtherRank(_Rank):
    """Any rank but the first; a context manager for its whole sitting."""

    def begin(
        self, config: PretrainConfig
    ) -> tuple[Corpus | Mixture, dict[str, Any], dict[str, Any]]:
        """Waits until the first rank has the corpora; returns them, and what it tells of the run.

        That is where reading stands, and the settings that it has chosen.

        Raises:
            MissingInputError: a corpus is not there on this machine.
            DataError: another one stands there.
        """
        told = self.ranks.of_first(_START)
        places = [Path(place) for place in told["corpora"]]
        for place in places:
            if not (place / MANIFEST).is_file():
                raise MissingInputError(
                    f"{place}: the corpus of the first rank is not there for rank "
                    f"{self.ranks.rank}; put the run folder on a disk that all machines share, or "
                    f"prepare the corpus before and copy it to the same place on each"
                )
        corpus = open_prepared(places, config, lambda line: None)
        if corpus.fingerprint != told["fingerprint"]:
            raise DataError(
                f"{corpus.path}: is corpus {corpus.fingerprint[:16]} for rank {self.ranks.rank} "
                f"and {told['fingerprint'][:16]} for the first; give all machines the same"
            )
        self._step = int(told["step"])
        return corpus, told["state"], told["chosen"]

    def join(self, settings: PretrainSettings, new_model: Callable[[], nn.Module]) -> Run:
        """Returns a run in the state of the first rank's."""
        if settings.ranks.shard_model:
            self.run = _sharded(self.ranks, None, settings.optimizer, new_model, self._step)
        else:
            model = new_model()
            matrices = matrices_of_blocks(model)
            optimizer = optimizer_of(model, settings.optimizer, matrices=matrices)
            self.run = Run(model, optimizer, self._step)
            self.ranks.copy_from_first(tensors_of(self.run).values())
        return self.run

    def after_step(self, evaluator: Evaluator | None) -> AfterStep:
        """Returns the loop's hook: all ranks meet, and this one does as it is told."""
        self._evaluator = evaluator

        def follow(run: Run, figures: dict[str, float]) -> None:
            self._meet(run)
            self.obey()

        return follow

    def obey(self) -> None:
        """Does what the first rank says until it says to go on.

        Raises:
            BertsmithError: the first rank's: it has failed, or was stopped.
        """
        while (order := self.ranks.hear()[_ORDER]) != _GO_ON:
            if order == _GATHER:
                from bertsmith.train.sharding import gather

                gather(self.run, None)
            else:
                assert order == _MEASURE and self._evaluator is not None
                _measure(self.run, self._evaluator, self.ranks)


@dataclass(frozen=True)
class _SharedEvaluator(Evaluator):
    """Measures the model that is trained, on all ranks."""

    first: FirstRank

    def measure(self, model: nn.Module) -> dict[str, float]:
        return self.first.measure(self) | {"unigram_loss": self.unigram_loss}


def _measure(run: Run, evaluator: Evaluator, ranks: Group) -> dict[str, float]:
    device = next(run.model.parameters()).device
    batches = (batch.to(device).tensors() for batch in evaluator.batches)
    return evaluate(run.model, batches, ranks)


def _sharded(
    ranks: Group,
    whole: Run | None,
    config: OptimizerConfig,
    new_model: Callable[[], nn.Module],
    step: int,
) -> Run:
    """Returns this rank's part of the sharded run, in the state of the first rank's `whole`."""
    from bertsmith.train.sharding import scatter, shard

    with torch.device("meta"):
        model = new_model()
    shard(model, ranks.count)
    run = Run(model, optimizer_of(model, config, matrices={}), step)
    scatter(whole, run)
    return run
