"""Files of answers: predictions, submissions and vectors, each there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Answered:
    """What was predicted of one row; `id` is that of the row, where the file has ids."""

    id: str | None
    answer: str | float  # a label, or a number
    probabilities: Mapping[str, float]  # by label; none for a number
    marks: Mapping[str, int] = field(default_factory=dict)  # 0 or 1 by label, to stand in columns


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


def write_predictions(path: Path, rows: Iterable[Answered], id_column: str | None) -> int:
    """Writes predictions as CSV, or as JSON lines by the file's name; returns their number.

    A row has its id, if the file has ids, the prediction, or in its place the columns of `marks`,
    and the probability of each label.
    """
    count = 0
    with new_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows:
            ids: dict[str, str | None] = {} if id_column is None else {id_column: row.id}
            if path.suffix.lower() == ".jsonl":
                said: dict[str, Any] = dict(row.marks) or {PREDICTION: row.answer}
                cells: dict[str, Any] = {**ids, **said}
                if row.probabilities:
                    cells["probabilities"] = dict(row.probabilities)
                file.write(json.dumps(cells, ensure_ascii=False) + "\n")
            else:
                if count == 0:
                    names = [PROBABILITY + label for label in row.probabilities]
                    writer.writerow([*ids, *(row.marks or [PREDICTION]), *names])
                numbers = map(spelt, row.probabilities.values())
                marks = row.marks.values() or [spelt(row.answer)]
                writer.writerow([*ids.values(), *marks, *numbers])
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


def write_submission(path: Path, rows: Iterable[Answered], layout: Layout) -> int:
    """Writes predictions with the columns and in the order of a sample submission.

    Raises:
        DataError: the ids are not those of the sample, or one stands twice.
    """
    found: dict[str, Answered] = {}
    for row in rows:
        assert row.id is not None, "rows for a submission are read with their ids"
        if row.id in found:
            raise DataError(
                f"{layout.path}: {layout.id_column} {row.id!r} stands twice in the data; "
                f"expected every id once"
            )
        found[row.id] = row
    for one, other, where in ((layout.ids, found, "the data"), (found, layout.ids, layout.path)):
        lacking = [name for name in one if name not in set(other)]
        if lacking:
            raise DataError(
                f"{layout.path}: {len(lacking)} ids do not stand in {where}, the first of them "
                f"{lacking[0]!r}; expected the ids of the data and of the sample to be the same"
            )
    with new_file(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(layout.columns)
        for name in layout.ids:
            writer.writerow(_submission_cells(found[name], layout))
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
