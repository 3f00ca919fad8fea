"""Files of answers: predictions, submissions and vectors, each there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ColumnsConfig
from bertsmith.data.tables import open_table
from bertsmith.errors import ConfigError, DataError, StorageError

PREDICTION = "prediction"  # name of the column; those of probabilities begin with the next
PROBABILITY = "probability_"
WAS_CUT = "was_cut"

# What spreadsheets take for the beginning of a formula, unless the whole cell is a number.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Answered:
    """What was predicted of one row; `id` is that of the row, where the file has ids."""

    id: str | None
    answer: str | float  # a label, or a number
    probabilities: Mapping[str, float]  # by label; none for a number
    marks: Mapping[str, int] = field(default_factory=dict)  # 0 or 1 by label, to stand in columns
    was_cut: bool | None = None  # the model did not see the end of the text; None: nothing is said


@contextmanager
def new_file(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Opens a file that takes its place at `path` when the `with` block ends without an error.

    Raises:
        StorageError: it cannot be written; what stood at `path` still stands.
    """
    beside = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); what stood there still stands"
        ) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_suffix(path: Path, *allowed: str) -> None:
    """Raises ConfigError where the name of a file to write does not end in one of `allowed`."""
    if path.suffix.lower() not in allowed:
        raise ConfigError(
            f"out is {str(path)!r}; expected a name that ends in {' or '.join(allowed)}"
        )


def check_excel_safe(path: Path) -> None:
    """Raises ConfigError where a file to write is none that a spreadsheet opens.

    Elsewhere a quote before a text would only change the text, and leaving it out in silence would
    leave the user in the belief that it is there.
    """
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise ConfigError(
            f"excel_safe is given, but out is {str(path)!r}; expected a name that ends in .csv or "
            f".tsv: no other file is taken for a sheet with formulas, so leave excel_safe out"
        )


def excel_safe_cell(cell: Any) -> Any:
    """Returns a cell as it is, but a text that a spreadsheet would run as a formula after a quote.

    Those are texts that begin with `= + - @`, a tab or a carriage return. Numbers are none.
    """
    if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def row_writer(file: IO[str], *, excel_safe: bool) -> Callable[[Iterable[Any]], None]:
    """Returns the function that writes one row of CSV after another, names of columns too.

    With `excel_safe` each cell is first made safe by `excel_safe_cell`.
    """
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write_row(cells: Iterable[Any]) -> None:
        row = list(map(excel_safe_cell, cells) if excel_safe else cells)
        # A lone carriage return, which begins a new row to many readers, does not move `csv` to
        # quote its cell.
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (quoted if has_return else plain).writerow(row)

    return write_row


def write_predictions(
    path: Path, rows: Iterable[Answered], id_column: str | None, *, excel_safe: bool = False
) -> int:
    """Writes predictions as CSV, or as JSON lines by the file's name; returns their number.

    A row has its id, if the file has ids, the prediction, or in its place the columns of `marks`,
    the probability of each label, and whether its text was cut. `excel_safe` is for CSV alone; see
    `excel_safe_cell`.
    """
    count = 0
    with new_file(path, "w") as file:
        write_row = row_writer(file, excel_safe=excel_safe)
        for row in rows:
            ids: dict[str, str | None] = {} if id_column is None else {id_column: row.id}
            if path.suffix.lower() == ".jsonl":
                said: dict[str, Any] = dict(row.marks) or {PREDICTION: row.answer}
                cells: dict[str, Any] = {**ids, **said}
                if row.probabilities:
                    cells["probabilities"] = dict(row.probabilities)
                if row.was_cut is not None:
                    cells[WAS_CUT] = row.was_cut
                file.write(json.dumps(cells, ensure_ascii=False) + "\n")
            else:
                cut = {} if row.was_cut is None else {WAS_CUT: int(row.was_cut)}
                if count == 0:
                    names = [PROBABILITY + label for label in row.probabilities]
                    write_row([*ids, *(row.marks or [PREDICTION]), *names, *cut])
                numbers = map(spelt, row.probabilities.values())
                marks = row.marks.values() or [spelt(row.answer)]
                write_row([*ids.values(), *marks, *numbers, *cut.values()])
            count += 1
    return count


