"""Reads labelled files, strictly: CSV, TSV, JSON lines, parquet and plain lines, also gzipped.

A value that is text stays the text that the file holds: `NA`, `null` and `nan` are words. Rows end
at a line feed (or CR LF) and nowhere else, so U+2028, U+0085 and U+001C may stand inside a text.
CSV follows RFC 4180, with semicolons or pipes for commas where that is asked for; in TSV a quote is
a plain character, as in the GLUE files.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from bertsmith.config import ColumnsConfig
from bertsmith.data.lines import known_encoding, text_lines
from bertsmith.errors import ConfigError, DataError, MissingInputError
from bertsmith.storage import strict_json

Format = Literal["csv", "tsv", "jsonl", "parquet", "lines"]

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")

DELIMITERS = {"comma": ",", "semicolon": ";", "pipe": "|", "tab": "\t"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a labelled file and the place where it begins."""

    path: Path
    number: int  # the line on which the row begins; in parquet the row itself; from 1
    cells: dict[str, Any]  # str from CSV and TSV; what JSON or parquet holds from those

    @property
    def where(self) -> str:
        """Returns the place of the row, as `file:line`."""
        return f"{self.path}:{self.number}"

    def text(self, column: str) -> str:
        """Returns the text in `column`.

        Raises:
            DataError: the row has no such cell, or it holds something else than text.
        """
        cell = self._cell(column)
        if not isinstance(cell, str):
            raise DataError(f"{self.where}: {column!r} holds {_shown(cell)}; expected text")
        if "\0" in cell:
            raise DataError(
                f"{self.where}: {column!r} holds a NUL character; expected text: "
                f"remove it, or name the encoding with --file-encoding if it is UTF-16"
            )
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.where}: {column!r} holds half a surrogate pair at character "
                f"{error.start}; expected whole characters"
            ) from None
        return cell

    def value(self, column: str) -> str:
        """Returns a label or an id as text; a number or a truth value is spelt as JSON spells it.

        Raises:
            DataError: the row has no such cell, or it holds nothing, a list or a table.
        """
        cell = self._cell(column)
        if isinstance(cell, float) and not math.isfinite(cell):
            raise DataError(f"{self.where}: {column!r} holds {cell}; expected a value")
        if isinstance(cell, bool | int | float):
            return json.dumps(cell)
        return self.text(column)

    def _cell(self, column: str) -> Any:
        if column not in self.cells:
            raise DataError(f"{self.where}: has no {column!r}; found {', '.join(self.cells)}")
        return self.cells[column]


@dataclass(frozen=True)
class Table:
    """A labelled file whose column names are known; its rows are read as they are asked for."""

    path: Path
    format: Format
    columns: tuple[str, ...]
    has_header: bool
    encoding: str
    delimiter: str = ","  # of CSV
    # Lines of CSV or TSV on which rows begin that are not read.
    left_out: frozenset[int] = frozenset()

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Yields the rows in file order; of a parquet file only `columns` are read, if given.

        Raises:
            DataError: a row is not as the format demands; the message names file and line.
        """
        if self.format == "parquet":
            return _parquet_rows(self.path, columns)
        if self.format == "jsonl":
            return _json_rows(self.path, self.encoding)
        return self._delimited_rows()

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the cells of every row of CSV or TSV, and the line on which it begins.

        A blank line is a row without cells.
        """
        records = _records(self.path, self.format, self.encoding, self.delimiter)
        if self.has_header:
            next(records, None)
        return records

    def _delimited_rows(self) -> Iterator[Row]:
        expected = len(self.columns)
        blank: int | None = None  # a blank line is an error unless only blank lines follow it
        for number, cells in self.records():
            if number in self.left_out:
                continue
            if not cells:
                blank = blank or number
                continue
            if blank or len(cells) != expected:
                self._refuse_row(blank or number, [] if blank else cells)
            yield Row(self.path, number, dict(zip(self.columns, cells, strict=True)))

    def _refuse_row(self, number: int, cells: list[str]) -> NoReturn:
        found = f"{len(cells)} column{'' if len(cells) == 1 else 's'}" if cells else "a blank line"
        if self.format == "tsv":
            mend = "; a text in TSV holds neither tabs nor line ends: put spaces in their place"
        else:
            mend = f"; quote a text that holds a {self.delimiter!r} or goes over several lines"
        raise DataError(
            f"{self.path}:{number}: found {found}, expected {len(self.columns)} "
            f"({', '.join(self.columns)}){mend}"
        )


def open_table(path: Path, config: ColumnsConfig) -> Table:
    """Returns the table in `path` with its column names; the file's suffix tells its format.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is empty, of an unknown format, or its header is not one.
    """
    if path.is_dir():
        raise MissingInputError(
            f"{path}: is a folder; expected the file of a table, or --glue with the folder of one "
            f"of its tasks"
        )
    if not path.is_file():
        raise MissingInputError(f"{path}: there is no such file; expected a table of rows")
    encoding = known_encoding(config.file_encoding)
    kind = _format_of(path, config, encoding)
    if kind in ("parquet", "jsonl") and (config.no_header or config.delimiter):
        raise ConfigError(f"{path}: no_header and delimiter are for CSV and TSV, not for {kind}")
    delimiter = DELIMITERS[config.delimiter or "comma"]
    if kind == "parquet":
        columns: Sequence[str] = _parquet_file(path).schema_arrow.names
    elif kind == "jsonl":
        first_row = next(_json_rows(path, encoding), None)
        columns = list(first_row.cells) if first_row else []
    else:
        _, columns = next(_records(path, kind, encoding, delimiter), (1, []))
        if config.delimiter is None and kind in ("csv", "tsv") and not config.no_header:
            _refuse_other_delimiter(path, kind, columns)
        if kind == "lines":
            columns = ["text"] if columns else []
        elif config.no_header:
            columns = [str(place) for place in range(len(columns))]
    if not columns:
        raise DataError(f"{path}: is empty; expected rows of text")
    twice = sorted({name for name in columns if list(columns).count(name) > 1})
    if twice:
        raise DataError(
            f"{path}:1: the column name {twice[0]!r} stands twice; "
            f"rename one, or add --no-header if the first row is data"
        )
    strange = next((name for name in columns if "\0" in name or "\r" in name), None)
    if strange is not None:
        raise DataError(
            f"{path}:1: the column name {strange[:40]!r} holds a NUL or a carriage return; "
            f"expected lines that end in LF or CR LF: is it UTF-16? then add --file-encoding utf-16"
        )
    has_header = kind in ("csv", "tsv") and not config.no_header
    return Table(path, kind, tuple(columns), has_header, encoding, delimiter)


