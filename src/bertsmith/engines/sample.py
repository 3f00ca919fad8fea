"""Some of a user's texts, on which engines are measured: spread over the first few thousand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from bertsmith.config import ColumnsConfig, InferenceConfig
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.framing import Framed
from bertsmith.data.tables import open_table
from bertsmith.engines.choose import Chosen, choose
from bertsmith.folder import Loaded
from bertsmith.tasks.labelled import Example, read_examples
from bertsmith.tasks.pieces import WINDOW_ROWS, encode
from bertsmith.tasks.task import task_of

Text = str | tuple[str, str]  # a text, or a pair of texts
_ROWS = 256  # of the sample
_TOKENS = 16384


def choose_for(
    loaded: Loaded,
    config: InferenceConfig,
    texts: Iterable[Text] | Path = (),
    columns: ColumnsConfig | None = None,
    where: str = "the model",
) -> Chosen:
    """Returns a loaded model on the engine that `config` asks for; see `choose`.

    Args:
        loaded: the model; its folder's task says how a file is read.
        config: which engine.
        texts: some texts or pairs of them, or a file of what the model is to answer; read only
            where engines are measured.
        columns: of that file.
        where: the model's folder, for messages.

    Raises:
        ConfigError, MissingInputError: see `choose`.
        DataError: the file does not hold what the model reads.
    """
    if not config.needs_sample:
        return choose(loaded.model, config, ())
    if isinstance(texts, Path):
        rows = _rows_of_file(loaded, texts, columns or ColumnsConfig(), where)
    else:
        examples = (_example(text) for text in texts)
        rows = _rows_of(loaded, examples)
    return choose(loaded.model, config, rows)


def _example(text: Text) -> Example:
    return Example("sample", text) if isinstance(text, str) else Example("sample", *text)


def _rows_of(loaded: Loaded, examples: Iterable[Example]) -> list[Framed]:
    length = _max_length(loaded)
    return _few([encode(one, loaded.tokenizer, length) for one in _spread(examples)])


def _rows_of_file(loaded: Loaded, path: Path, columns: ColumnsConfig, where: str) -> list[Framed]:
    if "task" in loaded.facts:
        task = task_of(loaded.facts, where)
        source = task.read(path, columns, loaded.facts, labelled=False)
        features = (
            task.features(example, loaded.tokenizer, _max_length(loaded))
            for example in _spread(source.examples)
        )
        return _few([row for parts in features for row in parts.sequences])
    table = open_table(path, columns)
    found = loaded.facts.get("columns")
    known = Columns(found["text"], found.get("pair"), found.get("label")) if found else None
    chosen = choose_columns(table, columns, label_names=None, known=known)
    return _rows_of(loaded, read_examples(table, replace(chosen, pair=None)))


def _max_length(loaded: Loaded) -> int:
    return int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))


def _spread(examples: Iterable[Any]) -> list[Any]:
    """Returns at most `_ROWS` of the first few thousand, evenly spread."""
    first = list(islice(examples, WINDOW_ROWS))
    return first[:: -(-len(first) // _ROWS) or 1]


def _few(rows: list[Framed]) -> list[Framed]:
    """Returns as many rows from the front as have `_TOKENS` pieces, one at least."""
    kept, tokens = 0, 0
    for row in rows:
        tokens += len(row)
        if kept and tokens > _TOKENS:
            break
        kept += 1
    return rows[:kept]
