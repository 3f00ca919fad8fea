"""Fine-tuning: an encoder and labelled rows become a model for one task.

    bertsmith finetune classify train.csv --model run/model --out classifier

On two cores, 10,000 sentences of 25 pieces take a 6-layer encoder of width 384 about two minutes an
epoch. What is expected of BERT_BASE is table 1 of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from bertsmith.config import (
    BertConfig,
    ColumnsConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
    read_settings_file,
)
from bertsmith.errors import ConfigError, DataError, StoppedError
from bertsmith.folder import Loaded, load_encoder, save_model
from bertsmith.model.bert import Bert
from bertsmith.model.memory import keep_freed_memory
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import ProgressLine, duration
from bertsmith.recipes.rows import LabelledData, read_labelled, read_steps
from bertsmith.tasks.answers import results_of
from bertsmith.tasks.metrics import better
from bertsmith.tasks.task import Task, find_task
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.checkpoint import (
    newest_checkpoint,
    purge_checkpoints,
    restore,
    save_checkpoint,
)
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import Stopwatch, by_steps
from bertsmith.train.run_folder import RunFolder, open_run_folder
from bertsmith.train.stopping import StopRequests

CHECKPOINT_SECONDS = 60.0  # an epoch that ends sooner after the last checkpoint makes none


def finetune(
    task: str,
    train_file: Path,
    model: Path,
    out: Path,
    config: FinetuneConfig,
    optimizer: OptimizerConfig | None = None,
    columns: ColumnsConfig | None = None,
    options: TaskConfig | None = None,
    *,
    dev: Path | None = None,
    random_weights: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tunes all weights of an encoder on labelled rows, and keeps the best epoch.

    A new layer is put on the state of the first token; all is trained for a few epochs on batches
    of rows in random order, without padding; after each epoch the dev rows are scored. The model
    with the best score (accuracy, or the least squared error) is kept in `out/best`, the last one
    in `out/model`. With `random_weights` the encoder has its shape and vocabulary but nothing that
    it has learnt. Without `optimizer`, the rate is what is usual for the encoder's width.

    Source: Devlin et al. 2019, section 4.1 and appendix A.3.

    Raises:
        DataError: the rows cannot be learnt from; the message names file and line.
        MissingInputError: a file or a column is not there.
        ConfigError: a setting does not fit the encoder.
        NotFiniteError: the loss became NaN or infinite; the best epoch so far is in `out/best`.
        StoppedError: stopped on request; `resume` goes on.
    """
    columns = columns or ColumnsConfig()
    options = options or TaskConfig()
    optimizer = optimizer or OptimizerConfig(learning_rate=usual_learning_rate(model))
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    loaded = load_encoder(model)
    _check_length(config, loaded.config, model)
    settings = config.to_mapping() | optimizer.to_mapping() | columns.to_mapping()
    settings |= options.to_mapping()
    settings |= {"task": task, "random_weights": random_weights}
    files = {"train": str(train_file), "model": str(model), "dev": str(dev) if dev else None}
    with open_run_folder(out, resume=resume) as folder, ProgressLine() as progress:
        data = read_labelled(
            find_task(task),
            train_file,
            dev,
            loaded.tokenizer,
            config,
            options,
            columns,
            progress.say,
        )
        _check_segments(data, loaded.config, model)
        folder.settle(files | settings, may_change={*files, "threads"}, say=progress.say)
        trained = new_model(data, loaded, config.seed, random_weights=random_weights)
        run = Run(trained, adamw(trained, optimizer))
        sitting = Sitting(folder, progress, data, loaded.tokenizer, config, settings)
        sitting.begin(run, resume=resume)
        with sitting.requests:
            train(
                run,
                read_steps(data.task, data.train, config.batch_size, config.seed, run.step),
                pace=by_steps(sitting.total_steps),
                schedule=warmup_then_decay(optimizer),
                max_gradient_norm=optimizer.max_gradient_norm,
                seed=config.seed,
                after_step=sitting.after_step,
            )
        return sitting.finish(run) | {"learning_rate": optimizer.learning_rate}


