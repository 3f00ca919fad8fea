"""A sealed folder: written whole or not at all, and verified when read.

It is built beside its place under a temporary name; every file is synced; `manifest.json`, with the
size and SHA-256 of every other file, is written last; then the folder is renamed. What is killed,
cut short or altered at any moment is therefore seen: the folder is absent, or does not verify.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bertsmith.errors import CheckpointError
from bertsmith.storage import (
    read_json,
    refuse_without_room,
    remove,
    sha256_of,
    storage_errors,
    sync,
    write_synced,
)

MANIFEST = "manifest.json"
FORMAT = 1

Writer = Callable[[Path], None]  # makes one file at the path that it is given


def write_sealed(target: Path, files: Mapping[str, Writer], *, needed_bytes: int) -> None:
    """Makes the folder `target` of `files`; until the last moment nothing stands at `target`.

    Raises:
        StorageError: there is no room, or writing failed; what was begun is removed again.
    """
    refuse_without_room(target.parent, needed_bytes)
    building = target.parent / f".tmp-{target.name}-{uuid.uuid4().hex}"
    with storage_errors(target, needed_bytes, on_error=lambda: remove(building)):
        building.mkdir()
        entries = {}
        for name, write in files.items():
            write(building / name)
            sync(building / name)
            entries[name] = _entry(building / name)
        write_synced(building / MANIFEST, _manifest(entries))
        sync(building)
        os.replace(building, target)
        sync(target.parent)


def verify_sealed(folder: Path, *, contents: bool = True) -> None:
    """Checks that a sealed folder holds what its manifest lists, no more and no less.

    With `contents` false only names and sizes are compared. No file outside the folder is opened.

    Raises:
        CheckpointError: it does not; the message names the file and the reason.
    """
    entries = _entries(folder)
    found = {entry.name: entry for entry in os.scandir(folder)}
    for name in found.keys() - entries.keys() - {MANIFEST}:
        raise CheckpointError(f"{folder / name}: is not listed in {MANIFEST}")
    for name, entry in entries.items():
        if name not in found or not found[name].is_file(follow_symlinks=False):
            raise CheckpointError(f"{folder / name}: listed in {MANIFEST} but not there as a file")
        size = found[name].stat(follow_symlinks=False).st_size
        if size != entry["size"]:
            raise CheckpointError(
                f"{folder / name}: holds {size} bytes; {MANIFEST} says {entry['size']}"
            )
        if contents and _entry(folder / name) != entry:
            raise CheckpointError(f"{folder / name}: its SHA-256 is not the one in {MANIFEST}")


def remove_unfinished(parent: Path) -> None:
    """Removes what killed writers left in `parent`; call it only where no other writer is at work.

    Folders that were finished are never touched, whether they verify or not.
    """
    for path in parent.glob(".tmp-*"):
        remove(path)


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = folder / MANIFEST
    if manifest.is_symlink() or not manifest.is_file():
        raise CheckpointError(f"{folder}: has no {MANIFEST}: its writer was stopped half-way")
    content = read_json(manifest)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{manifest}: is not of format {FORMAT}, which this version reads")
    entries = content.get("files")
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise CheckpointError(f"{manifest}: does not list files with size and sha256")
    for name in entries:
        if name in ("", ".", "..", MANIFEST) or set(name) & set("/\\\0:"):
            raise CheckpointError(f"{manifest}: lists {name!r}; expected plain file names")
    return entries


def _is_entry(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"size", "sha256"}
        and type(value["size"]) is int
        and isinstance(value["sha256"], str)
    )


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def _manifest(entries: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns the manifest; it ends in its closing brace, so that any cut leaves it unreadable."""
    return json.dumps({"format": FORMAT, "files": entries}, indent=1).encode()
