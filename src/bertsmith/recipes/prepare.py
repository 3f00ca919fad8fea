"""Raw text to a tokenised corpus: `bertsmith prepare TEXT... --vocab DIR --out DIR`.

On two cores 80 MB of Wikipedia take about 10 seconds, and memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bertsmith.config import CorpusConfig, EngineConfig, FilterConfig, PrepareConfig
from bertsmith.data.blocks import BlockWork
from bertsmith.data.files import find_files
from bertsmith.data.filters import Removal
from bertsmith.data.remote import is_remote, put_corpus, refuse_taken
from bertsmith.data.shard_writer import CorpusWriter
from bertsmith.data.shards import MANIFEST, SPLITS, Corpus, open_corpus
from bertsmith.errors import DataError, FolderInUseError
from bertsmith.recipes.encoding import Done, encode_here, encode_on_ray, peak_bytes
from bertsmith.text.wordpiece import Tokenizer


def prepare(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    out: Path | str,
    corpus: CorpusConfig,
    config: PrepareConfig,
    *,
    filters: FilterConfig | None = None,
    engine: EngineConfig | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes the documents of `sources` as pieces to the folder `out`; returns what was done.

    The parent process reads documents, filters them and writes shards; workers split sentences and
    encode them. With the engine `ray` tasks of a cluster do all but the writing, a file or a few
    small ones each. The same text gives the same bytes for any number of workers and either engine.
    `on_progress` gets the bytes of text done so far. Where `out` holds the corpus that would be
    written, from the same files, settings and tokenizer, it is checked and kept (`reused` is then
    True). Where `out` is a URL the corpus is made in a temporary folder and copied there. Where
    there are `filters`, `filtered` tells what each took away: lines, documents, bytes.

    A script that calls this with more than one worker needs the usual `if __name__ == "__main__":`.

    Raises:
        MissingInputError, DataError: as `read_documents`; and no document is left for training.
        MissingInputError: Ray is asked for and not installed.
        ConfigError: the filter of wrong languages does not know the right one.
        FolderInUseError: `out` holds something else.
        StorageError: the disk is full or fails; what was written is removed.
        BertsmithError: a worker was killed or hangs; the message names it and its text.
    """
    filters, engine = filters or FilterConfig(), engine or EngineConfig()
    if is_remote(str(out)):
        refuse_taken(str(out))
        with TemporaryDirectory(prefix="bertsmith-") as place:
            local = Path(place) / "corpus"
            report = prepare(
                sources,
                tokenizer,
                local,
                corpus,
                config,
                filters=filters,
                engine=engine,
                on_progress=on_progress,
            )
            put_corpus(local, str(out))
        return report | {"out": str(out)}
    out = Path(out)
    pace = _Pace(on_progress, filters)
    origin = _origin(sources, corpus, config, filters)
    former = _former(out, tokenizer, origin)
    if former is not None:
        return _report(former, pace, reused=True)
    with CorpusWriter(out, tokenizer, shard_pieces=config.shard_pieces) as writer:
        work = BlockWork(tokenizer, corpus.language, config.held_out)
        if engine.engine == "ray":
            blocks = encode_on_ray(sources, corpus, filters, work, engine)
        else:
            blocks = encode_here(sources, corpus, filters, work, engine, config.workers)
        for done in blocks:
            for document in done.block.documents():
                writer.add(document)
            pace.add(done)
        if not writer.num_documents("train"):
            raise DataError(
                f"{sources[0]}: none of {writer.num_documents('held_out')} documents with text is "
                f"left for training; give more text or a smaller --held-out than {config.held_out}"
            )
        writer.finish(origin, text_bytes=pace.bytes, filtered=pace.filtered())
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
        **({"filtered": corpus.manifest.filtered} if corpus.manifest.filtered else {}),
        "seconds": round(pace.seconds(), 3),
        "peak_rss_mb": round(pace.peak_bytes() / 1e6, 1),
        "parent_peak_rss_mb": round(peak_bytes() / 1e6, 1),
        "reused": reused,
        "out": str(corpus.path),
    }


def _origin(
    sources: Sequence[str], corpus: CorpusConfig, config: PrepareConfig, filters: FilterConfig
) -> dict[str, Any]:
    """Returns what decides the bytes of a corpus: settings, and names, sizes and times of files."""
    settings = config.to_mapping()
    del settings["workers"]
    stamps = [file.stamp() for file in find_files(sources)]
    return {
        "corpus": corpus.to_mapping(),
        "prepare": settings,
        **({"filters": filters.to_mapping()} if filters.names else {}),
        "files": len(stamps),
        "files_sha256": hashlib.sha256(repr(stamps).encode()).hexdigest(),
    }


def _former(out: Path, tokenizer: Tokenizer, origin: dict[str, Any]) -> Corpus | None:
    """Returns the corpus in `out` if it is the one to be made; None where there is nothing."""
    if not (out / MANIFEST).is_file():
        return None  # the writer sees to what else may be there
    former = open_corpus(out)
    before = former.manifest.origin
    names = [*origin, *(name for name in before if name not in origin)]
    differing = [name for name in names if before.get(name) != origin.get(name)]
    if former.tokenizer_fingerprint != tokenizer.fingerprint:
        differing.append("tokenizer")
    if differing:
        raise FolderInUseError(
            f"{out}: holds a corpus made otherwise (what differs: {', '.join(differing)}); choose "
            f"another folder or remove this one"
        )
    return former


# ---------------------------------------------------------------------------------- measures


class _Pace:
    """Counts the text done and the memory of all processes, and tells the progress."""

    def __init__(self, on_progress: Callable[[int], None], filters: FilterConfig) -> None:
        self.bytes = 0
        self._removals = {name: Removal() for name in filters.names}
        self._begun = time.monotonic()
        self._on_progress = on_progress
        self._peaks: dict[int, int] = {}

    def add(self, done: Done) -> None:
        """Counts one block."""
        self.bytes += done.block.text_bytes
        self._peaks[done.process] = done.peak_bytes
        for name, removal in done.removals.items():
            self._removals[name] += removal
        self._on_progress(self.bytes)

    def filtered(self) -> dict[str, dict[str, int]]:
        """Returns what each filter took away, by its name."""
        return {name: asdict(removal) for name, removal in self._removals.items()}

    def seconds(self) -> float:
        """Returns the seconds since the beginning."""
        return time.monotonic() - self._begun

    def peak_bytes(self) -> int:
        """Returns the sum of the peaks of this process and of each worker."""
        return sum((self._peaks | {os.getpid(): peak_bytes()}).values())
