"""Writes a tokenised corpus: beside its place, synced to disk, and renamed when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.blocks import EncodedDocument
from bertsmith.data.shards import (
    ARRAYS,
    FORMAT,
    MANIFEST,
    SPLITS,
    SUMMED_BYTES,
    VERSION,
    VOCABULARY,
    FileFacts,
    Manifest,
    ShardFacts,
    Split,
    array_name,
    as_text,
)
from bertsmith.errors import FolderInUseError
from bertsmith.storage import storage_errors, sync
from bertsmith.text.wordpiece import Tokenizer


class CorpusWriter:
    """Writes a corpus beside its place and renames it when whole; use as a context manager.

    A shard is closed when another half of one has followed it, so that none but an only one is
    small. What was written is removed when the block ends without `finish`, by whatever error.

    Raises:
        FolderInUseError: the place is taken.
        StorageError: a write fails; the message tells how much was free.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, *, shard_pieces: int) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._shard_pieces = shard_pieces
        self._temporary = path.parent / _temporary_name(path)
        self._open = {split: _OpenShard() for split in SPLITS}
        self._shards: dict[Split, list[ShardFacts]] = {split: [] for split in SPLITS}
        self._files: dict[str, FileFacts] = {}

    def __enter__(self) -> Self:
        if self._path.is_dir() and not any(self._path.iterdir()):
            pass  # an empty folder is replaced
        elif os.path.lexists(self._path):
            raise FolderInUseError(
                f"{self._path}: exists; choose another folder or remove this one"
            )
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self._path)
            self._temporary.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def add(self, document: EncodedDocument) -> None:
        """Adds one document to its split."""
        split = document.split
        shard = self._open[split]
        shard.pieces.append(document.pieces)
        shard.sentences.append(document.sentence_lengths)
        shard.num_pieces += len(document.pieces)
        if shard.closes_after is None and shard.num_pieces >= self._shard_pieces:
            shard.closes_after = len(shard.pieces)
        if shard.closes_after is not None and shard.num_pieces >= 1.5 * self._shard_pieces:
            self._open[split] = self._close(split, shard, shard.closes_after)

    def num_documents(self, split: Split) -> int:
        """Returns how many documents of `split` were added so far."""
        written = sum(facts.documents for facts in self._shards[split])
        return written + len(self._open[split].pieces)

    def finish(
        self,
        origin: dict[str, Any],
        *,
        text_bytes: int,
        filtered: Mapping[str, dict[str, int]] | None = None,
    ) -> None:
        """Writes what is open and the manifest, and puts the folder in its place."""
        for split in SPLITS:
            if self._open[split].pieces:
                self._close(split, self._open[split], len(self._open[split].pieces))
        vocabulary = self._tokenizer.vocabulary
        with storage_errors(self._path):
            vocabulary.write(self._temporary / VOCABULARY)
            content = (self._temporary / VOCABULARY).read_bytes()
            self._write(VOCABULARY, content)
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            tokenizer_fingerprint=self._tokenizer.fingerprint,
            vocab_size=len(vocabulary.pieces),
            casing=self._tokenizer.casing.to_mapping(),
            origin=origin,
            text_bytes=text_bytes,
            shards=self._shards,
            files=dict(self._files),
            filtered=dict(filtered or {}),
        )
        values = asdict(manifest)
        if not manifest.filtered:
            del values["filtered"]
        self._write(MANIFEST, (json.dumps(values, indent=1) + "\n").encode())
        with storage_errors(self._path):
            sync(self._temporary)
            self._rename()
            sync(self._path.parent)

    def _rename(self) -> None:
        try:
            os.rename(self._temporary, self._path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise FolderInUseError(f"{self._path}: another process has written it") from None

    def _close(self, split: Split, shard: _OpenShard, documents: int) -> _OpenShard:
        """Writes the first `documents` of `shard`; returns the rest as a shard of its own."""
        number = len(self._shards[split])
        pieces = np.concatenate(shard.pieces[:documents])
        lengths = np.concatenate(shard.sentences[:documents])
        counts = np.array([len(sentences) for sentences in shard.sentences[:documents]])
        for name, array in zip(ARRAYS, (pieces, _starts(lengths), _starts(counts)), strict=True):
            self._write(array_name(split, number, name), array)
        self._shards[split].append(ShardFacts(documents, len(lengths), len(pieces)))
        return _OpenShard(
            shard.pieces[documents:], shard.sentences[documents:], shard.num_pieces - len(pieces)
        )

    def _write(self, name: str, content: NDArray[Any] | bytes) -> None:
        size = content.nbytes if isinstance(content, np.ndarray) else len(content)
        with storage_errors(self._path, size), (self._temporary / name).open("wb") as file:
            summed = _SummedFile(file)
            if isinstance(content, np.ndarray):
                np.lib.format.write_array(summed, content, allow_pickle=False)
            else:
                summed.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = summed.facts()


@dataclass
class _OpenShard:
    """Documents that wait to be written."""

    pieces: list[NDArray[Any]] = field(default_factory=list)
    sentences: list[NDArray[Any]] = field(default_factory=list)
    num_pieces: int = 0
    closes_after: int | None = None  # documents in it when it was full


class _SummedFile:
    """Passes bytes on to a file; keeps their number, their SHA-256 and a CRC of each megabyte."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._file = file
        self._crcs = [0]

    def write(self, content: bytes) -> int:
        """Writes all of `content`."""
        self._file.write(content)
        self.digest.update(content)
        rest = memoryview(content)
        while len(rest):
            filled = self.size % SUMMED_BYTES
            if self.size and not filled:
                self._crcs.append(0)
            part, rest = rest[: SUMMED_BYTES - filled], rest[SUMMED_BYTES - filled :]
            self._crcs[-1] = crc32(part, self._crcs[-1])
            self.size += len(part)
        return len(content)

    def facts(self) -> FileFacts:
        """Returns what the file must be to be read."""
        return FileFacts(self.size, self.digest.hexdigest(), as_text(self._crcs))


def _starts(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


@cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:40] or "host"


def _temporary_name(path: Path) -> str:
    return f".tmp-{path.name}-{_host()}-{os.getpid()}"


def _remove_abandoned(path: Path) -> None:
    """Removes what earlier writers of `path` left, where their process on this host is gone."""
    prefix = f".tmp-{path.name}-{_host()}-"
    for folder in path.parent.iterdir():
        process = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False  # its writer has ended: there is one at a time
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
