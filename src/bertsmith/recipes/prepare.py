"""Raw text to a tokenised corpus: `bertsmith prepare TEXT... --vocab DIR --out DIR`.

On two cores 80 MB of Wikipedia take about 10 seconds, and memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import CorpusConfig, PrepareConfig
from bertsmith.data.blocks import Block, BlockWork, EncodedBlock, cut_blocks, encode_block
from bertsmith.data.corpus import read_documents
from bertsmith.data.files import find_files
from bertsmith.data.shard_writer import CorpusWriter
from bertsmith.data.shards import MANIFEST, SPLITS, Corpus, open_corpus
from bertsmith.errors import DataError, FolderInUseError
from bertsmith.recipes.workers import map_in_order
from bertsmith.text.wordpiece import Tokenizer


def prepare(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    out: Path,
    corpus: CorpusConfig,
    config: PrepareConfig,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes the documents of `sources` as pieces to the folder `out`; returns what was done.

    The parent process reads documents and writes shards; workers split sentences and encode them.
    The same text gives the same bytes for any number of workers. `on_progress` gets the bytes of
    text done so far. Where `out` holds the corpus that would be written, from the same files,
    settings and tokenizer, it is checked and kept (`reused` is then True).

    A script that calls this with more than one worker needs the usual `if __name__ == "__main__":`.

    Raises:
        MissingInputError, DataError: as `read_documents`; and no document is left for training.
        FolderInUseError: `out` holds something else.
        StorageError: the disk is full or fails; what was written is removed.
    """
    pace = _Pace(on_progress)
    origin = _origin(sources, corpus, config)
    former = _former(out, tokenizer, origin)
    if former is not None:
        return _report(former, pace, reused=True)
    with CorpusWriter(out, tokenizer, shard_pieces=config.shard_pieces) as writer:
        blocks = cut_blocks(read_documents(sources, corpus))
        work = BlockWork(tokenizer, corpus.language, config.held_out)
        for done in map_in_order(_Encoding(work), blocks, config.workers):
            for document in done.block.documents():
                writer.add(document)
            pace.add(done)
        if not writer.num_documents("train"):
            raise DataError(
                f"{sources[0]}: none of {writer.num_documents('held_out')} documents with text is "
                f"left for training; give more text or a smaller --held-out than {config.held_out}"
            )
        writer.finish(origin, text_bytes=pace.bytes)
    return _report(open_corpus(out, verify=False), pace, reused=False)


def _report(corpus: Corpus, pace: _Pace, *, reused: bool) -> dict[str, Any]:
    totals = [corpus.total(split) for split in SPLITS]
    return {
        "documents": sum(total.documents for total in totals),
        "sentences": sum(total.sentences for total in totals),
        "tokens": sum(total.pieces for total in totals),
        "held_out_documents": totals[1].documents,
        "held_out_tokens": totals[1].pieces,
        "bytes": corpus.manifest.text_bytes,
        "seconds": round(pace.seconds(), 3),
        "peak_rss_mb": round(pace.peak_bytes() / 1e6, 1),
        "parent_peak_rss_mb": round(_peak_bytes() / 1e6, 1),
        "reused": reused,
        "out": str(corpus.path),
    }


def _origin(sources: Sequence[str], corpus: CorpusConfig, config: PrepareConfig) -> dict[str, Any]:
    """Returns what decides the bytes of a corpus: settings, and names, sizes and times of files."""
    settings = config.to_mapping()
    del settings["workers"]
    stamps = [file.stamp() for file in find_files(sources)]
    return {
        "corpus": corpus.to_mapping(),
        "prepare": settings,
        "files": len(stamps),
        "files_sha256": hashlib.sha256(repr(stamps).encode()).hexdigest(),
    }


def _former(out: Path, tokenizer: Tokenizer, origin: dict[str, Any]) -> Corpus | None:
    """Returns the corpus in `out` if it is the one to be made; None where there is nothing."""
    if not (out / MANIFEST).is_file():
        return None  # the writer sees to what else may be there
    former = open_corpus(out)
    differing = [
        name for name, value in origin.items() if former.manifest.origin.get(name) != value
    ]
    if former.tokenizer_fingerprint != tokenizer.fingerprint:
        differing.append("tokenizer")
    if differing:
        raise FolderInUseError(
            f"{out}: holds a corpus made otherwise (what differs: {', '.join(differing)}); choose "
            f"another folder or remove this one"
        )
    return former


# ---------------------------------------------------------------------------------- the workers


@dataclass(frozen=True)
class _Done:
    """A block, the process that encoded it, and the most memory that it has held so far."""

    block: EncodedBlock
    process: int
    peak_bytes: int


@dataclass(frozen=True)
class _Encoding:
    """Encodes a block, in whatever process."""

    work: BlockWork

    def __call__(self, block: Block) -> _Done:
        return _Done(encode_block(block, self.work), os.getpid(), _peak_bytes())


# ---------------------------------------------------------------------------------- measures


class _Pace:
    """Counts the text done and the memory of all processes, and tells the progress."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.bytes = 0
        self._begun = time.monotonic()
        self._on_progress = on_progress
        self._peaks: dict[int, int] = {}

    def add(self, done: _Done) -> None:
        """Counts one block."""
        self.bytes += done.block.text_bytes
        self._peaks[done.process] = done.peak_bytes
        self._on_progress(self.bytes)

    def seconds(self) -> float:
        """Returns the seconds since the beginning."""
        return time.monotonic() - self._begun

    def peak_bytes(self) -> int:
        """Returns the sum of the peaks of this process and of each worker."""
        return sum((self._peaks | {os.getpid(): _peak_bytes()}).values())


def _peak_bytes() -> int:
    """Returns the most memory that this process has held."""
    try:  # ru_maxrss of a spawned process counts its parent's memory at the spawn
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
