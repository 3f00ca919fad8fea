"""What happens around the steps of a fine-tuning run: scores, the best epoch, saving, stopping."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from bertsmith.config import FinetuneConfig
from bertsmith.errors import DataError, StoppedError
from bertsmith.folder import save_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import ProgressLine, duration
from bertsmith.recipes.finetuning.rows import LabelledData
from bertsmith.tasks.answers import results_of
from bertsmith.tasks.forms import Decisions
from bertsmith.tasks.metrics import better
from bertsmith.tasks.task import Task
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.checkpoint import (
    newest_checkpoint,
    purge_checkpoints,
    restore,
    save_checkpoint,
)
from bertsmith.train.loop import Run
from bertsmith.train.pace import Stopwatch
from bertsmith.train.run_folder import RunFolder
from bertsmith.train.stopping import StopRequests

CHECKPOINT_SECONDS = 60.0  # an epoch that ends sooner after the last checkpoint makes none


@dataclass
class Standing:
    """What a run remembers besides weights and step."""

    rows_sha256: str
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)
    is_collapsed: bool = False  # the best model says the same of every dev row, or of every word
    training_seconds: float = 0.0
    evaluations_since_best: int = 0
    restarts: int = 0  # how often the run was begun again with another seed


class Sitting:
    """One sitting of a run: logs, scores, keeps the best epoch, saves, and stops on request.

    `total_steps` is the length of the run; signals count while `requests` is entered.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: ProgressLine,
        data: LabelledData,
        tokenizer: Tokenizer,
        config: FinetuneConfig,
        settings: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        """Finds the newest checkpoint, if one is wanted and there is one.

        Raises:
            DataError: the rows are not those that the run was begun with.
        """
        self._folder = folder
        self._progress = progress
        self.requests = StopRequests()
        self._data = data
        self._tokenizer = tokenizer
        self._config = config
        self._facts = data.facts | {"max_length": config.max_length, "settings": dict(settings)}
        self._steps_per_epoch = -(-len(data.train) // config.batch_size)
        self.total_steps = config.epochs * self._steps_per_epoch
        evaluations = config.epochs * config.evaluations_per_epoch
        self._evaluated_steps = {
            max(1, round(self.total_steps * number / evaluations))
            for number in range(1, evaluations + 1)
        }
        self.standing = Standing(data.sha256())
        self._checkpoint = newest_checkpoint(folder.checkpoints, progress.say) if resume else None
        if self._checkpoint:
            if self._checkpoint.state["rows_sha256"] != self.standing.rows_sha256:
                raise DataError(
                    f"{folder.path}: the labelled rows are not those that this run was begun "
                    f"with; put those back, or start anew in another folder"
                )
            self.standing = Standing(**self._checkpoint.state)
        self._whole = Stopwatch()
        self._training = Stopwatch()  # stands still, so to say, while dev rows are scored
        self._saved = Stopwatch()
        self._newest: tuple[int, Task, dict[str, float]] | None = None  # of the last evaluation

    def begin(self, run: Run) -> None:
        """Goes back to the checkpoint, if there is one; a new run begins as it is."""
        if self._checkpoint:
            restore(run, self._checkpoint)
            self._checkpoint = None
            self._progress.say(f"goes on after epoch {self._epoch(run):.2f}")
        self._folder.forget_after(run.step)
        self._training = Stopwatch(self.standing.training_seconds)

    def pace(self, step: int) -> float:
        """Returns which share of the run is done; early stopping makes it 1."""
        patience, since = self._config.early_stopping, self.standing.evaluations_since_best
        return 1.0 if patience and since >= patience else step / self.total_steps

    def begins_anew(self) -> bool:
        """Returns whether the run, now over, has learnt nothing and is to be begun again."""
        standing = self.standing
        if not standing.is_collapsed or standing.restarts >= self._config.restarts:
            return False
        self._progress.say(
            f"every dev {self._data.task.decides} gets the same answer: the run has learnt "
            f"nothing and is begun again, with seed {self._config.seed + standing.restarts + 1}"
        )
        self.standing = Standing(standing.rows_sha256, restarts=standing.restarts + 1)
        purge_checkpoints(self._folder.checkpoints, keep=0)
        return True

    def after_step(self, run: Run, figures: dict[str, float]) -> None:
        """Does what is due after an optimizer step.

        Raises:
            StoppedError: stopping was asked for; the run is saved.
        """
        standing = self.standing
        standing.training_seconds = self._training.seconds()
        self._folder.log({"step": run.step, "epoch": self._epoch(run), **figures})
        self._show(run, figures["loss"])
        if run.step in self._evaluated_steps:
            self._evaluate(run)
        is_epoch_end = run.step % self._steps_per_epoch == 0
        if self.requests.stop and run.step < self.total_steps:
            self._save(run)
            raise StoppedError(
                f"{self._folder.path}: stopped by {self.requests.stop} after epoch "
                f"{self._epoch(run):.2f} of {self._config.epochs} and saved; "
                f"go on with: bertsmith finetune --config {self._folder.path}/settings.json "
                f"--out {self._folder.path} --resume"
            )
        if self.requests.take_save() or (
            is_epoch_end and self._saved.seconds() > CHECKPOINT_SECONDS
        ):
            self._save(run)
        self._training = Stopwatch(standing.training_seconds)

    def finish(self, run: Run) -> dict[str, Any]:
        """Writes the last model and returns the result of the run."""
        standing, rows = self.standing, self._data.train
        if self._newest and self._newest[0] == run.step:
            _, task, scores = self._newest
        else:  # a finished run that was resumed
            task, scores, _ = self._scores(run)
        self._keep(run, self._folder.model, task, scores)
        if standing.is_collapsed:
            self._progress.say(
                f"the best model gives every dev {self._data.task.decides} the same answer: it has "
                f"learnt nothing; try a lower --learning-rate or more --epochs"
            )
        tokens = rows.num_tokens * self._epoch(run)
        return {
            "scores": standing.best_scores,
            "chosen_by": self._data.task.chosen_by,
            "best_epoch": _short(standing.best_step / self._steps_per_epoch),
            "seconds": self._whole.seconds(),
            "tokens_per_second": tokens / standing.training_seconds,
            "out": str(self._folder.path),
            "train_rows": len(rows),
            "dev_rows": len(self._data.dev),
            "cut_texts": rows.num_cut,
            "collapsed": standing.is_collapsed,
            "restarts": standing.restarts,
        }

    def _evaluate(self, run: Run) -> None:
        standing = self.standing
        task, scores, is_collapsed = self._scores(run)
        self._newest = run.step, task, scores
        self._folder.log({"step": run.step, "epoch": self._epoch(run), "dev": scores})
        shown = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
        self._progress.say(f"epoch {self._epoch(run):.4g}: dev {shown}")
        by = task.chosen_by
        standing.evaluations_since_best += 1
        if better(by, scores[by], standing.best_scores.get(by)):
            standing.best_step, standing.best_scores = run.step, scores
            standing.is_collapsed = is_collapsed
            standing.evaluations_since_best = 0
            self._keep(run, self._folder.path / "best", task, scores)

    def _scores(self, run: Run) -> tuple[Task, dict[str, float], bool]:
        """Returns the task tuned on the dev rows, their scores, and whether it has collapsed.

        It has where all that is asked, though not alike, gets one answer. Of the outputs only
        those of whole rows are held, a number for each label: a temperature or thresholds are
        fitted on all of them at once. Those of tokens come and go as they are needed, and where
        a task is tuned on them, the model answers twice.
        """
        dev, model = self._data.dev, self._model_for_use(run)
        ask = partial(results_of, model, dev.examples, dev.features)
        held = [] if model.per_token else list(ask())
        task = self._data.task.with_weights_of(model).tuned(held or ask())
        scorer, variety = task.scorer(), Variety()
        for (example, features, outputs), target in zip(held or ask(), dev.targets, strict=True):
            found = task.decode(example, features, outputs)
            scorer.add(example, found)
            variety.add(task.decisions(target, found))
        return task, scorer.scores(), variety.is_lost

    def _keep(self, run: Run, place: Path, task: Task, scores: dict[str, float]) -> None:
        facts = task.facts() | self._facts | {"scores": scores, "epoch": _short(self._epoch(run))}
        save_model(place, self._model_for_use(run), self._tokenizer, facts)

    def _model_for_use(self, run: Run) -> TaskModel:
        return self._data.task.for_use(cast(TaskModel, run.model))

    def _save(self, run: Run) -> None:
        save_checkpoint(self._folder.checkpoints, run, vars(self.standing))
        purge_checkpoints(self._folder.checkpoints, keep=1)
        self._saved = Stopwatch()

    def _show(self, run: Run, loss: float) -> None:
        seconds = self.standing.training_seconds
        tokens = self._data.train.num_tokens * self._epoch(run)
        left = seconds / run.step * (self.total_steps - run.step)
        self._progress.show(
            run.step / self.total_steps,
            f"epoch {self._epoch(run):.2f} of {self._config.epochs}, loss {loss:.3f}, "
            f"{tokens / seconds:,.0f} tokens/s, {duration(left)} left",
        )

    def _epoch(self, run: Run) -> float:
        return run.step / self._steps_per_epoch


class Variety:
    """Whether a model says one thing only where several are right: of rows, or of tagged words."""

    def __init__(self) -> None:
        self._wanted: set[Hashable] = set()
        self._said: set[Hashable] = set()

    def add(self, decisions: Decisions) -> None:
        """Takes in what was wanted of a row, and what was said."""
        self._wanted |= decisions.wanted
        self._said |= decisions.said

    @property
    def is_lost(self) -> bool:
        """Returns whether all that was said is the same, and what was wanted is not."""
        return len(self._said) == 1 < len(self._wanted)


def _short(epoch: float) -> float:
    """Returns 2 for 2.0, and 2.33 for 2.3333."""
    return int(epoch) if epoch == int(epoch) else round(epoch, 2)
