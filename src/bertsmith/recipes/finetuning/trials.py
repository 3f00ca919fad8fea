"""Several fine-tuning runs on the same rows: over seeds, over the paper's grid, over folds.

Each run is a folder of its own below one, in a process of its own, as many at once as cores and
memory allow. A finished run leaves `result.json`; begun again, the whole goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.cores import usable_cores
from bertsmith.errors import ConfigError, FolderInUseError, StoppedError
from bertsmith.model.memory import available_bytes
from bertsmith.progress import ProgressLine
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.finetuning.joint_report import Shown, write_joint_report
from bertsmith.recipes.finetuning.rows import Fold
from bertsmith.storage import read_json, replace_file, replacing
from bertsmith.tasks.metrics import better
from bertsmith.train.stopping import stopped_at_once

RESULT = "result.json"
BEST = "best"
# Bytes for each of the encoder's on disk, which has 4 a weight: weights, gradients, two moments,
# and as much again for activations; and what Python and torch take.
BYTES_FOR_EACH = 8
BYTES_OF_A_PROCESS = 600 << 20

# The paper's grid, appendix A.3.
BATCH_SIZES = (16, 32)
RATES = (5e-5, 3e-5, 2e-5)
EPOCHS = (2, 3, 4)


@dataclass(frozen=True)
class Trial:
    """One run: the name of its folder and all that `finetune` takes."""

    name: str
    task: str
    train: Path
    model: Path
    config: FinetuneConfig
    optimizer: OptimizerConfig
    columns: ColumnsConfig
    options: TaskConfig
    dev: Path | None = None
    fold: Fold | None = None
    random_weights: bool = False


def with_seeds(trial: Trial, seeds: int) -> list[Trial]:
    """Returns the trial under `seeds` seeds, from its own on."""
    first = trial.config.seed
    return [
        replace(
            trial,
            name="-".join(filter(None, (trial.name, f"seed-{seed}"))),
            config=replace(trial.config, seed=seed),
        )
        for seed in range(first, first + seeds)
    ]


def over_the_papers_grid(trial: Trial, kept: Collection[str] = ()) -> list[Trial]:
    """Returns the trial with each of the batch sizes, rates and epochs that the paper searched.

    Those of `batch_size`, `learning_rate` and `epochs` that are named in `kept` stay the trial's.

    Source: Devlin et al. 2019, appendix A.3.
    """
    config, optimizer = trial.config, trial.optimizer
    batch_sizes = (config.batch_size,) if "batch_size" in kept else BATCH_SIZES
    rates = (optimizer.learning_rate,) if "learning_rate" in kept else RATES
    epochs = (config.epochs,) if "epochs" in kept else EPOCHS
    return [
        replace(
            trial,
            name=f"batch-{batch_size}-rate-{rate:g}-epochs-{count}",
            config=replace(config, batch_size=batch_size, epochs=count),
            optimizer=replace(optimizer, learning_rate=rate),
        )
        for batch_size, rate, count in product(batch_sizes, rates, epochs)
    ]


def run_trials(
    trials: Sequence[Trial],
    out: Path,
    *,
    resume: bool,
    say: Callable[[str], None],
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Carries out all trials, each in `out/NAME`; returns their results in the trials' order.

    Args:
        trials: with names of their own.
        out: folder above all runs.
        resume: finished trials are kept, begun ones go on.
        say: told of every trial that ends.
        workers: processes at once; by default as many as cores and free memory allow, each with
            its share of the cores as threads, or with the threads that the trials ask for.

    Raises:
        FolderInUseError: `out` holds something and `resume` is false.
        StoppedError: a signal asked for it; every trial at work has saved itself.
        BertsmithError: what the first failing trial raised; others that have finished are kept.
    """
    if not resume and out.exists() and any(out.iterdir()):
        raise FolderInUseError(
            f"{out}: holds {sorted(os.listdir(out))[0]}; go on with it by --resume, or choose "
            f"another folder"
        )
    missing = [trial for trial in trials if not (out / trial.name / RESULT).is_file()]
    asked = trials[0].config.threads
    workers = workers or _processes_that_fit(trials[0].model, asked or 1)
    workers = min(workers, max(1, len(missing)))
    threads = asked or max(1, usable_cores() // workers)
    say(f"{len(trials)} runs, {len(trials) - len(missing)} of them done, {workers} at a time")
    context = get_context("spawn")  # torch's threads do not survive a fork
    others = set(active_children())
    with (
        stopped_at_once(out),
        ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_process) as pool,
    ):
        waiting = {pool.submit(_carry_out, trial, out, threads): trial for trial in missing}
        try:
            for future in as_completed(waiting):
                say(f"{waiting[future].name}: {_shown(future.result()['scores'])}")
        except BaseException as error:
            for future in waiting:
                future.cancel()
            if not isinstance(error, StoppedError):
                raise  # once those that run have ended
            for process in set(active_children()) - others:
                process.terminate()  # which makes its run save itself
            pool.shutdown()
            raise StoppedError(f"{out}: stopped and saved; go on with --resume") from None
    return [read_json(out / trial.name / RESULT) for trial in trials]


