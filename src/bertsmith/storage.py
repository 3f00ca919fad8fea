"""Files and folders that are there whole or not at all, whatever happens while they are written.

What is written stands beside its place until the disk has it; then it is renamed. May import
`errors`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from bertsmith.errors import CheckpointError, FolderInUseError, MissingInputError, StorageError

CACHE_VARIABLE = "BERTSMITH_CACHE"  # of the environment: names another folder of the cache


def cache_folder() -> Path:
    """Returns the folder of what was made of other formats, and is made again where it is gone.

    It is what `BERTSMITH_CACHE` names, or `bertsmith` in the user's folder of caches.
    """
    if place := os.environ.get(CACHE_VARIABLE):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertsmith"


@contextmanager
def replacing(folder: Path, *, known: Set[str]) -> Iterator[Path]:
    """Yields a new folder beside `folder`, which takes its place once it is whole.

    Only a folder whose entries all have `known` names is replaced. It is moved aside before and
    deleted after, so that one of the two stands on disk at every moment.

    Raises:
        FolderInUseError: `folder` is a file, or holds something else.
        StorageError: writing failed; what stood there still stands.
    """
    folder = folder.resolve()
    building = folder.with_name(f".{folder.name}.new-{uuid.uuid4().hex[:8]}")
    aside = folder.with_name(f".{folder.name}.old-{uuid.uuid4().hex[:8]}")
    _refuse_to_lose(folder, known)
    with storage_errors(folder, on_error=lambda: remove(building)):
        building.mkdir(parents=True)
        yield building
        for path in [*building.iterdir(), building]:
            sync(path)
        if folder.is_dir():
            folder.rename(aside)
        try:
            building.rename(folder)
        except OSError:
            if aside.is_dir():
                aside.rename(folder)
            raise
        sync(folder.parent)
    remove(aside)


@contextmanager
def storage_errors(
    path: Path, needed_bytes: int = 0, *, on_error: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Turns what failing disks raise in its body into a `StorageError` that names `path`.

    `on_error` is called first, whatever is raised; `needed_bytes` are named where the disk is full.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        on_error()
        raise StorageError(_message(path, error, needed_bytes)) from error
    except BaseException:
        on_error()
        raise


def refuse_without_room(folder: Path, needed_bytes: int) -> None:
    """Refuses to begin what the disk has no room for.

    Raises:
        StorageError: fewer bytes are free than `needed_bytes` and a tenth.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.1:
        raise StorageError(_no_room(folder, "no room to write", free, needed_bytes))


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` in the place of a file at once: a reader sees the old or the new, whole.

    Raises:
        StorageError: writing failed; the old file stands.
    """
    beside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    with storage_errors(path, len(content), on_error=lambda: remove(beside)):
        write_synced(beside, content)
        os.replace(beside, path)
        sync(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
    sync(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes one JSON object, indented, for people and programs."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object that a file holds; a key that stands twice in one is refused.

    Raises:
        MissingInputError: there is no such file.
        CheckpointError: it cannot be read, or is not such JSON.
    """
    try:
        values = strict_json(path.read_bytes(), finite=False)
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; expected one JSON object") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}; expected one JSON object")
    return values


def strict_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Returns what JSON text holds; no key may stand twice in one object.

    Args:
        text: one value; bytes are UTF-8.
        finite: whether NaN and the infinities, which are Python's own, are refused.

    Raises:
        ValueError: it is no such JSON, or nested too deeply; a `json.JSONDecodeError` tells where.
    """
    decoder = _STRICT if finite else _LENIENT
    try:
        return decoder.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder; where it cannot, warns once."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
        _warn_of_no_sync(os.fstat(descriptor).st_dev, path)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file or a folder as far as that is possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


_NO_SYNC: set[int] = set()  # disks that were warned of


def _warn_of_no_sync(disk: int, path: Path) -> None:
    if disk not in _NO_SYNC:
        _NO_SYNC.add(disk)
        folder = next(one for one in path.parents if not one.name.startswith("."))
        warnings.warn(
            f"{folder}: this disk cannot be told to write at once; all works, but what was saved "
            f"last may be lost with the power, and is then passed over",
            RuntimeWarning,
            stacklevel=3,
        )


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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _message(path: Path, error: Exception, needed_bytes: int) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = os.strerror(errno.ENOSPC)  # safetensors gives no error number
    if full.lower() in reason.lower():
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            return _no_room(path, full, free, needed_bytes)
    return f"{path}: cannot be written ({reason}); what stood there still stands"


def _no_room(path: Path, reason: str, free: int, needed: int) -> str:
    wanted = f" and about {needed:,} are needed" if needed else ""
    return (
        f"{path}: {reason}; {free:,} bytes are free on that disk{wanted}: make room and run the "
        f"same command again; nothing saved before is lost"
    )