def usual_learning_rate(model: Path) -> float:
    """Returns the peak rate for an encoder of the width that a model folder tells.

    Wide encoders take the paper's rates; narrow ones need the larger rates that were found best
    for them, or they are still learning when the last epoch ends.

    Source: Devlin et al. 2019, appendix A.3 (5e-5, 3e-5, 2e-5); Turc et al. 2019 and the release
    notes of its 24 smaller models (3e-4, 1e-4, 5e-5, 3e-5).
    """
    width = read_settings_file(model / "config.json").get("hidden_size", 768)
    if width <= 256:
        return 3e-4
    if width <= 512:
        return 1e-4
    return 5e-5 if width <= 768 else 3e-5


def new_model(
    data: LabelledData, loaded: Loaded, seed: int, *, random_weights: bool = False
) -> TaskModel:
    """Returns the task's model: a layer drawn from `seed` on the loaded encoder or a random one."""
    torch.manual_seed(seed)
    model = data.task.head(loaded.config)
    if not random_weights:
        assert isinstance(loaded.model, Bert), "load_encoder returns an encoder"
        # Pre-trained without next sentences, it learns to pool here; where nothing is pooled, not.
        if loaded.model.pooler is None or model.encoder.pooler is None:
            loaded.model.pooler = model.encoder.pooler
        model.encoder = loaded.model
    return model


