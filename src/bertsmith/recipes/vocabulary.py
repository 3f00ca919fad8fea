"""Raw text to a vocabulary: `bertsmith vocab TEXT... --out DIR`.

On two cores a vocabulary of 30,522 pieces from 40 MB of Wikipedia takes less than a minute.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import CasingConfig, CorpusConfig, VocabConfig
from bertsmith.data.blocks import BLOCK_CHARACTERS
from bertsmith.data.corpus import read_documents
from bertsmith.folder import write_tokenizer
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
    on_progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Writes a vocabulary learnt from `sources` to the folder `out`; returns what came of it.

    This process reads, workers count words, and the counts are added up in the order of the text:
    the same text gives the same bytes for any number of workers. One document in a hundred, by
    hash, is not learnt from; on those `pieces_per_word` and `unk_rate` are measured (on all, as
    `measured_on` says, where a small corpus gives none).

    Raises:
        MissingInputError, DataError: as `read_documents`.
        ConfigError: the size is smaller than the alphabet needs.
        FolderInUseError: `out` holds something else.
    """
    started = time.monotonic()
    casing = CasingConfig(do_lower_case=not config.cased)
    counts: Counter[str] = Counter()
    aside: Counter[str] = Counter()
    blocks = _blocks(sources, corpus)
    for learnt, kept in map_in_order(_Counting(casing), blocks, workers):
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


@dataclass(frozen=True)
class _Block:
    """About two million characters of text, some of it kept aside."""

    learnt: list[str]
    kept: list[str]


@dataclass(frozen=True)
class _Counting:
    """Counts the words of a block, for the two parts of it."""

    casing: CasingConfig

    def __call__(self, block: _Block) -> tuple[Counter[str], Counter[str]]:
        normalizer = Normalizer(self.casing)
        return count_words(block.learnt, normalizer), count_words(block.kept, normalizer)


def _blocks(sources: Sequence[str], corpus: CorpusConfig) -> Iterator[_Block]:
    block, size = _Block([], []), 0
    for document in read_documents(sources, corpus):
        text = "\n".join(document.paragraphs)
        (block.kept if _is_kept_aside(text) else block.learnt).append(text)
        size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield block
            block, size = _Block([], []), 0
    if size:
        yield block


def _is_kept_aside(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _MEASURED_ON == 0
