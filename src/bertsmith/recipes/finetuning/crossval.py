"""Cross-validation: every row is predicted by a model that has not seen it.

    bertsmith crossval classify train.csv --test test.csv --model run/model --folds 5 \\
        --out folds --submission submission.csv

The models of all folds answer the test rows together. On two cores, five folds of 7,600 tweets take
a 6-layer encoder of width 384 about twenty minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bertsmith.config import ColumnsConfig
from bertsmith.data.outputs import (
    Answered,
    Layout,
    new_file,
    read_layout,
    row_writer,
    spelt,
    write_submission,
)
from bertsmith.errors import ConfigError
from bertsmith.folder import Loaded, load_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import ProgressLine
from bertsmith.recipes.finetuning.rows import Fold, split_fold
from bertsmith.recipes.finetuning.trials import Trial, run_trials, summarize
from bertsmith.tasks.answers import answer
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Prediction, Source
from bertsmith.tasks.task import Task, task_of

AVERAGED = ("classify", "regress")  # tasks whose answers of several models have a mean


def crossval(
    trial: Trial,
    out: Path,
    *,
    folds: int = 5,
    group_column: str | None = None,
    test: Path | None = None,
    submission: Path | None = None,
    like: Path | None = None,
    excel_safe: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tunes once for each fold; returns the scores of each fold and of all rows together.

    `out/out_of_fold.csv` holds for every row the prediction of the model that has not seen it.

    Args:
        trial: what is run; its dev file must be None.
        out: folder for the runs, one below it for each fold.
        folds: into how many parts the rows are split; each has its share of every label.
        group_column: rows that are alike in this column stay in one fold.
        test: rows that the mean of all folds' models answers, in `submission`.
        submission: file for those answers: the id, and the label's column as in training; where
            each label has a column of its own, these with probabilities.
        like: sample whose layout the submission shall have.
        excel_safe: in both files, put a quote before texts that a spreadsheet would run.
        resume: finished folds are kept, begun ones go on.

    Raises:
        ConfigError: flags contradict each other, or the task's answers have no mean.
        DataError: there are fewer rows or groups than folds.
    """
    if (test is None) != (submission is None):
        raise ConfigError("test and submission belong together: give both, or none of them")
    if test and trial.task not in AVERAGED:
        raise ConfigError(
            f"the answers of several models are averaged for {' and '.join(AVERAGED)}, not for "
            f"{trial.task}: leave out test and submission"
        )
    columns = replace(trial.columns, id_column=group_column or trial.columns.id_column)
    parts = [Fold(number, folds, group_column is not None) for number in range(folds)]
    trials = [
        replace(trial, name=f"fold-{part.number}", columns=columns, fold=part) for part in parts
    ]
    with ProgressLine() as progress:
        results = run_trials(trials, out, resume=resume, say=progress.say)
    models = [load_model(out / one.name / "best") for one in trials]
    names = [one.name for one in trials]
    found = summarize(results, names) | {
        "out_of_fold": _write_out_of_fold(
            out / "out_of_fold.csv", trials, models, excel_safe=excel_safe
        ),
        "out": str(out),
    }
    if test and submission:
        found["submission"] = str(submission)
        found["test_rows"] = _write_submission(
            submission, test, trial.columns, like, models, excel_safe=excel_safe
        )
    return found


def _write_out_of_fold(
    path: Path, trials: list[Trial], models: list[Loaded], *, excel_safe: bool
) -> dict[str, float]:
    """Writes the prediction for every row by the model that has not seen it; returns the scores."""
    task, trial = task_of(models[0].facts, str(path)), trials[0]
    source = task.read(trial.train, trial.columns, models[0].facts, labelled=True)
    examples = list(source.examples)
    scorer = task.scorer()
    header: list[str] = []
    with new_file(path, "w") as file:
        write_row = row_writer(file, excel_safe=excel_safe)
        for trial, loaded in zip(trials, models, strict=True):
            assert trial.fold is not None, "each of these trials is a fold"
            own = task_of(loaded.facts, str(path))  # with what was tuned on its dev rows
            _, inside = split_fold(task, examples, trial.fold, trial.config.split_seed)
            for example, found in _answers(own, loaded, inside):
                scorer.add(example, found)
                if not header:
                    header = ["row", "fold", "prediction", *found.probabilities]
                    write_row(header)
                shares = map(spelt, found.probabilities.values())
                write_row([example.where, trial.fold.number, _cell(own, found), *shares])
    return scorer.scores()


def _cell(task: Task, found: Prediction) -> str:
    """Returns an answer as one cell of a table: several labels as in training, tags with spaces."""
    if isinstance(task, Classify):
        return task.spelt(found.answer)
    if isinstance(found.answer, str | float):
        return spelt(found.answer)
    return " ".join(found.answer)


def _write_submission(
    path: Path,
    test: Path,
    columns: ColumnsConfig,
    like: Path | None,
    models: list[Loaded],
    *,
    excel_safe: bool,
) -> int:
    tasks = [task_of(loaded.facts, str(test)) for loaded in models]
    task = _together(tasks)
    source = task.read(test, columns, models[0].facts, labelled=False)
    layout = _layout(test, source, like, models[0])
    columns = replace(columns, id_column=layout.id_column)
    streams = [
        _answers(own, loaded, own.read(test, columns, loaded.facts, labelled=False).examples)
        for own, loaded in zip(tasks, models, strict=True)
    ]
    rows = (
        Answered(together[0][0].id, *_mean(task, [found for _, found in together]))
        for together in zip(*streams, strict=True)
    )
    return write_submission(path, rows, layout, excel_safe=excel_safe)


def _layout(test: Path, source: Source, like: Path | None, loaded: Loaded) -> Layout:
    """Returns the sample's layout; without one, the id and the label's column as in training."""
    if like:
        return read_layout(like, source.known_columns, loaded.facts.get("labels", []))
    name = source.columns.id if source.columns else None
    if name is None:
        raise ConfigError(
            f"{test}: no column is known to hold the id of a row; name it with --id-column"
        )
    ids = tuple(example.id for example in source.examples)
    columns = loaded.facts["columns"]
    return Layout(test, (name, *columns.get("labels", [columns["label"]])), name, ids)


def _together(tasks: list[Task]) -> Task:
    """Returns the task that judges the mean of all models' probabilities, by mean thresholds."""
    first = tasks[0]
    if not isinstance(first, Classify):
        return first
    tuned = [one.thresholds for one in tasks if isinstance(one, Classify)]
    return replace(first, thresholds=tuple(map(statistics.fmean, zip(*tuned, strict=True))))


def _mean(task: Task, found: list[Prediction]) -> tuple[Any, dict[str, float]]:
    """Returns the answer of several models together, and the mean of their probabilities."""
    shares = {
        label: statistics.fmean(one.probabilities[label] for one in found)
        for label in found[0].probabilities
    }
    if isinstance(task, Classify):
        return task.spelt(task.choose(shares)), shares
    return statistics.fmean(one.answer for one in found), shares


def _answers(
    task: Task, loaded: Loaded, examples: Iterable[Any]
) -> Iterator[tuple[Any, Prediction]]:
    max_length = int(loaded.facts["max_length"])
    model = cast(TaskModel, loaded.model)
    return answer(task, model, loaded.tokenizer, examples, max_length)
