"""A small tokenizer, and corpora of numbered pieces made with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.data.numbered import MakeCorpus, numbered_tokenizer, write_corpus

from bertsmith.data.shards import Corpus
from bertsmith.text.wordpiece import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Returns a tokenizer of 1,000 pieces."""
    return numbered_tokenizer(1000)


@pytest.fixture
def make_corpus(tmp_path: Path, tokenizer: Tokenizer) -> MakeCorpus:
    """Returns a function from documents, given as sentence lengths, to a corpus of them."""

    def make(documents: list[list[int]], *, name: str = "corpus", **settings: Any) -> Corpus:
        return write_corpus(tmp_path / name, tokenizer, documents, **settings)

    return make
