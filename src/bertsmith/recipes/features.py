"""The states of chosen layers for every piece of every text, as arrays of numpy.

    bertsmith features run/model sentences.txt --out states.npz --layers -4:-1

An `.npz` holds four arrays, which `numpy.load` gives by name:

    states            float32 [tokens, layers, H], texts end to end
    piece_ids         int32 [tokens]
    sequence_starts   int64 [texts + 1]: text s is tokens [starts[s], starts[s + 1])
    pieces            text [tokens], [CLS] and [SEP] among them

An `.npy` holds the states alone, and can be read in part (`mmap_mode`). Texts are read once; their
pieces wait in a temporary file, so that memory grows by 8 bytes a text and no more.
"""

from __future__ import annotations

import time
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import choose_columns
from bertsmith.data.framing import Framed
from bertsmith.data.outputs import check_suffix, new_file
from bertsmith.data.packing import pack_texts
from bertsmith.data.tables import open_table
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import load_model
from bertsmith.model.kinds import Encoder
from bertsmith.model.published import encoder_in
from bertsmith.tasks.labelled import read_examples
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.pieces import TOKENS_PER_BATCH, encode
from bertsmith.text.wordpiece import Vocabulary

BLOCK = 1 << 16  # pieces that are copied at a time


def states_of(model: Encoder, rows: Sequence[Framed], layers: Sequence[int]) -> NDArray[np.float32]:
    """Returns the states of chosen layers for texts end to end. [T, layers, H]"""
    batch = pack_texts(rows).to(model.embeddings.pieces.weight.device)
    with torch.inference_mode():
        states = model.layers(  # 1 + the number of blocks of [T, H]
            batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts
        )
        return torch.stack([states[layer] for layer in layers], dim=1).float().cpu().numpy()


def write_features(
    model: Path, text: Path, out: Path, layers: str, columns: ColumnsConfig | None = None
) -> dict[str, Any]:
    """Writes the states of chosen layers for every piece of a file's texts.

    The file is plain text, one text a line, or a table with a column of texts. Returns `tokens`,
    `texts`, `layers`, `dimensions`, `cut_texts`, `seconds` and `tokens_per_second`.

    Raises:
        ConfigError: there are no such layers, or `out` is named otherwise than .npz or .npy.
        DataError, MissingInputError: a file is not there or not as it must be.
        StorageError: it cannot be written; what stood there still stands.
    """
    check_suffix(out, ".npz", ".npy")
    started = time.monotonic()
    loaded = load_model(model)
    encoder = encoder_in(loaded.model)
    chosen = parse_layers(layers, loaded.config.num_hidden_layers)
    columns = columns or ColumnsConfig()
    if columns.glue:
        raise ConfigError("glue is for tasks; for features, give a file and --text-column")
    table = open_table(text, columns)
    found = replace(choose_columns(table, columns, label_names=None), pair=None)
    longest = int(loaded.facts.get("max_length", loaded.config.max_position_embeddings))
    rows = (encode(row, loaded.tokenizer, longest) for row in read_examples(table, found))
    with TemporaryFile() as file:
        spool = Spool.fill(file, rows)
        if not len(spool.lengths):
            raise DataError(f"{text}: holds no rows; expected texts")
        shape = (spool.num_tokens, len(chosen), loaded.config.hidden_size)
        states = (states_of(encoder, batch, chosen) for batch in spool.batches())
        with new_file(out, "wb") as target:
            if out.suffix.lower() == ".npy":
                write_array(target, "<f4", shape, states)
            else:
                _write_archive(target, spool, shape, states, loaded.tokenizer.vocabulary)
    seconds = time.monotonic() - started
    return {
        "tokens": shape[0],
        "texts": len(spool.lengths),
        "layers": list(chosen),
        "dimensions": shape[2],
        "cut_texts": spool.num_cut,
        "seconds": seconds,
        "tokens_per_second": shape[0] / seconds,
        "columns": found.said(),
        "out": str(out),
    }


@dataclass(frozen=True)
class Spool:
    """The pieces of many texts in a file on disk, so that they can be gone through twice."""

    file: IO[bytes]  # int32, texts end to end
    lengths: array[int]  # pieces of each text
    num_cut: int

    @classmethod
    def fill(cls, file: IO[bytes], rows: Iterable[Framed]) -> Spool:
        """Returns the spool of texts that were framed one by one, without segments."""
        lengths, num_cut = array("q"), 0
        for row in rows:
            file.write(row.piece_ids.astype("<i4").tobytes())
            lengths.append(len(row))
            num_cut += row.was_cut
        return cls(file, lengths, num_cut)

    @property
    def num_tokens(self) -> int:
        """Returns the pieces of all texts."""
        return sum(self.lengths)

    def blocks(self) -> Iterator[NDArray[np.int32]]:
        """Yields all piece ids, a block at a time."""
        self.file.seek(0)
        while content := self.file.read(4 * BLOCK):
            yield np.frombuffer(content, "<i4")

    def batches(self) -> Iterator[list[Framed]]:
        """Yields the texts in their order, as many at a time as go through a model together."""
        self.file.seek(0)
        ids = (np.frombuffer(self.file.read(4 * length), "<i4") for length in self.lengths)
        rows = (Framed(row, np.zeros(len(row), np.int32), was_cut=False) for row in ids)
        yield from in_batches(rows)


def in_batches(rows: Iterable[Framed]) -> Iterator[list[Framed]]:
    """Yields rows in their order, as many at a time as go through a model together."""
    batch: list[Framed] = []
    tokens = 0
    for row in rows:
        if batch and tokens + len(row) > TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += len(row)
    if batch:
        yield batch


def _write_archive(
    target: IO[bytes],
    spool: Spool,
    shape: tuple[int, int, int],
    states: Iterable[NDArray[np.float32]],
    vocabulary: Vocabulary,
) -> None:
    """Writes the four arrays one after the other, uncompressed, as `numpy.savez` lays them out."""
    names = np.array(vocabulary.pieces)
    starts = np.concatenate(([0], np.cumsum(np.frombuffer(spool.lengths, np.int64))))
    members: dict[str, tuple[str, tuple[int, ...], Iterable[NDArray[Any]]]] = {
        "sequence_starts": ("<i8", starts.shape, [starts]),
        "piece_ids": ("<i4", shape[:1], spool.blocks()),
        "pieces": (names.dtype.str, shape[:1], (names[ids] for ids in spool.blocks())),
        "states": ("<f4", shape, states),
    }
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, (kind, size, blocks) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, kind, size, blocks)


def write_array(
    target: IO[bytes], kind: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
) -> None:
    """Writes an array of numpy whose parts come one after the other; `shape` is that of all."""
    np.lib.format.write_array_header_1_0(
        target, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    for block in blocks:
        target.write(np.ascontiguousarray(block, dtype=kind).data)
