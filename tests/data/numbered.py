"""Corpora of numbered pieces, so that a test can tell from a piece where it stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bertsmith.config import CasingConfig
from bertsmith.data.blocks import EncodedDocument
from bertsmith.data.shard_writer import CorpusWriter
from bertsmith.data.shards import Corpus, Split, open_corpus
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

MakeCorpus = Callable[..., Corpus]
FIRST = len(SPECIAL_PIECES)  # the lowest id of a word


def numbered_tokenizer(size: int) -> Tokenizer:
    """Returns a tokenizer of `size` pieces, those from 5 on being the words w5, w6 and so on."""
    words = [f"w{number}" for number in range(FIRST, size)]
    return Tokenizer(Vocabulary([*SPECIAL_PIECES, *words]), CasingConfig())


def write_corpus(
    path: Path,
    tokenizer: Tokenizer,
    documents: Sequence[Sequence[int]],
    *,
    split: Split = "train",
    shard_pieces: int = 1_000_000,
) -> Corpus:
    """Returns a corpus of documents, given as sentence lengths.

    The pieces count up from 5 through the corpus and begin again after the last of the vocabulary.
    """
    first = 0
    words = len(tokenizer.vocabulary) - FIRST
    kind = np.uint16 if len(tokenizer.vocabulary) <= 1 << 16 else np.uint32
    with CorpusWriter(path, tokenizer, shard_pieces=shard_pieces) as writer:
        for lengths in documents:
            pieces = FIRST + np.arange(first, first + sum(lengths)) % words
            first += len(pieces)
            sentences = np.array(lengths, dtype=np.int32)
            writer.add(EncodedDocument(split, pieces.astype(kind), sentences))
        writer.finish({"made": "by hand"}, text_bytes=first)
    return open_corpus(path)


def natural_documents(count: int) -> list[list[int]]:
    """Returns the sentence lengths of documents, spread about as those of an encyclopedia."""
    rng = np.random.default_rng(7)
    return [
        np.clip(rng.gamma(2.2, 12, size=1 + rng.geometric(0.03)), 1, 128).astype(int).tolist()
        for _ in range(count)
    ]
