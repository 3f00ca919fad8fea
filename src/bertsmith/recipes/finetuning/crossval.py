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
    check_ids,
    check_suffix,
    new_file,
    read_layout,
    row_writer,
    spelt,
    write_submission,
)
from bertsmith.errors import ConfigError, MissingInputError, nearest
from bertsmith.folder import Loaded, load_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import ProgressLine
from bertsmith.recipes.finetuning.joint_report import write_joint_report
from bertsmith.recipes.finetuning.rows import Fold, split_fold
from bertsmith.recipes.finetuning.trials import Trial, run_trials, shown, summarize
from bertsmith.recipes.finetuning.views import label_of_row
from bertsmith.tasks.answers import answer
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Prediction
from bertsmith.tasks.task import Task, find_task, task_of

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

    `out/out_of_fold.csv` holds for every row the prediction of the model that has not seen it;
    `out/report.html` shows all folds, and leads to each one's report.

    Whatever can be known to be wrong with `test`, `submission` and `like` is said before training.

    Args:
        trial: what is run; its dev file must be None.
        out: folder for the runs, one below it for each fold.
        folds: into how many parts the rows are split, two or more; each has its share of every
            label.
        group_column: rows that are alike in this column stay in one fold.
        test: rows that the mean of all folds' models answers, in `submission`.
        submission: file for those answers: the id, and the label's column as in training; where
            each label has a column of its own, these with probabilities.
        like: sample whose layout the submission shall have.
        excel_safe: in both files, put a quote before texts that a spreadsheet would run.
        resume: finished folds are kept, begun ones go on.

    Raises:
        ConfigError: flags contradict each other, or the task's answers have no mean.
        DataError: there are fewer rows or groups than folds; or test rows cannot be answered so.
        MissingInputError: a file or a column is not there.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; expected 2 or more: each is the dev set of the rest")
    if (test is None) != (submission is None):
        raise ConfigError("test and submission belong together: give both, or none of them")
    if test and trial.task not in AVERAGED:
        raise ConfigError(
            f"the answers of several models are averaged for {' and '.join(AVERAGED)}, not for "
            f"{trial.task}: leave out test and submission"
        )
    _check_group(trial, group_column)
    layout = _layout(trial, test, submission, like) if test and submission else None
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
            out / "out_of_fold.csv", trial, trials, models, excel_safe=excel_safe
        ),
        "out": str(out),
    }
    title = f"{trial.task}: {trial.train.name}, {folds} folds"
    found["report"] = str(write_joint_report(out, title, shown(trials, results), found))
    if test and submission and layout:
        found["submission"] = str(submission)
        found["test_rows"] = _write_submission(
            submission, test, trial.columns, layout, models, excel_safe=excel_safe
        )
    return found


def _check_group(trial: Trial, group_column: str | None) -> None:
    """Raises MissingInputError where the training file has no column of that name."""
    if group_column is None:
        return
    source = find_task(trial.task).read(trial.train, trial.columns, None, labelled=True)
    if group_column not in source.known_columns:
        has = ", ".join(source.known_columns) or "no columns with names"
        raise MissingInputError(
            f"{trial.train}: group_column is {group_column!r}; expected one of its columns "
            f"({has}){nearest(group_column, source.known_columns)}"
        )


def _layout(trial: Trial, test: Path, submission: Path, like: Path | None) -> Layout:
    """Returns the sample's layout; without one, the id and the label's column as in training.

    Raises:
        ConfigError: the file's name does not end in .csv, or no column is known for the id.
        DataError: test rows, sample and training rows do not go together.
        MissingInputError: a file is not there.
    """
    check_suffix(submission, ".csv")
    kind = find_task(trial.task)
    trained = kind.read(trial.train, trial.columns, None, labelled=True)
    source = kind.read(test, trial.columns, trained.facts, labelled=False)
    if like:
        labels = kind.learn(list(trained.examples), trial.options).facts().get("labels", [])
        layout = read_layout(like, source.known_columns, labels)
        columns = replace(trial.columns, id_column=layout.id_column)
        source = kind.read(test, columns, trained.facts, labelled=False)
        check_ids(layout, [example.id for example in source.examples])
        return layout
    name = source.columns.id if source.columns else None
    if name is None:
        raise ConfigError(
            f"{test}: no column is known to hold the id of a row; name it with --id-column"
        )
    ids = tuple(example.id for example in source.examples)
    columns_of = trained.facts["columns"]
    answers = columns_of.get("labels", [columns_of["label"]])
    layout = Layout(test, (name, *answers), name, ids)
    check_ids(layout, ids)
    return layout


def _write_out_of_fold(
    path: Path, trial: Trial, trials: list[Trial], models: list[Loaded], *, excel_safe: bool
) -> dict[str, float]:
    """Writes the prediction for every row by the model that has not seen it; returns the scores.

    Rows stand in the order of the file, with their id, where the file has ids.
    """
    task = task_of(models[0].facts, str(path))
    examples = list(_examples(task, trials[0], models[0]))
    scorer = task.scorer()
    predicted: dict[str, tuple[int, str, Prediction]] = {}  # by place in the file
    for one, loaded in zip(trials, models, strict=True):
        assert one.fold is not None, "each of these trials is a fold"
        own = task_of(loaded.facts, str(path))  # with what was tuned on its dev rows
        _, inside = split_fold(task, examples, one.fold, one.config.split_seed)
        for example, found in _answers(own, loaded, inside):
            scorer.add(example, found)
            predicted[example.where] = one.fold.number, _cell(own, found), found
    id_column, ids = _ids(task, trial, models[0])
    label_names = list(next(iter(predicted.values()))[2].probabilities)
    with new_file(path, "w") as file:
        write_row = row_writer(file, excel_safe=excel_safe)
        write_row([*id_column, "row", "fold", "label", "prediction", *label_names])
        for number, example in enumerate(examples):
            fold, answered, found = predicted[example.where]
            own_id = ids[number : number + 1]
            shares = map(spelt, found.probabilities.values())
            write_row(
                [*own_id, example.where, fold, label_of_row(task, example), answered, *shares]
            )
    return scorer.scores()


def _examples(task: Task, trial: Trial, loaded: Loaded) -> Iterator[Any]:
    return task.read(trial.train, trial.columns, loaded.facts, labelled=True).examples


def _ids(task: Task, trial: Trial, loaded: Loaded) -> tuple[list[str], list[str]]:
    """Returns the name of the id's column and the ids of all rows; none where there are none."""
    source = task.read(trial.train, trial.columns, loaded.facts, labelled=True)
    name = source.columns.id if source.columns else None
    if name is None:
        return [], []
    named = replace(trial, columns=replace(trial.columns, id_column=name))
    return [name], [example.id for example in _examples(task, named, loaded)]


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
    layout: Layout,
    models: list[Loaded],
    *,
    excel_safe: bool,
) -> int:
    tasks = [task_of(loaded.facts, str(test)) for loaded in models]
    task = _together(tasks)
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