@dataclass(frozen=True)
class Layout:
    """The layout of a sample submission: its columns, which of them is the id, and the ids."""

    path: Path
    columns: tuple[str, ...]
    id_column: str
    ids: tuple[str, ...]

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """Returns the columns that are to be filled."""
        return tuple(name for name in self.columns if name != self.id_column)


def read_layout(path: Path, known: Sequence[str], labels: Sequence[str]) -> Layout:
    """Returns the layout of a sample submission for predictions on a table of `known` columns.

    Its id is the first column that the table has too. Of the others there is either one, for the
    prediction, or one for each of `labels`, for its probability.

    Raises:
        DataError: it is not of such a form.
    """
    table = open_table(path, ColumnsConfig())
    shared = [name for name in table.columns if name in known]
    if not shared:
        raise DataError(
            f"{path}: has the columns {', '.join(table.columns)}, none of which is in the data "
            f"({', '.join(known)}); expected the id of the rows among them"
        )
    ids = tuple(row.value(shared[0]) for row in table.rows())
    layout = Layout(path, table.columns, shared[0], ids)
    names = layout.answer_columns
    if len(names) != 1 and set(names) != set(labels):
        raise DataError(
            f"{path}: has the columns {', '.join(names)} besides {shared[0]!r}; expected one for "
            f"the prediction, or one for each label ({', '.join(labels) or 'a number has none'})"
        )
    return layout


def check_ids(layout: Layout, ids: Sequence[str | None]) -> None:
    """Raises DataError where the ids of the data are not those of a layout, or one stands twice."""
    found: set[str] = set()
    for one in ids:
        assert one is not None, "rows for a submission are read with their ids"
        if one in found:
            raise DataError(
                f"{layout.path}: {layout.id_column} {one!r} stands twice in the data; "
                f"expected every id once"
            )
        found.add(one)
    known = set(layout.ids)
    for lacking, where in ((known - found, "the data"), (found - known, str(layout.path))):
        if lacking:
            first = next(one for one in (*layout.ids, *ids) if one in lacking)
            raise DataError(
                f"{layout.path}: {len(lacking)} ids do not stand in {where}, the first of them "
                f"{first!r}; expected the ids of the data and of the sample to be the same"
            )


def write_submission(
    path: Path, rows: Iterable[Answered], layout: Layout, *, excel_safe: bool = False
) -> int:
    """Writes predictions with the columns and in the order of a sample submission.

    Raises:
        DataError: see `check_ids`.
    """
    answered = list(rows)
    check_ids(layout, [row.id for row in answered])
    found = {row.id: row for row in answered}
    with new_file(path, "w") as file:
        write_row = row_writer(file, excel_safe=excel_safe)
        write_row(layout.columns)
        for name in layout.ids:
            write_row(_submission_cells(found[name], layout))
    return len(layout.ids)


def _submission_cells(row: Answered, layout: Layout) -> list[str | None]:
    by_label = len(layout.answer_columns) > 1
    return [
        row.id
        if column == layout.id_column
        else spelt(row.probabilities[column] if by_label else row.answer)
        for column in layout.columns
    ]


def spelt(answer: str | float) -> str:
    """Returns a label as it is, and a number with as many digits as a 32-bit one has."""
    return answer if isinstance(answer, str) else f"{answer:.9g}"


def write_vectors(path: Path, blocks: Iterable[NDArray[np.float32]], dimensions: int) -> int:
    """Writes blocks of vectors, each [N, H], below each other as one `.npy`; returns their number.

    The header is written again at the end, when their number is known: numpy leaves room in it
    for the first axis to grow.
    """
    count = 0
    with new_file(path, "wb") as file:
        _write_header(file, count, dimensions)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").tobytes())
            count += len(block)
        end = file.tell()
        _write_header(file, count, dimensions)
        file.seek(end)
    return count


def _write_header(file: BinaryIO | IO[Any], count: int, dimensions: int) -> None:
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (count, dimensions)}
    )
