"""Raw text to a vocabulary: `bertsmith vocab TEXT... --out DIR`.

On two cores a vocabulary of 30,522 pieces from 40 MB of Wikipedia takes less than a minute.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bertsmith.config import CasingConfig, CorpusConfig, EngineConfig, VocabConfig
from bertsmith.data.blocks import TextBlock, cut_blocks
from bertsmith.data.corpus import read_files, refuse_no_text
from bertsmith.data.files import SourceFile, find_files, in_parts
from bertsmith.data.lines import known_encoding
from bertsmith.folder import write_tokenizer
from bertsmith.recipes.ray_tasks import map_parts
from bertsmith.recipes.workers import map_in_order
from bertsmith.text.learn import add_counts, count_words, learn_vocabulary, measure_fit
from bertsmith.text.normalize import Normalizer
from bertsmith.text.wordpiece import Tokenizer

_MEASURED_ON = 100  # of this many documents one is kept aside to measure the vocabulary on


def learn(
    sources: Sequence[str],
    out: Path,
    config: VocabConfig,
    corpus: CorpusConfig,
    workers: int | None = None,
    *,
    engine: EngineConfig | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes a vocabulary learnt from `sources` to the folder `out`; returns what came of it.

    This process reads, workers count words, and the counts are added up in the order of the text;
    with the engine `ray` tasks of a cluster read and count. The same text gives the same bytes for
    any number of workers and either engine. One document in a hundred, by
    hash, is not learnt from; on those `pieces_per_word` and `unk_rate` are measured (on all, as
    `measured_on` says, where a small corpus gives none).

    Raises:
        MissingInputError, DataError: as `read_documents`.
        ConfigError: the size is smaller than the alphabet needs.
        MissingInputError: Ray is asked for and not installed.
        FolderInUseError: `out` holds something else.
        BertsmithError: a worker was killed or hangs; the message names it and its text.
    """
    started = time.monotonic()
    casing = CasingConfig(do_lower_case=not config.cased)
    counts: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    engine = engine or EngineConfig()
    known_encoding(corpus.encoding, "encoding")
    for learnt, kept in _counted(find_files(sources), corpus, casing, engine, workers):
        add_counts(counts, learnt)
        add_counts(aside, kept)
        on_progress(f"{counts.total() + aside.total():,} words counted, {len(counts):,} kinds")
    on_progress("learns the pieces")
    vocabulary = learn_vocabulary(counts or aside, config)
    tokenizer = Tokenizer(vocabulary, casing)
    write_tokenizer(out, tokenizer)
    fit = measure_fit(tokenizer, aside or counts)
    return {
        "vocab_size": len(vocabulary),
        "seconds": round(time.monotonic() - started, 3),
        "sha256": vocabulary.sha256,
        "words": (counts + aside).total(),
        "pieces_per_word": round(fit.pieces_per_word, 4),
        "unk_rate": fit.unk_rate,
        "measured_on": "held_out" if aside and counts else "all",
        "out": str(out),
    }


_Counts = tuple[Counter[str], Counter[str]]  # of the words learnt from, of those kept aside


@dataclass(frozen=True)
class _Counting:
    """Counts the words of a block, for the two parts of it."""

    casing: CasingConfig

    def __call__(self, block: TextBlock) -> _Counts:
        normalizer = Normalizer(self.casing)
        learnt: list[str] = []
        kept: list[str] = []
        for paragraphs in block.documents:
            text = "\n".join(paragraphs)
            (kept if _is_kept_aside(text) else learnt).append(text)
        return count_words(learnt, normalizer), count_words(kept, normalizer)


@dataclass(frozen=True)
class _PartCounting:
    """Yields the counts of each block of some of the files."""

    counting: _Counting
    corpus: CorpusConfig

    def __call__(self, files: list[SourceFile]) -> Iterator[_Counts]:
        return map(self.counting, cut_blocks(read_files(files, self.corpus)))


def _counted(
    files: list[SourceFile],
    corpus: CorpusConfig,
    casing: CasingConfig,
    engine: EngineConfig,
    workers: int | None,
) -> Iterator[_Counts]:
    """Yields the counts of one block after another, whoever counts.

    Blocks end with a part of the files, so that either engine adds up the same ones: where rare
    words are forgotten, that decides which.
    """
    counting = _Counting(casing)
    parts = in_parts(files)
    if engine.engine == "ray":
        work = _PartCounting(counting, corpus)
        found = map_parts(work, parts, lambda part: part[0].name, engine.timeout_seconds)
    else:
        found = map_in_order(
            counting,
            chain.from_iterable(cut_blocks(read_files(part, corpus)) for part in parts),
            workers,
            name_of=lambda block: block.origin,
            timeout_seconds=engine.timeout_seconds,
        )
    empty = True
    for counts in found:
        empty = False
        yield counts
    if empty:
        refuse_no_text(files)


def _is_kept_aside(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _MEASURED_ON == 0