def finetune_several(
    trial: Trial,
    out: Path,
    *,
    seeds: int = 1,
    search: Literal["paper"] | None = None,
    kept: Collection[str] = (),
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tunes under several seeds, or over the paper's grid, or both; keeps the best model.

    The settings named in `kept` are the trial's in all runs, whatever the grid has. Settings are
    compared by their mean over the seeds. Returns `scores`, the means of the best
    setting, `deviations`, every run's own scores under `runs`, and the `winner`, whose model of the
    best seed is copied to `out/best`. `out/report.html` shows all of it, and leads to each run's.

    Raises:
        ConfigError: `seeds` is not 1 or more.
        FolderInUseError, BertsmithError: see `run_trials`.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected 1 or more: how many runs there shall be")
    settings = over_the_papers_grid(trial, kept) if search else [replace(trial, name="")]
    groups = [with_seeds(setting, seeds) for setting in settings]
    trials = [one for group in groups for one in group]
    with ProgressLine() as progress:
        fixed = [name for name in ("batch_size", "learning_rate", "epochs") if name in kept]
        if search and fixed:
            progress.say(f"{', '.join(fixed)} as given: {len(settings)} settings of the grid")
        results = run_trials(trials, out, resume=resume, say=progress.say)
    by_name = dict(zip((one.name for one in trials), results, strict=True))
    chosen_by = results[0]["chosen_by"]
    best: dict[str, Any] | None = None
    for group in groups:
        found = summarize([by_name[one.name] for one in group], [one.name for one in group])
        score = found["scores"][chosen_by]
        if best is None or better(chosen_by, score, best["scores"][chosen_by]):
            best, winners = found, group
    assert best is not None, "there is one setting at least"
    winner = keep_the_best(out, winners, [by_name[one.name] for one in winners], chosen_by)
    everything = summarize(results, [one.name for one in trials])
    title = f"{trial.task}: {trial.train.name}, {len(trials)} runs"
    report = write_joint_report(out, title, shown(trials, results), best, winner)
    return {
        "scores": best["scores"],
        "deviations": best["deviations"],
        "best_epoch": by_name[winner]["best_epoch"],
        "winner": winner,
        "runs": everything["runs"],
        "seconds": everything["seconds"],
        "tokens_per_second": statistics.fmean(row["tokens_per_second"] for row in results),
        "out": str(out),
        "report": str(report),
    }


def shown(trials: Sequence[Trial], results: Sequence[dict[str, Any]]) -> list[Shown]:
    """Returns the runs as their joint report shows them."""
    return [
        Shown(
            one.name,
            {
                "fold": one.fold.number if one.fold else 0,
                "learning_rate": one.optimizer.learning_rate,
                "batch_size": one.config.batch_size,
                "epochs": one.config.epochs,
                "seed": one.config.seed,
            },
            found,
        )
        for one, found in zip(trials, results, strict=True)
    ]


def summarize(results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Returns mean and deviation of every score that all runs have, and each run's own.

    The deviation is that of a sample, with one less than the number of runs; 0 of one run.
    """
    scores = [found["scores"] for found in results]
    names_of_all = [name for name in scores[0] if all(name in row for row in scores)]
    return {
        "scores": {name: statistics.fmean(row[name] for row in scores) for name in names_of_all},
        "deviations": {
            name: statistics.stdev(row[name] for row in scores) if len(scores) > 1 else 0.0
            for name in names_of_all
        },
        "runs": {
            name: {
                key: found[key] for key in ("scores", "best_epoch", "seconds", "tokens_per_second")
            }
            for name, found in zip(names, results, strict=True)
        },
        "seconds": sum(found["seconds"] for found in results),
    }


def keep_the_best(
    out: Path, trials: Sequence[Trial], results: Sequence[dict[str, Any]], chosen_by: str
) -> str:
    """Copies the best model of the trial with the best score to `out/best`; returns its name."""
    winner = 0
    for place, found in enumerate(results):
        if better(chosen_by, found["scores"][chosen_by], results[winner]["scores"][chosen_by]):
            winner = place
    source = out / trials[winner].name / BEST
    with replacing(out / BEST, known=set(os.listdir(source))) as building:
        shutil.copytree(source, building, dirs_exist_ok=True)
    return trials[winner].name


def _begin_process() -> None:
    """Keeps from this process the signals of the terminal, and stops it if its parent is gone."""
    os.setpgrp()
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _stop_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _carry_out(trial: Trial, out: Path, threads: int) -> dict[str, Any]:
    place = out / trial.name
    place.mkdir(parents=True, exist_ok=True)
    log = out / f"{trial.name}.log"
    with log.open("a", encoding="utf-8", buffering=1) as file:
        sys.stderr = file  # what a run shows goes to its own file: they run side by side
        try:
            result = finetune(
                trial.task,
                trial.train,
                trial.model,
                place,
                replace(trial.config, threads=threads),
                trial.optimizer,
                trial.columns,
                trial.options,
                dev=trial.dev,
                fold=trial.fold,
                random_weights=trial.random_weights,
                resume=True,
            )
        finally:
            sys.stderr = sys.__stderr__
    replace_file(place / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


def _processes_that_fit(model: Path, threads: int) -> int:
    """Returns how many runs of so many threads the cores and the free memory take."""
    weights = model / "model.safetensors"
    needed = BYTES_OF_A_PROCESS
    if weights.is_file():
        needed += BYTES_FOR_EACH * weights.stat().st_size
    return max(1, min(usable_cores() // threads, available_bytes() // needed))


def _shown(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
