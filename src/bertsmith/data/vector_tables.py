"""Vectors as a column of a parquet file, beside the rows that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.columns import Columns
from bertsmith.data.outputs import new_file
from bertsmith.errors import ConfigError

VECTOR = "vector"  # the name of their column


def write_vector_table(
    path: Path,
    blocks: Iterable[tuple[Mapping[str, Sequence[str | None]], NDArray[np.float32]]],
    columns: Columns,
    dimensions: int,
) -> int:
    """Writes rows and their vectors as parquet; returns their number.

    The columns are the id, where there is one, the text, and `vector`: lists of `dimensions` 32-bit
    floats, as vector stores and data frames read them. A row group is one block.

    Raises:
        ConfigError: a column of the table is itself named `vector`.
        StorageError: it cannot be written; what stood there still stands.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = [name for name in (columns.id, columns.text) if name is not None]
    if VECTOR in names:
        raise ConfigError(
            f"{path}: the table has a column {VECTOR!r}, which the vectors are to be called; "
            f"rename it, or write .npy"
        )
    kind: Any = pa.list_(pa.float32(), dimensions)
    schema = pa.schema([*((name, pa.string()) for name in names), (VECTOR, kind)])
    count = 0
    with new_file(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for cells, vectors in blocks:
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            listed = pa.FixedSizeListArray.from_arrays(flat, dimensions)
            texts = [pa.array(cells[name], pa.string()) for name in names]
            writer.write_table(pa.table([*texts, listed], schema=schema))
            count += len(vectors)
    return count
