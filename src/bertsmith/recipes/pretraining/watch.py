"""What happens between two steps of pre-training: log, evaluate, warn, save, stop on request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from bertsmith.config import PretrainConfig
from bertsmith.data.packing import PackedBatch
from bertsmith.errors import DivergedError, NotFiniteError, StoppedError
from bertsmith.folder import save_model
from bertsmith.model.kinds import PretrainingModel, kept_of
from bertsmith.progress import ProgressLine, duration
from bertsmith.recipes.pretraining.alarms import (
    DIVERGENCE,
    PLATEAU,
    UNREPLACED,
    Alarms,
    piece_loss,
)
from bertsmith.recipes.pretraining.data import StepStream
from bertsmith.recipes.pretraining.filled_masks import HiddenWord, fill, readable
from bertsmith.recipes.pretraining.metric_sinks import Mirror
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.checkpoint import purge_checkpoints, save_checkpoint
from bertsmith.train.loop import Run, evaluate
from bertsmith.train.pace import Ending, Pace, Stopwatch
from bertsmith.train.run_folder import RunFolder
from bertsmith.train.stopping import StopRequests

EVALUATING, SAVING = "evaluating", "saving"  # what the end of a run consists of

_FIGURES = ("_loss", "_accuracy", UNREPLACED)  # ends of the names that a result tells


@dataclass
class Window:
    """The means of what the steps since the last logged row have given."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in steps, not in evaluating or saving
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float], tokens: int, seconds: float) -> None:
        """Takes in one step."""
        self.steps += 1
        self.tokens += tokens
        self.seconds += seconds
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Returns the mean of each figure over the steps."""
        return {name: value / self.steps for name, value in self.sums.items()}


@dataclass(frozen=True)
class Evaluator:
    """The held-out batches, and what the unigram model makes of them."""

    batches: list[PackedBatch]
    unigram_loss: float

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Returns the held-out figures of `model`, beside the unigram model's loss."""
        device = next(model.parameters()).device
        figures = evaluate(model, (batch.to(device).tensors() for batch in self.batches))
        return figures | {"unigram_loss": self.unigram_loss}


