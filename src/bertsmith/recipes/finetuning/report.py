"""The report of a finished fine-tuning run: RUN/report.html, one file that needs nothing beside it.

It shows the command, scores, curves, which labels are confused, how far probabilities come true,
the worst mistakes on dev rows, what was cut off, and what the data check found.
"""

from __future__ import annotations

import heapq
import json
import shlex
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from bertsmith.config import (
    ColumnsConfig,
    FeatureTaggerConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bertsmith.folder import load_model
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import duration
from bertsmith.recipes.finetuning.data_check import NEVER_CUT, Finding
from bertsmith.recipes.finetuning.rows import LabelledData
from bertsmith.recipes.finetuning.views import EYES, SURE, Mistake, mistake_in
from bertsmith.report.charts import Series, line_chart, reliability_plot, scatter
from bertsmith.report.matrix import confusion_matrix
from bertsmith.report.page import (
    Cell,
    Markup,
    Section,
    cards,
    page,
    paragraph,
    preformatted,
    readable,
    side_by_side,
    table,
)
from bertsmith.storage import read_json, replace_file
from bertsmith.tasks.answers import answer
from bertsmith.tasks.calibration import (
    Floats,
    cooled,
    cooled_alone,
    expected_calibration_error,
    reliability,
)
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.forms import Features, Prediction
from bertsmith.tasks.metrics import LOWER_IS_BETTER
from bertsmith.tasks.regress import Regress
from bertsmith.tasks.tag import Tag
from bertsmith.tasks.tag_scores import TagScorer
from bertsmith.tasks.task import Task, task_of

REPORT = "report.html"
MOST_MISTAKES = 30
MOST_LABELS = 50  # in a table of each label's scores
BINS = (10, 15)  # of calibration errors; the plot has the first number
# Ends of names of other figures.
NO_SCORES = (
    *("_total", "_thresh", "words_without_pieces", "words_of_unseen_tags", "unseen_intents"),
    "ece",
)
STAGES = (FinetuneConfig, OptimizerConfig, TaskConfig, ColumnsConfig, FeatureTaggerConfig)


@dataclass
class DevRows:
    """What a report keeps of the dev rows: a few numbers of each, and the worst mistakes."""

    task: Task
    rows: int = 0
    cut: int = 0
    wrong: int = 0
    confused: Counter[tuple[int, int]] = field(default_factory=Counter)  # (right, predicted)
    sure: array[float] = field(default_factory=lambda: array("d"))  # probability of what was said
    sure_before: array[float] = field(default_factory=lambda: array("d"))  # without temperature
    came_true: array[int] = field(default_factory=lambda: array("b"))
    numbers: list[tuple[float, float]] = field(default_factory=list)  # (wanted, predicted)
    entities: TagScorer | None = None
    _worst: list[tuple[float, int, Mistake]] = field(default_factory=list)  # a heap

    def add(self, example: Any, prediction: Prediction) -> None:
        """Takes in a dev row and what the best model says of it."""
        self.rows += 1
        self.cut += prediction.was_cut
        found = mistake_in(self.task, example, prediction)
        if found:
            self.wrong += 1
            entry = (found.size, -self.rows, found)  # of equal ones the first rows are kept
            if len(self._worst) < MOST_MISTAKES:
                heapq.heappush(self._worst, entry)
            else:
                heapq.heappushpop(self._worst, entry)
        if isinstance(self.task, Classify):
            self._add_labels(self.task, example, prediction)
        elif isinstance(self.task, Regress):
            self.numbers.append((float(example.label), prediction.answer))
        elif isinstance(self.task, Tag):
            self.entities = self.entities or self.task.scorer()
            self.entities.add(example, prediction)
        elif self.task.name == "choose":
            self.sure.append(max(prediction.probabilities.values()))
            self.came_true.append(found is None)

    def mistakes(self) -> list[Mistake]:
        """Returns the worst mistakes, the worst first."""
        return [found for _, _, found in sorted(self._worst, key=lambda entry: entry[:2])[::-1]]

    def _add_labels(self, task: Classify, example: Any, prediction: Prediction) -> None:
        wanted = task.target(example, Features(()))
        shares: Floats = np.array([list(prediction.probabilities.values())])  # [1, C]
        if task.options.multi_label:
            said = task.numbers(prediction.answer)
            for label in range(len(task.labels)):
                self.confused[label, label] += label in wanted and label in said
                self.confused[label, -1] += label in wanted and label not in said
                self.confused[-1, label] += label not in wanted and label in said
                self.came_true.append(label in wanted)
            self.sure.extend(shares[0])
            self.sure_before.extend(cooled_alone(shares, 1 / task.temperature)[0])
            return
        self.confused[wanted[0], task.numbers([prediction.answer])[0]] += 1
        self.sure.append(shares.max())
        self.sure_before.append(cooled(shares, 1 / task.temperature).max())
        self.came_true.append(int(shares.argmax()) == wanted[0])


def report_run(
    run: Path, data: LabelledData, findings: Sequence[Finding], result: Mapping[str, Any]
) -> Path:
    """Lets the best model of a finished run answer the dev rows; returns the report's place.

    Raises:
        CheckpointError, MissingInputError: there is no sound model in `run/best`.
        StorageError: the report cannot be written.
    """
    loaded = load_model(run / "best")
    task = task_of(loaded.facts, str(run / "best"))
    model = cast(TaskModel, loaded.model)
    max_length = int(loaded.facts["max_length"])
    answered = answer(task, model, loaded.tokenizer, data.dev.examples, max_length)
    return write_report(run, task, answered, findings, result)


def write_report(
    run: Path,
    task: Task,
    answered: Iterable[tuple[Any, Prediction]],
    findings: Sequence[Finding],
    result: Mapping[str, Any],
) -> Path:
    """Writes the report of a finished run and returns its place, `run/report.html`.

    Args:
        run: its folder, for `settings.json` and `metrics.jsonl`.
        task: that of the best model, with what was tuned on dev rows.
        answered: dev rows with the best model's predictions; they are gone through once.
        findings: of the data check.
        result: of the run, as `finetune` returns it.

    Raises:
        StorageError: it cannot be written.
    """
    settings = read_json(run / "settings.json")
    dev_rows = DevRows(task)
    for example, prediction in answered:
        dev_rows.add(example, prediction)
    sections = [
        Section("Scores on the dev rows", [_scores(result)]),
        Section("How it learned", [_curves(run / "metrics.jsonl", result)]),
        *_labels(dev_rows),
        *_types(dev_rows),
        *_calibration(dev_rows),
        *_numbers(dev_rows),
        Section("The worst mistakes", _mistakes(dev_rows)),
        Section("What was cut off", [_cut(dev_rows, result, settings)]),
        Section("What the data check found", [_findings(findings)]),
        Section("The command", [preformatted(command_of(settings, run))]),
    ]
    lead = paragraph(
        f"{result['train_rows']:,} training rows, {result['dev_rows']:,} dev rows; the best epoch "
        f"is {result['best_epoch']}, by {result['chosen_by']}; it took "
        f"{duration(result['seconds'])}, at {result['tokens_per_second']:,.0f} tokens a second.",
        is_quiet=True,
    )
    name = Path(settings.get("train") or run.name).name
    content = page(f"{task.name}: {name}", sections, lead=lead)
    replace_file(run / REPORT, content.encode("utf-8"))
    return run / REPORT


def command_of(settings: Mapping[str, Any], run: Path) -> str:
    """Returns the command that began a run, with the settings that are not as by default."""
    words = ["bertsmith", "finetune", settings.get("task", "TASK"), settings.get("train", "TRAIN")]
    words += ["--model", settings.get("model", "MODEL"), "--out", str(run)]
    if settings.get("dev"):
        words += ["--dev", settings["dev"]]
    if settings.get("random_weights"):
        words.append("--random-weights")
    if settings.get("feature_based"):
        words += ["--feature-based", settings["feature_based"]]
    for stage in STAGES:
        for setting in fields(stage):
            value = settings.get(setting.name, setting.default)
            if value == setting.default:
                continue
            flag = setting.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
    return shlex.join(map(str, words))


# ----------------------------------------------------------------------------------- sections


def _scores(result: Mapping[str, Any]) -> Markup:
    shown = [
        (name, readable(score))
        for name, score in result["scores"].items()
        if isinstance(score, int | float)
    ]
    return cards(shown, best=result["chosen_by"])


def _curves(path: Path, result: Mapping[str, Any]) -> Markup:
    losses, scores = [], []
    for row in _rows(path):
        if "loss" in row:
            losses.append((row["epoch"], row["loss"]))
        if "dev" in row:
            scores.append((row["epoch"], row["dev"]))
    charts = [line_chart("training loss", [Series("loss", losses)], x_label="epoch")]
    for title, names in _alike(result["scores"]):
        series = [
            Series(name, [(epoch, row[name]) for epoch, row in scores if name in row], True)
            for name in names
        ]
        charts.append(line_chart(title, series, x_label="epoch"))
    return side_by_side(charts)


def _alike(scores: Mapping[str, float]) -> Iterator[tuple[str, list[str]]]:
    """Yields the names of scores that one axis suits, under a title."""
    names = [name for name in scores if not name.endswith(NO_SCORES)]
    more = [name for name in names if name not in LOWER_IS_BETTER]
    if more:
        yield "dev scores", more
    for name in names:
        if name in LOWER_IS_BETTER:
            yield f"dev {name} (less is better)", [name]


def _labels(dev_rows: DevRows) -> Iterator[Section]:
    task = dev_rows.task
    if not isinstance(task, Classify):
        return
    if not task.options.multi_label:
        told = "Each row is a label, each column what its rows were called."
        matrix = confusion_matrix(task.labels, dev_rows.confused)
        yield Section("Which labels are confused", [paragraph(told, is_quiet=True), matrix])
    wanted, said = Counter[int](), Counter[int]()
    for (right, predicted), count in dev_rows.confused.items():
        wanted[right] += count
        said[predicted] += count
    rows: list[tuple[Cell, ...]] = []
    for number, label in enumerate(task.labels):
        hits = dev_rows.confused[number, number]
        precision, recall = hits / (said[number] or 1), hits / (wanted[number] or 1)
        f1 = 2 * hits / (said[number] + wanted[number] or 1)
        rows.append((label, wanted[number], said[number], precision, recall, f1))
    rows.sort(key=lambda row: cast(float, row[-1]))
    parts = [table(("label", "rows", "said", "precision", "recall", "f1"), rows[:MOST_LABELS])]
    if len(rows) > MOST_LABELS:
        told = f"The {MOST_LABELS} labels of the lowest F1, of {len(rows):,}."
        parts.insert(0, paragraph(told, is_quiet=True))
    if task.thresholds:
        names = task.labels if task.options.multi_label else task.labels[1:]
        shown = ", ".join(
            f"{label} {threshold:.3g}"
            for label, threshold in zip(names, task.thresholds, strict=True)
        )
        parts.append(paragraph(f"A label is said above a probability of: {shown}."))
    yield Section("Label by label", parts)


def _types(dev_rows: DevRows) -> Iterator[Section]:
    if dev_rows.entities is None:
        return
    found = dev_rows.entities.by_type()
    rows: list[tuple[Cell, ...]] = [(name, *scores.values()) for name, scores in found.items()]
    if rows:
        header = ("type", *next(iter(found.values())))
        yield Section("Type by type", [table(header, rows)])


def _calibration(dev_rows: DevRows) -> Iterator[Section]:
    if not dev_rows.sure:
        return
    sure, came_true = np.array(dev_rows.sure), np.array(dev_rows.came_true, dtype=bool)
    kinds = [
        ("as the model says them", np.array(dev_rows.sure_before) if dev_rows.sure_before else sure)
    ]
    if isinstance(dev_rows.task, Classify):
        kinds.append((f"with temperature {dev_rows.task.temperature:.3g}", sure))
    rows: list[tuple[Cell, ...]] = [
        (name, *(expected_calibration_error(shares, came_true, bins) for bins in BINS))
        for name, shares in kinds
    ]
    plots = [
        reliability_plot(
            name,
            [
                (one.low, one.high, one.count, one.probability, one.share_right)
                for one in reliability(shares, came_true, BINS[0])
            ],
        )
        for name, shares in kinds
    ]
    told = (
        "Of predictions with a probability of 0.8, eight in ten should be right: bars on the "
        "dashed line come true as often as they say, and darker bars stand for more predictions."
    )
    if len(kinds) > 1:
        told += (
            " The temperature was fitted on these same rows; the model folder remembers it, and "
            "predictions use it."
        )
    header = ("expected calibration error", *(f"{bins} bins" for bins in BINS))
    parts = [paragraph(told, is_quiet=True), table(header, rows), side_by_side(plots)]
    yield Section("Do probabilities come true?", parts)


def _numbers(dev_rows: DevRows) -> Iterator[Section]:
    if dev_rows.numbers:
        plot = scatter("each dev row", dev_rows.numbers, x_label="wanted", y_label="predicted")
        yield Section("Predicted and wanted", [side_by_side([plot])])


def _mistakes(dev_rows: DevRows) -> list[Markup]:
    mistakes = dev_rows.mistakes()
    if not mistakes:
        return [paragraph(f"None: all {dev_rows.rows:,} dev rows are right.")]
    how = EYES[dev_rows.task.name].size_name
    told = f"{dev_rows.wrong:,} of {dev_rows.rows:,} dev rows are not right; these are the surest."
    if how != SURE:
        told = f"Of {dev_rows.rows:,} dev rows, these are the furthest off."
    rows: list[tuple[Cell, ...]] = [
        (Path(one.where).name, one.text, one.wanted, one.found, one.size) for one in mistakes
    ]
    header = ("row", "text", "wanted", "predicted", how)
    return [paragraph(told, is_quiet=True), table(header, rows)]


def _cut(dev_rows: DevRows, result: Mapping[str, Any], settings: Mapping[str, Any]) -> Markup:
    cut = result["cut_texts"]
    if dev_rows.task.name in NEVER_CUT or settings.get("long_texts") == "windows":
        return paragraph(
            f"Nothing: texts of more than {settings['max_length']} pieces are read in windows."
        )
    if not cut and not dev_rows.cut:
        return paragraph(f"Nothing: no text has more than {settings['max_length']} pieces.")
    share = cut / result["train_rows"]
    return paragraph(
        f"{cut:,} of {result['train_rows']:,} training rows ({share:.1%}) and {dev_rows.cut:,} of "
        f"{dev_rows.rows:,} dev rows have more than {settings['max_length']} pieces and lose their "
        f"end: --max-length says how many are read."
    )


def _findings(findings: Sequence[Finding]) -> Markup:
    if not findings:
        return paragraph("Nothing.")
    rows = [(one.severity, one.what, one.where, one.mend) for one in findings]
    header = ("", "what", "where", "mend")
    return table(header, rows, kinds=[one.severity for one in findings])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a run's metrics; a last one that a fault cut short is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
