"""A sealed folder: written whole or not at all, and verified when read.

It is built beside its place under a temporary name; every file is synced; `manifest.json`, with the
size and SHA-256 of every other file, is written last; then the folder is renamed. What is killed,
cut short or altered at any moment is therefore seen: the folder is absent, or does not verify.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bertsmith.errors import CheckpointError, StorageError

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
    with storage_errors(target, needed_bytes, on_error=lambda: _remove(building)):
        building.mkdir()
        entries = {}
        for name, write in files.items():
            write(building / name)
            _sync(building / name)
            entries[name] = _entry(building / name)
        write_synced(building / MANIFEST, _manifest(entries))
        _sync(building)
        os.replace(building, target)
        _sync(target.parent)


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
        _remove(path)


def refuse_without_room(folder: Path, needed_bytes: int) -> None:
    """Refuses to begin what the disk has no room for.

    Raises:
        StorageError: fewer bytes are free than `needed_bytes` and a tenth.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.1:
        raise StorageError(_no_room(folder, "no room to write", free, needed_bytes))


@contextmanager
def storage_errors(
    path: Path, needed_bytes: int = 0, *, on_error: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Turns what failing disks raise in its body into a `StorageError` that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        on_error()
        raise StorageError(_storage_message(path, error, needed_bytes)) from error
    except BaseException:
        on_error()
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
    _sync(path)


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` in the place of a file at once: a reader sees the old or the new, whole.

    Raises:
        StorageError: writing failed; the old file stands.
    """
    beside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    with storage_errors(path, len(content), on_error=lambda: _remove(beside)):
        write_synced(beside, content)
        os.replace(beside, path)
        _sync(path.parent)


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds; a key that stands twice in one object is refused.

    Raises:
        CheckpointError: it cannot be read or is not such JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_without_doubles)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not well-formed JSON ({error})") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = folder / MANIFEST
    if manifest.is_symlink() or not manifest.is_file():
        raise CheckpointError(f"{folder}: has no {MANIFEST}: its writer was stopped half-way")
    content = read_json(manifest)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
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
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": sha256}


def _manifest(entries: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Returns the manifest; it ends in its closing brace, so that any cut leaves it unreadable."""
    return json.dumps({"format": FORMAT, "files": entries}, indent=1).encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _storage_message(path: Path, error: Exception, needed_bytes: int) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = os.strerror(errno.ENOSPC)  # safetensors gives no error number
    if full.lower() in reason.lower():
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            return _no_room(path, full, free, needed_bytes)
    return f"{path}: cannot be written ({reason}); mend that and go on with --resume"


def _no_room(path: Path, reason: str, free: int, needed: int) -> str:
    return (
        f"{path}: {reason}; {free:,} bytes are free on that disk and about {needed:,} are needed: "
        f"make room and go on with --resume, nothing saved before is lost"
    )