@dataclass
class Watch:
    """Watches over one sitting of a run; `after_step` is the loop's hook."""

    model: PretrainingModel
    tokenizer: Tokenizer
    config: PretrainConfig
    facts: Mapping[str, Any]  # what the model folder remembers of the run
    folder: RunFolder
    stream: StepStream
    evaluator: Evaluator | None
    pace: Pace
    stopwatch: Stopwatch
    progress: ProgressLine
    requests: StopRequests
    how_to_go_on: str
    alarms: Alarms
    mirror: Mirror
    probe: PackedBatch  # a few examples, on which weights are tried before they are written
    hidden: Sequence[HiddenWord] = ()  # words that the model guesses at each evaluation
    train_unigram_loss: float | None = None  # where no text was set aside
    flop_share: Callable[[float], float] | None = None  # tokens a second -> share of the peak
    before_writing: Callable[[], None] = lambda: None  # puts all weights into `model`
    window: Window = field(default_factory=Window)
    step_seconds: float = 0.0  # spent in steps, over all sittings
    ending: Ending = field(default_factory=Ending)

    def __post_init__(self) -> None:
        self._tokens = self.stream.state.tokens
        self._step_started = time.monotonic()
        self._sitting: tuple[float, float] | None = None  # seconds and share done at its first step

    def after_step(self, run: Run, figures: dict[str, float]) -> None:
        """Logs, evaluates and saves as the settings say; then stops if that was asked for.

        Raises:
            StoppedError: a signal asked for it; everything is saved.
        """
        config, done = self.config, self.pace(run.step)
        self._count(figures)
        self._show(run, done)
        if run.step % config.log_every == 0 or done >= 1:
            self._log(run, done)
        if run.step % config.evaluate_every == 0 and done < 1:
            self.evaluate(run)
        if self.requests.stop:
            place = self.save(run)
            raise StoppedError(
                f"{self.folder.path}: stopped by {self.requests.stop} after step {run.step}, "
                f"saved as {place}; go on with: {self.how_to_go_on}"
            )
        if self.requests.take_save() or run.step % config.checkpoint_every == 0:
            self.save(run)
        self._step_started = time.monotonic()

    def begin(self, run: Run, measured: Mapping[str, float]) -> None:
        """Logs what the checks before the first step of a new run have measured."""
        self._log_row(run, "start", measured)
        self._step_started = time.monotonic()

    def evaluate(self, run: Run) -> dict[str, float]:
        """Writes the model folder; returns and logs the held-out figures, if text was set aside.

        Raises:
            NotFiniteError: as `_refuse_broken`; the model folder stays as it was.
        """
        started = time.monotonic()
        figures = self.evaluator.measure(self.model) if self.evaluator else {}
        self.before_writing()
        self._refuse_broken(run)
        facts = {**self.facts, "step": run.step, "scores": figures}
        save_model(self.folder.model, kept_of(self.model), self.tokenizer, facts)
        if figures:
            self._log_row(run, "held_out", figures)
            self.progress.say(
                f"step {run.step:,}  held out: {_readable(figures)}  "
                f"(unigram loss {figures['unigram_loss']:.3f})"
            )
            if "mlm_loss" in figures:  # a model of another objective fills no masks
                self._fill(run)
            self._warn_of_plateau(run, self.pace(run.step), figures, figures["unigram_loss"])
        self.ending.took(EVALUATING, time.monotonic() - started)
        return figures

    def _refuse_broken(self, run: Run) -> None:
        """Refuses weights that the last step has broken, which the loop would see one step later.

        Raises:
            NotFiniteError: a weight, or a loss on `probe`, is NaN or infinite.
        """
        largest = torch.stack([weight.detach().abs().max() for weight in self.model.parameters()])
        device = next(self.model.parameters()).device
        probe = evaluate(self.model, [self.probe.to(device).tensors()])
        for name, value in {"largest weight": float(largest.max()), **probe}.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{self.folder.path}: after step {run.step} the {name} is {value}: the weights "
                    f"are of no use, and nothing of them is written; go on from the checkpoint "
                    f"before, or begin anew, with a lower learning rate or a longer warm-up"
                )

    def finish(self, run: Run) -> dict[str, Any]:
        """Evaluates and saves for the last time; returns the run's result."""
        rows = self.folder.metrics()
        found = [row for row in rows if row["split"] == "held_out" and row["step"] == run.step]
        is_done = found and self.folder.model.is_dir()  # a finished run that was resumed
        figures = _told(found[-1]) if is_done else self.evaluate(run)
        self.save(run)
        split = "held_out" if figures else "train"
        if not figures:
            logged = [row for row in rows if row["split"] == "train"]
            figures = _told(logged[-1] if logged else self.window.means())
        return {
            "steps": run.step,
            "tokens": self._tokens,
            "seconds": round(self.stopwatch.seconds(), 3),
            "tokens_per_second": round(self._tokens / max(self.step_seconds, 1e-9), 1),
            "split": split,
            **figures,
            "out": str(self.folder.path),
        }

    def save(self, run: Run) -> str:
        """Writes a checkpoint and removes those that are no longer kept; returns its name.

        Raises:
            NotFiniteError: as `_refuse_broken`; the older checkpoints stand.
        """
        started = time.monotonic()
        state = {
            "stream": self.stream.state.to_mapping(),
            "window": vars(self.window),
            "seconds": self.stopwatch.seconds(),
            "step_seconds": self.step_seconds,
            "ending_seconds": self.ending.seconds,
            "corpus": self.facts["corpus"],
            "tokenizer": self.facts["tokenizer"],
        }
        self.before_writing()
        self._refuse_broken(run)
        place = save_checkpoint(self.folder.checkpoints, run, state)
        purge_checkpoints(self.folder.checkpoints, self.config.keep_checkpoints)
        self.ending.took(SAVING, time.monotonic() - started)
        return place.name

    def _count(self, figures: Mapping[str, float]) -> None:
        seconds = time.monotonic() - self._step_started
        tokens = self.stream.state.tokens
        self.window.add(figures, tokens - self._tokens, seconds)
        if self.evaluator and not self.ending.seconds:
            # A pass without gradients takes about a third of a step, and some is written.
            held_out = sum(batch.num_tokens for batch in self.evaluator.batches)
            self.ending.took(EVALUATING, held_out * seconds / (2 * (tokens - self._tokens) or 1))
        self._tokens = tokens
        self.step_seconds += seconds

    def _show(self, run: Run, done: float) -> None:
        now = self.stopwatch.seconds()
        if self._sitting is None:
            self._sitting = now, done
        seconds, share = now - self._sitting[0], done - self._sitting[1]
        left = duration(seconds / share * (1 - done)) if share > 0 else "?"
        speed = self.window.tokens / max(self.window.seconds, 1e-9)
        self.progress.show(
            min(done, 1.0),
            f"step {run.step:,}  {_readable(self.window.means())}  "
            f"{speed:,.0f} tokens/s  {left} left",
        )

    def _log(self, run: Run, done: float) -> None:
        window, self.window = self.window, Window()
        figures = window.means()
        room = window.steps * self.config.tokens_per_batch
        speed = window.tokens / max(window.seconds, 1e-9)
        more = {"real_token_share": window.tokens / room, "tokens_per_second": round(speed, 1)}
        if self.flop_share is not None:
            more["flop_share"] = round(self.flop_share(speed), 4)
        self._log_row(run, "train", figures | more)
        if self.train_unigram_loss is not None:
            self._warn_of_plateau(run, done, figures, self.train_unigram_loss)
        warning = self.alarms.on_train(figures)
        if warning:
            self._warn(run, DIVERGENCE, warning)
            if self.alarms.config.stop_at_divergence:
                raise DivergedError(
                    f"{self.folder.path}: stopped after step {run.step}, as stop_at_divergence "
                    f"asks: {warning}; the checkpoints before it stand"
                )

    def _fill(self, run: Run) -> None:
        filled = fill(self.model, self.hidden, self.tokenizer)
        if filled:
            self._log_row(run, "filled", {"filled": filled})
        for one in filled:
            self.progress.say(f"  {readable(one)}")

    def _warn_of_plateau(
        self, run: Run, done: float, figures: Mapping[str, float], unigram_loss: float
    ) -> None:
        warning = self.alarms.on_plateau(done, piece_loss(figures), unigram_loss)
        if warning:
            self._warn(run, PLATEAU, warning)

    def _warn(self, run: Run, alarm: str, message: str) -> None:
        self.progress.say(f"warning: {message}")
        self._log_row(run, "alarm", {"alarm": alarm, "message": message})

    def _log_row(self, run: Run, split: str, figures: Mapping[str, Any]) -> None:
        row = {"step": run.step, "split": split, **figures, "tokens": self._tokens}
        row["seconds"] = round(self.stopwatch.seconds(), 3)
        row["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.folder.log(row)
        self.mirror.log(row)


def _told(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.endswith(_FIGURES)}


def _readable(figures: Mapping[str, float]) -> str:
    accuracies = [
        f"{name.removesuffix('_accuracy')} {value:.1%}"
        for name, value in figures.items()
        if name.endswith("_accuracy")
    ]
    if UNREPLACED in figures:
        accuracies.append(f"({figures[UNREPLACED]:.1%} are not replaced)")
    return "  ".join([f"loss {piece_loss(figures):.3f}", *accuracies])
