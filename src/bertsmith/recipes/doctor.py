"""What is wrong, or may be, with labelled files, or with the folder of a run.

    bertsmith doctor train.csv --dev dev.csv --model run/model
    bertsmith doctor run

A file of 10,000 short texts takes a second, and with a model, for their lengths, a few more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig, TaskConfig, read_settings_file
from bertsmith.data.columns import Columns
from bertsmith.data.tables import open_table
from bertsmith.errors import BertsmithError, ConfigError, DataError
from bertsmith.recipes.finetuning.data_check import (
    NEVER_CUT,
    Finding,
    by_severity,
    find,
    find_in_lengths,
    has_error,
)
from bertsmith.recipes.finetuning.rows_seen import Lengths, Seen
from bertsmith.recipes.finetuning.views import EYES, View
from bertsmith.recipes.run_check import check_run, is_run
from bertsmith.tasks.forms import Source
from bertsmith.tasks.labelled import Example, wanted_in
from bertsmith.tasks.task import Task, find_task
from bertsmith.text.tokenizer_files import read_tokenizer

OF_TABLES = ("classify", "regress")  # tasks whose rows are read one by one, faults and all
LONGEST = 1 << 16  # pieces; a text that is longer counts as having that many


def doctor(
    data: Path,
    task: str = "classify",
    columns: ColumnsConfig | None = None,
    options: TaskConfig | None = None,
    *,
    dev: Path | None = None,
    model: Path | None = None,
    max_length: int = 128,
) -> dict[str, Any]:
    """Returns what was found in a labelled file, or in a run folder.

    The result has `rows`, `ok`, which says that there is no error, and `findings`, the worst first,
    each with `severity` (error, warning or note), `what`, `where` and `mend`. Of a table's rows no
    texts are kept; those of other tasks are held as in training.

    Args:
        data: labelled file, or run folder.
        task: what is to be learnt from the rows.
        columns: which ones are read.
        options: of the task.
        dev: labelled file that the best epoch will be chosen by.
        model: folder whose tokenizer tells how long the rows are.
        max_length: pieces that the model will read.

    Raises:
        MissingInputError: a file, a column or the model is not there.
        ConfigError: `dev` or `model` is given with a run folder, or an option is of another task.
    """
    if max_length < 4:
        raise ConfigError(f"max_length is {max_length}; expected 4 or more pieces")
    if is_run(data):
        if dev or model:
            raise ConfigError(f"{data}: is a run folder; dev and model are for labelled files")
        rows, found = check_run(data)
    else:
        patient = Patient(find_task(task), columns or ColumnsConfig(), options or TaskConfig())
        rows, found = patient.examine(data, dev, model, max_length)
    return {
        "rows": rows,
        "ok": not has_error(found),
        "findings": [
            {"severity": one.severity, "what": one.what, "where": one.where, "mend": one.mend}
            for one in by_severity(found)
        ],
    }


class Patient:
    """Labelled files that are looked through without being trained on."""

    def __init__(self, kind: type[Task], columns: ColumnsConfig, options: TaskConfig) -> None:
        """Takes in how the files are to be read."""
        self._kind = kind
        self._columns = columns
        self._options = options
        self._held: list[Any] = []  # the training rows, of tasks that are not of tables
        self._found: list[Finding] = []

    def examine(
        self, data: Path, dev: Path | None, model: Path | None, max_length: int
    ) -> tuple[int, list[Finding]]:
        """Returns the number of training rows, and what was found."""
        train_seen, source = self._see(data, None)
        dev_seen = self._see(dev, source.facts)[0] if dev and source else None
        if source:
            self._found += find(train_seen, dev_seen)
        if len(train_seen) and not has_error(self._found):
            task = self._learnt(data, train_seen)
            if task and model:
                self._measure(task, data, model, max_length)
        return len(train_seen), self._found

    def _see(self, path: Path, remembered: dict[str, Any] | None) -> tuple[Seen, Source | None]:
        """Returns what is kept of a file's rows; what keeps it from being read is a finding."""
        name = self._kind.name
        separator = self._options.label_separator if self._options.multi_label else None
        seen = Seen(str(path), name, separator)
        source = None
        try:
            source = self._kind.read(path, self._columns, remembered, labelled=True)
            self._found.append(Finding("note", source.said, str(path), ""))
            if name in OF_TABLES and source.columns and not self._columns.glue:
                self._see_table(seen, path, source.columns)
                return seen, source
            for example in source.examples:
                seen.add(example.where, EYES[name].view(example))
                if remembered is None:
                    self._held.append(example)
        except DataError as error:
            self._found.append(_finding_of(error, path))
        return seen, source

    def _see_table(self, seen: Seen, path: Path, columns: Columns) -> None:
        texts = [columns.text, *([columns.pair] if columns.pair else [])]
        odd, first = 0, None
        for row in open_table(path, self._columns).rows(columns.names()):
            try:
                label, labels = wanted_in(row, columns)
                view = View(
                    tuple(row.text(column) for column in texts),
                    label or "",
                    labels if columns.labels else None,
                )
            except DataError as error:
                odd, first = odd + 1, first or error
            else:
                seen.add(row.where, view)
        if first:
            more = f" (and {odd - 1:,} rows more)" if odd > 1 else ""
            self._found.append(_finding_of(first, path, more))

    def _learnt(self, data: Path, seen: Seen) -> Task | None:
        """Returns the task with the labels of the rows, unless they cannot be learnt from."""
        try:
            return self._kind.learn(self._held or self._labels_alone(data, seen), self._options)
        except DataError as error:
            self._found.append(_finding_of(error, data))
            return None

    def _labels_alone(self, data: Path, seen: Seen) -> Sequence[Example]:
        if seen.labels and not self._options.multi_label:
            return [
                example
                for label, count in seen.labels.items()
                for example in [Example(seen.first_of[label], "", None, label)] * count
            ]
        source = self._kind.read(data, self._columns, None, labelled=True)
        return [replace(example, text="", pair=None) for example in source.examples]

    def _measure(self, task: Task, data: Path, model: Path, max_length: int) -> None:
        tokenizer = read_tokenizer(model)
        lengths = Lengths(max_length, are_whole=True)
        source = self._kind.read(data, self._columns, None, labelled=True)
        for example in self._held or source.examples:
            row = task.features(example, tokenizer, LONGEST)
            lengths.add(row, tokenizer.vocabulary.unk_id)
        in_windows = task.name in NEVER_CUT or self._options.long_texts == "windows"
        most = read_settings_file(model / "config.json").get("max_position_embeddings")
        self._found += find_in_lengths(lengths, str(data), in_windows=in_windows, most=most)


def _finding_of(error: BertsmithError, path: Path, more: str = "") -> Finding:
    """Returns an error as a finding; its message tells where and what to do by itself."""
    message = str(error)
    where, colon, rest = message.partition(": ")
    if not colon or not where.startswith(str(path)):
        where, rest = str(path), message
    what, semicolon, mend = rest.partition("; ")
    return Finding("error", what + more, where, mend if semicolon else "")
