"""The vectors of every row of a file: an array of numpy, or a table with the rows' own columns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.outputs import check_suffix, write_vectors
from bertsmith.data.tables import Table, open_table
from bertsmith.data.vector_tables import write_vector_table
from bertsmith.errors import ConfigError
from bertsmith.model.memory import keep_freed_memory
from bertsmith.predict import Model
from bertsmith.progress import Tally
from bertsmith.tasks.labelled import Example, read_examples
from bertsmith.tasks.vectors import Pooling
from bertsmith.tasks.whitening import Moments, Whitening, check_dimensions, finished

_ROWS_AT_ONCE = 4096  # that are read back from the disk

Block = tuple[list[Example], NDArray[np.float32]]


def embed_file(
    model: Model,
    data: Path,
    out: Path,
    columns: ColumnsConfig | None = None,
    *,
    pooling: Pooling | None = None,
    layers: int | str = -1,
    normalize: bool | None = None,
    max_length: int | None = None,
    whitening: bool = False,
    whitened_by: Path | None = None,
    dimensions: int | None = None,
) -> dict[str, Any]:
    """Writes one vector for each text of a file; memory does not grow with their number.

    The file is plain text, one text a line, or a table with a column of texts. `out` is `.npy`, or
    `.parquet` with the texts, the ids where there are some, and the vectors as `vector`. How texts
    become vectors is told at `Model.embed`. With `whitening` a whitening is fitted on these texts,
    and written beside `out` with `.whitening.npz` in place of its suffix, so that `whitened_by` of
    that file makes queries comparable with them.

    Returns `rows`, `dimensions`, `seconds` and `tokens_per_second`, what was read as what, and
    where the whitening is, if one was fitted; and of the engine, if it was chosen.

    Raises:
        ConfigError: flags contradict each other, or do not fit the model.
        DataError, MissingInputError: a file is not there or not as it must be.
        StorageError: it cannot be written; what stood there still stands.
    """
    started = time.monotonic()
    keep_freed_memory()
    pooling, normalize = model.vector_defaults(pooling, normalize)
    check_suffix(out, ".npy", ".parquet")
    columns = columns or ColumnsConfig()
    if columns.glue:
        raise ConfigError("glue is for tasks; to embed texts, give a file and --text-column")
    given = _given_whitening(model, whitening, whitened_by, dimensions)
    table = open_table(data, columns)
    chosen = choose_columns(table, columns, label_names=None, known=model.trained_on())
    chosen = replace(chosen, pair=None)
    tally = Tally("texts")

    def raw() -> Iterator[Block]:
        rows = read_examples(table, chosen, with_id=True)
        for window, vectors, tokens in model.blocks(rows, pooling, layers, max_length):
            tally.add(len(window), tokens)
            yield window, vectors

    fitted: dict[str, str] = {}
    with tally, TemporaryFile() as spool:
        blocks = raw()
        if whitening:
            given = _fit(blocks, spool, model.config.hidden_size, dimensions)
            place = out.with_suffix(".whitening.npz")
            given.save(place)
            fitted = {"whitening": str(place)}
            blocks = _read_again(spool, table, chosen, model.config.hidden_size)
        done = ((rows, finished(block, given, normalize)) for rows, block in blocks)
        width = model.config.hidden_size if given is None else given.kernel.shape[1]
        if out.suffix.lower() == ".npy":
            count = write_vectors(out, (block for _, block in done), width)
        else:
            count = write_vector_table(out, _cells(done, chosen), chosen, width)
    seconds = time.monotonic() - started
    return {
        "rows": count,
        "dimensions": width,
        "seconds": seconds,
        "tokens_per_second": tally.tokens / seconds,
        "columns": chosen.said(),
        **model.engine_said,
        **fitted,
    }


def _given_whitening(
    model: Model, fits: bool, path: Path | None, dimensions: int | None
) -> Whitening | None:
    """Returns the whitening of a file, where one is named.

    Raises:
        ConfigError: there are two, or a number of dimensions and nothing that could leave some.
    """
    if fits and path:
        raise ConfigError(
            "whitening and whitened_by are both given; expected one of them: the first fits a "
            "whitening, the second uses one"
        )
    if dimensions is not None and not fits:
        raise ConfigError(
            "dimensions is given without whitening, which decides what is left out; add --whitening"
        )
    check_dimensions(dimensions, model.config.hidden_size)
    return Whitening.load(path) if path else None


def _fit(blocks: Iterator[Block], spool: IO[bytes], size: int, dimensions: int | None) -> Whitening:
    """Returns the whitening of vectors, which are kept in `spool`."""
    moments = Moments(size)
    for _, vectors in blocks:
        moments.add(vectors)
        spool.write(np.ascontiguousarray(vectors, "<f4").data)
    return moments.whitening(dimensions)


def _read_again(spool: IO[bytes], table: Table, chosen: Columns, size: int) -> Iterator[Block]:
    """Yields the rows again, with the vectors that were kept."""
    rows = read_examples(table, chosen, with_id=True)
    spool.seek(0)
    while content := spool.read(4 * size * _ROWS_AT_ONCE):
        vectors = np.frombuffer(content, "<f4").reshape(-1, size)
        yield [next(rows) for _ in vectors], vectors


def _cells(
    blocks: Iterator[Block], chosen: Columns
) -> Iterator[tuple[dict[str, list[str | None]], NDArray[np.float32]]]:
    """Yields columns of cells by name with the vectors that stand beside them."""
    for rows, vectors in blocks:
        cells: dict[str, list[str | None]] = {}
        if chosen.id:
            cells[chosen.id] = [row.id for row in rows]
        yield cells | {chosen.text: [row.text for row in rows]}, vectors
