"""Raw text to encoded blocks in the order of the text: by processes here, or on a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import CorpusConfig, EngineConfig, FilterConfig
from bertsmith.data.blocks import BlockWork, EncodedBlock, cut_blocks, encode_block
from bertsmith.data.corpus import read_documents, read_files, refuse_no_text
from bertsmith.data.files import SourceFile, find_files, in_parts
from bertsmith.data.filters import FilteredBlock, Filters, KnownHashes, Removal
from bertsmith.data.lines import known_encoding
from bertsmith.recipes.ray_tasks import map_parts
from bertsmith.recipes.workers import map_in_order


@dataclass(frozen=True)
class Done:
    """A block, what was taken from it, its process, and the most memory that this has held."""

    block: EncodedBlock
    removals: dict[str, Removal]
    process: int
    peak_bytes: int


@dataclass(frozen=True)
class _Encoding:
    """Encodes a block, in whatever process."""

    work: BlockWork

    def __call__(self, filtered: FilteredBlock) -> Done:
        encoded = encode_block(filtered.block.documents, self.work)
        return Done(encoded, filtered.removals, os.getpid(), peak_bytes())


def encode_here(
    sources: Sequence[str],
    corpus: CorpusConfig,
    filters: FilterConfig,
    work: BlockWork,
    engine: EngineConfig,
    workers: int | None,
) -> Iterator[Done]:
    """Returns an iterator over the encoded blocks of `sources`, made by processes here.

    Raises:
        MissingInputError, DataError: as `read_documents`.
        BertsmithError: as `map_in_order`.
    """
    through = Filters(filters, corpus.language)
    return map_in_order(
        _Encoding(work),
        map(through, cut_blocks(read_documents(sources, corpus))),
        workers,
        name_of=lambda filtered: filtered.block.origin,
        timeout_seconds=engine.timeout_seconds,
    )


# ---------------------------------------------------------------------------------- on a cluster


@dataclass(frozen=True)
class _Part:
    """Some of the files, and the hashes of what stands in them and stood before them."""

    files: list[SourceFile]
    known: NDArray[np.uint64]


@dataclass(frozen=True)
class _PartHashing:
    """Returns the hashes of all that `repeated` looks at in some of the files. [K]"""

    corpus: CorpusConfig
    filters: FilterConfig

    def __call__(self, files: list[SourceFile]) -> Iterator[NDArray[np.uint64]]:
        through = Filters(self.filters, self.corpus.language)
        found = KnownHashes()
        for block in cut_blocks(read_files(files, self.corpus)):
            found.add_new(through.hashes(block))
        yield found.values()


@dataclass(frozen=True)
class _PartEncoding:
    """Yields the encoded blocks of some of the files."""

    corpus: CorpusConfig
    filters: FilterConfig
    work: BlockWork

    def __call__(self, part: _Part) -> Iterator[Done]:
        through = Filters(self.filters, self.corpus.language, KnownHashes(part.known))
        encode = _Encoding(self.work)
        for block in cut_blocks(read_files(part.files, self.corpus)):
            yield encode(through(block))


def encode_on_ray(
    sources: Sequence[str],
    corpus: CorpusConfig,
    filters: FilterConfig,
    work: BlockWork,
    engine: EngineConfig,
) -> Iterator[Done]:
    """Yields the encoded blocks of `sources`, made by the tasks of a cluster.

    With the filter `repeated` there are two rounds. In the first each task gives the hashes of its
    files; those that an earlier file has, too, go with the files into the second.

    Raises:
        MissingInputError, DataError: as `read_documents`; or Ray is not installed.
        BertsmithError: as `map_parts`.
    """
    known_encoding(corpus.encoding, "encoding")
    Filters(filters, corpus.language)  # refuses what cannot be before any task begins
    files = find_files(sources)
    parts = list(in_parts(files))
    stood_before: Iterable[NDArray[np.uint64]] = (np.zeros(0, np.uint64) for _ in parts)
    if "repeated" in filters.names:
        hashing = _PartHashing(corpus, filters)
        hashes = map_parts(hashing, parts, _names, engine.timeout_seconds)
        stood_before = list(_stood_before(hashes))
    empty = True
    for done in map_parts(
        _PartEncoding(corpus, filters, work),
        map(_Part, parts, stood_before),
        lambda part: _names(part.files),
        engine.timeout_seconds,
    ):
        empty = False
        yield done
    if empty:
        refuse_no_text(files)


def _stood_before(parts: Iterable[NDArray[np.uint64]]) -> Iterator[NDArray[np.uint64]]:
    """Yields of each part's hashes those that an earlier part has had."""
    known = KnownHashes()
    for hashes in parts:
        yield hashes[~known.add_new(hashes)]


def _names(files: Sequence[SourceFile]) -> str:
    return files[0].name + (f" .. {files[-1].name}" if len(files) > 1 else "")


# ---------------------------------------------------------------------------------- memory


def peak_bytes() -> int:
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
