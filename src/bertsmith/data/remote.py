"""Corpora on remote storage, by fsspec URLs: put there when whole, fetched to be read.

A corpus is mapped from a disk while it is read, so it is made and read in a local folder; the URL
holds a copy. `corpus.json` is written last: a folder without it is no corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertsmith.data.shards import MANIFEST
from bertsmith.errors import FolderInUseError, MissingInputError, StorageError
from bertsmith.storage import replacing


def is_remote(place: str) -> bool:
    """Tells a URL from a path."""
    return "://" in place


def holds_corpus(url: str) -> bool:
    """Tells whether the folder at `url` is a whole corpus.

    Raises:
        MissingInputError: the storage cannot be asked.
    """
    with _reading(url):
        filesystem, path = _opened(url)
        return bool(filesystem.exists(f"{path}/{MANIFEST}"))


def refuse_taken(url: str) -> None:
    """Raises FolderInUseError where something stands at `url`."""
    with _reading(url):
        filesystem, path = _opened(url)
        if filesystem.exists(path) and filesystem.find(path):
            raise FolderInUseError(f"{url}: holds files; choose another folder or remove this one")


def put_corpus(folder: Path, url: str) -> None:
    """Copies the corpus in `folder` to `url`, its manifest last.

    Raises:
        FolderInUseError: something stands at `url`.
        StorageError: it cannot be written there.
    """
    refuse_taken(url)
    filesystem, path = _opened(url)
    names = sorted(file.name for file in folder.iterdir() if file.name != MANIFEST)
    try:
        filesystem.makedirs(path, exist_ok=True)
        for name in [*names, MANIFEST]:
            filesystem.put_file(str(folder / name), f"{path}/{name}")
    except OSError as error:
        raise StorageError(f"{url}: cannot be written ({error}); the corpus is not whole") from None


def fetch_corpus(url: str, folder: Path) -> None:
    """Copies the corpus at `url` to `folder`, which is there whole or not at all.

    Raises:
        MissingInputError: it cannot be read, or there is none.
        StorageError: this disk is full or fails.
    """
    with replacing(folder, known=frozenset()) as building, _reading(url):
        filesystem, path = _opened(url)
        for name in filesystem.find(path):
            filesystem.get_file(name, str(building / name.rsplit("/", 1)[-1]))


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    return filesystem, path.rstrip("/")


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, OSError) as error:
        raise MissingInputError(f"{url}: cannot be read ({error})") from None
