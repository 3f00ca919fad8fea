"""Folders that are there whole or not at all, and the small files in them.

May import `errors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertsmith.errors import CheckpointError, FolderInUseError, MissingInputError, StorageError


@contextmanager
def replacing(folder: Path, *, known: Set[str]) -> Iterator[Path]:
    """Yields a new folder beside `folder`, which takes its place once it is whole.

    Only a folder whose entries all have `known` names is replaced. It is moved aside before and
    deleted after, so that one of the two stands on disk at every moment.

    Raises:
        FolderInUseError: `folder` is a file, or holds something else.
        StorageError: writing failed; what stood there still stands.
    """
    from safetensors import SafetensorError

    folder = folder.resolve()
    building = folder.with_name(f".{folder.name}.new-{uuid.uuid4().hex[:8]}")
    aside = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    _refuse_to_lose(folder, known)
    try:
        building.mkdir(parents=True)
        yield building
        for path in [*building.iterdir(), building]:
            _sync(path)
        if folder.is_dir():
            folder.rename(aside)
        try:
            building.rename(folder)
        except OSError:
            if aside.is_dir():
                aside.rename(folder)
            raise
        _sync(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{folder}: cannot be written ({error}); what stood there still stands"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes one JSON object, indented, for people and programs."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
        MissingInputError: there is no such file.
        CheckpointError: it is not a JSON object.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}; expected one JSON object") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}; expected one JSON object")
    return values


def _refuse_to_lose(folder: Path, known: Set[str]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FolderInUseError(f"{folder}: is a file; expected a folder, or nothing")
    foreign = sorted({path.name for path in folder.iterdir()} - known)
    if foreign:
        raise FolderInUseError(
            f"{folder}: holds {foreign[0]!r}, which is not written here; choose a new folder, "
            f"so that nothing is lost"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