@dataclass
class Standing:
    """What a run remembers besides weights and step."""

    rows_sha256: str
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)
    is_collapsed: bool = False  # the best model says the same of every dev row
    training_seconds: float = 0.0


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
        settings: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._progress = progress
        self.requests = StopRequests()
        self._data = data
        self._tokenizer = tokenizer
        self._config = config
        self._facts = data.facts | {"max_length": config.max_length, "settings": settings}
        self._steps_per_epoch = -(-len(data.train) // config.batch_size)
        self.total_steps = config.epochs * self._steps_per_epoch
        evaluations = config.epochs * config.evaluations_per_epoch
        self._evaluated_steps = {
            max(1, round(self.total_steps * number / evaluations))
            for number in range(1, evaluations + 1)
        }
        self._standing = Standing(data.sha256())
        self._whole = Stopwatch()
        self._training = Stopwatch()  # stands still, so to say, while dev rows are scored
        self._saved = Stopwatch()

    def begin(self, run: Run, *, resume: bool) -> None:
        """Goes back to the newest checkpoint, if one is wanted and there is one.

        Raises:
            DataError: the rows are not those that the run was begun with.
        """
        checkpoint = newest_checkpoint(self._folder.checkpoints, self._progress.say)
        if resume and checkpoint:
            if checkpoint.state["rows_sha256"] != self._standing.rows_sha256:
                raise DataError(
                    f"{self._folder.path}: the labelled rows are not those that this run was begun "
                    f"with; put those back, or start anew in another folder"
                )
            restore(run, checkpoint)
            self._standing = Standing(**checkpoint.state)
            self._progress.say(f"goes on after epoch {self._epoch(run):.2f}")
        self._folder.forget_after(run.step)
        self._training = Stopwatch(self._standing.training_seconds)

    def after_step(self, run: Run, figures: dict[str, float]) -> None:
        """Does what is due after an optimizer step.

        Raises:
            StoppedError: stopping was asked for; the run is saved.
        """
        standing = self._standing
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
        standing, rows = self._standing, self._data.train
        self._keep(run, self._folder.model, *self._scores(run)[:2])
        if standing.is_collapsed:
            self._progress.say(
                "the best model gives every dev row the same answer: it has learnt nothing; "
                "try a lower --learning-rate, more --epochs or another --seed"
            )
        tokens = rows.num_tokens * self._config.epochs
        return {
            "scores": standing.best_scores,
            "best_epoch": _short(standing.best_step / self._steps_per_epoch),
            "seconds": self._whole.seconds(),
            "tokens_per_second": tokens / standing.training_seconds,
            "out": str(self._folder.path),
            "train_rows": len(rows),
            "dev_rows": len(self._data.dev),
            "cut_texts": rows.num_cut,
            "collapsed": standing.is_collapsed,
        }

    def _evaluate(self, run: Run) -> None:
        standing = self._standing
        task, scores, is_collapsed = self._scores(run)
        self._folder.log({"step": run.step, "epoch": self._epoch(run), "dev": scores})
        shown = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
        self._progress.say(f"epoch {self._epoch(run):.4g}: dev {shown}")
        by = task.chosen_by
        if better(by, scores[by], standing.best_scores.get(by)):
            standing.best_step, standing.best_scores = run.step, scores
            standing.is_collapsed = is_collapsed
            self._keep(run, self._folder.path / "best", task, scores)

    def _scores(self, run: Run) -> tuple[Task, dict[str, float], bool]:
        """Returns the task tuned on the dev rows, their scores, and whether it has collapsed.

        It has where all rows, though not alike, get one answer.
        """
        dev, model = self._data.dev, self._model_for_use(run)
        results = list(results_of(model, dev.examples, dev.features))
        task = self._data.task.tuned(results)
        scorer = task.scorer()
        answers, wanted = set(), set(map(repr, dev.targets))
        for example, features, outputs in results:
            found = task.decode(example, features, outputs)
            scorer.add(example, found)
            answers.add(repr(found.answer))
        return task, scorer.scores(), len(answers) == 1 < len(wanted)

    def _keep(self, run: Run, place: Path, task: Task, scores: dict[str, float]) -> None:
        facts = task.facts() | self._facts | {"scores": scores, "epoch": _short(self._epoch(run))}
        save_model(place, self._model_for_use(run), self._tokenizer, facts)

    def _model_for_use(self, run: Run) -> TaskModel:
        return self._data.task.for_use(cast(TaskModel, run.model))

    def _save(self, run: Run) -> None:
        save_checkpoint(self._folder.checkpoints, run, vars(self._standing))
        purge_checkpoints(self._folder.checkpoints, keep=1)
        self._saved = Stopwatch()

    def _show(self, run: Run, loss: float) -> None:
        seconds = self._standing.training_seconds
        tokens = self._data.train.num_tokens * self._epoch(run)
        left = seconds / run.step * (self.total_steps - run.step)
        self._progress.show(
            run.step / self.total_steps,
            f"epoch {self._epoch(run):.2f} of {self._config.epochs}, loss {loss:.3f}, "
            f"{tokens / seconds:,.0f} tokens/s, {duration(left)} left",
        )

    def _epoch(self, run: Run) -> float:
        return run.step / self._steps_per_epoch


def _short(epoch: float) -> float:
    """Returns 2 for 2.0, and 2.33 for 2.3333."""
    return int(epoch) if epoch == int(epoch) else round(epoch, 2)


def _check_length(config: FinetuneConfig, encoder: BertConfig, model: Path) -> None:
    if config.max_length > encoder.max_position_embeddings:
        raise ConfigError(
            f"max_length is {config.max_length}, but {model} reads at most "
            f"{encoder.max_position_embeddings} pieces: give that or less"
        )


def _check_segments(data: LabelledData, encoder: BertConfig, model: Path) -> None:
    highest = max(
        (int(part.segment_ids[-1]) for row in data.train.features for part in row.sequences),
        default=0,
    )
    if highest >= encoder.type_vocab_size:
        raise ConfigError(
            f"{model}: type_vocab_size is {encoder.type_vocab_size}; expected 2 to read pairs "
            f"of texts: use another encoder, or join the texts in one column"
        )
