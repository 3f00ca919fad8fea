"""Corpora at URLs: copied there whole, fetched whole, and never written over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests.data.numbered import MakeCorpus

from bertsmith.data.remote import (
    fetch_corpus,
    holds_corpus,
    is_remote,
    put_corpus,
    refuse_taken,
)
from bertsmith.data.shards import open_corpus
from bertsmith.errors import FolderInUseError, MissingInputError, StorageError

URL = "memory://texts/corpus"


@pytest.fixture(autouse=True)
def storage() -> Iterator[fsspec.AbstractFileSystem]:
    """Yields fsspec's own storage in memory, empty."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_a_corpus_comes_back_as_it_was_put(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus([[3, 4], [5]])
    assert not holds_corpus(URL)
    put_corpus(corpus.path, URL)
    assert holds_corpus(URL)
    fetch_corpus(URL, tmp_path / "fetched")
    fetched = open_corpus(tmp_path / "fetched")
    assert fetched.manifest == corpus.manifest


def test_a_place_that_is_taken_is_left_alone(
    make_corpus: MakeCorpus, storage: fsspec.AbstractFileSystem
) -> None:
    corpus = make_corpus([[3, 4], [5]])
    storage.pipe_file("/texts/corpus/precious", b"mine")
    with pytest.raises(FolderInUseError, match=f"{URL}: holds files"):
        put_corpus(corpus.path, URL)
    assert storage.cat("/texts/corpus/precious") == b"mine"
    refuse_taken("memory://texts/free")


def test_a_copy_cut_short_is_no_corpus(
    make_corpus: MakeCorpus, storage: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus([[3, 4], [5]])
    whole = type(storage).put_file

    def failing(self: fsspec.AbstractFileSystem, source: str, target: str) -> None:
        if target.endswith("vocab.txt"):
            raise OSError("the connection is gone")
        whole(self, source, target)

    monkeypatch.setattr(type(storage), "put_file", failing)
    with pytest.raises(StorageError, match="the connection is gone"):
        put_corpus(corpus.path, URL)
    assert storage.exists("/texts/corpus/train-00000.pieces.npy")
    assert not holds_corpus(URL)


def test_what_cannot_be_reached_is_told() -> None:
    with pytest.raises(MissingInputError, match="nowhere://corpus: cannot be read"):
        holds_corpus("nowhere://corpus")
    assert is_remote("s3://bucket/corpus")
    assert not is_remote("/tmp/corpus")