def _refuse_other_delimiter(path: Path, kind: Format, columns: Sequence[str]) -> None:
    """Raises DataError where a header is one column that another delimiter makes several of."""
    if len(columns) != 1:
        return
    own = "comma" if kind == "csv" else "tab"
    times = {name: columns[0].count(mark) for name, mark in DELIMITERS.items() if name != own}
    name = max(times, key=times.__getitem__)
    if times[name]:
        raise DataError(
            f"{path}:1: has no {own} but {times[name]} of {DELIMITERS[name]!r} in its first row "
            f"{columns[0][:60]!r}; expected columns with {own}s between: add --delimiter {name}, "
            f"or --delimiter {own} if this is the name of one column"
        )


def torn_rows(table: Table) -> tuple[int, list[int]]:
    """Returns how many rows of a CSV or TSV file are whole, and the lines of all others.

    A row is torn where it has more or fewer columns than the table; blank lines at the end of the
    file are none.
    """
    whole = 0
    torn: list[int] = []
    end = 0  # of `torn`, without the blank lines that have come last
    for number, cells in table.records():
        if len(cells) == len(table.columns):
            whole += 1
            end = len(torn)
            continue
        torn.append(number)
        if cells:
            end = len(torn)
    return whole, torn[:end]


def _format_of(path: Path, config: ColumnsConfig, encoding: str) -> Format:
    if config.delimiter:
        return "tsv" if config.delimiter == "tab" else "csv"
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix in SPREADSHEETS:
        raise DataError(
            f"{path}: is a spreadsheet; expected one of {' '.join(SUFFIXES)}: save the sheet as "
            f"CSV in UTF-8"
        )
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: the suffix {suffix!r} names no known format; "
            f"expected one of {' '.join(SUFFIXES)} (or with .gz), or give --delimiter"
        )
    if suffix == ".txt" and "\t" not in next(text_lines(path, encoding), ""):
        return "lines"
    return SUFFIXES[suffix]


# ------------------------------------------------------------------------------ text formats


def _records(
    path: Path, kind: Format, encoding: str, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yields each record with the line on which it begins; a blank line is a record of no cells."""
    lines = text_lines(path, encoding)
    if kind == "csv":
        yield from _csv_records(path, lines, delimiter)
        return
    blanks = 0
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        if kind == "tsv":
            yield number, line.split("\t") if line else []
        elif not line:
            blanks += 1
        else:  # blank lines are texts too, but not at the end of the file
            yield from ((number - back, [""]) for back in range(blanks, 0, -1))
            blanks = 0
            yield number, [line]


def _csv_records(
    path: Path, lines: Iterator[str], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses a text of more than 131,072 characters
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{start}: {_csv_fault(str(error), delimiter)}") from None
        yield start, cells
        start = reader.line_num + 1


def _csv_fault(message: str, delimiter: str) -> str:
    if "unexpected end of data" in message:
        return (
            "a quote opens a field here that nothing closes before the file ends; "
            'write a quote that is part of a text twice, as in "a ""word"" here"'
        )
    if "expected after" in message:
        return (
            "a quoted field that begins in this row is followed by more text; expected a "
            f"{delimiter!r} or the end of the row: "
            'write a quote that is part of a text twice, as in "a ""word"""'
        )
    return (
        "a carriage return stands alone outside quotes; expected lines that end in LF or CR LF"
        if "new-line" in message
        else message
    )


def _json_rows(path: Path, encoding: str) -> Iterator[Row]:
    blank: int | None = None
    for number, line in enumerate(text_lines(path, encoding), start=1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{path}:{blank}: is blank; expected one JSON object a line")
        if number == 1 and (line.lstrip().startswith("[") or line.strip() == "{"):
            raise DataError(
                f"{path}: is one JSON value over all lines; expected one JSON object a line: a "
                f"list of objects is written so by jq -c '.[]'"
            )
        yield Row(path, number, _json_object(f"{path}:{number}", line))


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        found = strict_json(line)
    except ValueError as error:
        raise DataError(f"{where}: {error}; expected one JSON object a line") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: holds {_shown(found)}; expected one JSON object a line")
    return found


# ------------------------------------------------------------------------------------ parquet


def _parquet_file(path: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a parquet file ({error})") from None


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    from pyarrow import ArrowException

    number = 0
    source = _parquet_file(path)
    try:
        for batch in source.iter_batches(columns=list(columns) if columns else None):
            for cells in batch.to_pylist():
                number += 1
                yield Row(path, number, cells)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read after row {number} ({error})") from None


def _shown(cell: object) -> str:
    if cell is None:
        return "nothing"
    return f"{type(cell).__name__} {str(cell)[:40]!r}"
