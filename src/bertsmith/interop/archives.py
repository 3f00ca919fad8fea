"""Models that come as one archive, as Google published BERT: unpacked into the cache, once.

An archive may come from anyone. It is read as a stream, and nothing but plain files and folders is
made of it, below a folder of its own: a name that leads elsewhere, a link, a device, or more bytes
than a model can be packed into is refused before it is written.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bertsmith.errors import CheckpointError
from bertsmith.storage import refuse_without_room, replacing, sha256_of

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_FILES = 1000
# Weights hardly shrink when they are packed; vocabularies become a third.
MOST_TIMES = 20
ALWAYS_ALLOWED = 2**24  # bytes
_DEEPEST, _LONGEST = 6, 200  # parts of a name, and characters of one
MARKS = ("bertsmith.json", "config.json", "bert_config.json")  # a folder of a model has one
_LEFT_OUT = ("__MACOSX", ".DS_Store")  # what one system adds of its own accord
_DAMAGES = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error),
    *(NotImplementedError, RuntimeError),  # of a way to pack that is not known, or a password
)

Say = Callable[[str], None]
File = tuple[str, int, IO[bytes]]  # its name, its bytes as the archive has them, its content


def is_archive(path: Path) -> bool:
    """Returns whether a path is that of an archive, by its name."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def unpacked(path: Path, cache: Path, say: Say) -> Path:
    """Returns the folder of the model in an archive, in `cache` under the archive's SHA-256.

    One that was unpacked before is taken as it is.

    Raises:
        CheckpointError: the archive is damaged, holds no model or several, or holds what could
            write elsewhere or fill the disk.
        StorageError: the cache cannot be written.
    """
    folder = cache / f"archive-{sha256_of(path)[:32]}"
    if not folder.is_dir():
        say(f"{path}: is unpacked into {folder}")
        with replacing(folder, known=frozenset()) as building:
            try:
                _unpack(path, building)
            except _DAMAGES as error:
                raise CheckpointError(
                    f"{path}: {error}; expected a whole archive without a password: fetch it again"
                ) from None
    return _model_in(folder, path)


def _unpack(path: Path, building: Path) -> None:
    """Writes the files of an archive into an empty folder."""
    allowed = MOST_TIMES * path.stat().st_size + ALWAYS_ALLOWED
    seen: set[PurePosixPath] = set()
    total = 0
    with _opened(path, allowed) as files:
        for name, size, content in files:
            place = _place(name, path)
            if place.parts[0] in _LEFT_OUT or place.name in _LEFT_OUT:
                continue
            total += size
            if total > allowed:
                raise _too_much(path, total)
            if place in seen or len(seen) == MOST_FILES:
                what = f"{name!r} twice" if place in seen else f"more than {MOST_FILES:,} files"
                raise CheckpointError(f"{path}: holds {what}; expected the files of one model")
            seen.add(place)
            refuse_without_room(building, size)
            target = building.joinpath(*place.parts)
            assert target.is_relative_to(building)
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, content, size, path)


def _write(target: Path, content: IO[bytes], size: int, path: Path) -> None:
    """Writes a file of the size that the archive gives, and no byte more."""
    left = size
    with target.open("xb") as file:
        while chunk := content.read(min(2**20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise CheckpointError(f"{path}: {target.name} is longer than the archive says")
            file.write(chunk)
    if left:
        raise CheckpointError(f"{path}: {target.name} ends {left:,} bytes before its size")


@contextmanager
def _opened(path: Path, allowed: int) -> Iterator[Iterator[File]]:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            yield _zip_files(archive, path)
        return
    opener: Callable[[Path], Any] = gzip.open if path.name.lower().endswith("z") else _plain
    with (
        opener(path) as stream,
        io.BufferedReader(_Limited(stream, path, allowed + 2**20)) as limited,
        tarfile.open(fileobj=limited, mode="r|") as archive,
    ):
        yield _tar_files(archive, path)


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _zip_files(archive: zipfile.ZipFile, path: Path) -> Iterator[File]:
    for member in archive.infolist():
        if member.is_dir():
            continue
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise _no_file(path, member.filename)
        with archive.open(member) as content:
            yield member.filename, member.file_size, content


def _tar_files(archive: tarfile.TarFile, path: Path) -> Iterator[File]:
    for member in archive:
        if member.isdir():
            continue
        content = archive.extractfile(member) if member.isreg() else None
        if content is None or member.issparse():
            raise _no_file(path, member.name)
        yield member.name, member.size, content


class _Limited(io.RawIOBase):
    """What an archive unpacks to, as far as a model could go: headers are part of it."""

    def __init__(self, stream: IO[bytes], path: Path, most: int) -> None:
        self._stream, self._path, self._left = stream, path, most

    def readable(self) -> bool:
        """Returns True: it is read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer; returns how many bytes."""
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise _too_much(self._path, None)
        buffer[: len(content)] = content
        return len(content)


def _place(name: str, path: Path) -> PurePosixPath:
    """Returns where a file is to stand below the archive's folder.

    Raises:
        CheckpointError: it would stand elsewhere, or not on every system.
    """
    place = PurePosixPath(name)
    is_sound = (
        place.parts
        and not place.is_absolute()
        and len(place.parts) <= _DEEPEST
        and all(part != ".." and len(part) <= _LONGEST for part in place.parts)
        and not any(mark in name for mark in ("\\", ":", "\0"))
    )
    if not is_sound:
        raise CheckpointError(
            f"{path}: holds a file named {name[:100]!r}; expected names below the archive's own "
            f"folder: do not use this archive unless you know who made it"
        )
    return place


def _model_in(folder: Path, path: Path) -> Path:
    places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
    found = [place for place in places if any((place / mark).is_file() for mark in MARKS)]
    if found and (len(found) == 1 or found[0] == folder):
        return found[0]
    told = f"models in {', '.join(place.name for place in found)}" if found else "no model"
    raise CheckpointError(
        f"{path}: holds {told}; expected one folder with config.json or bert_config.json, its "
        f"weights and its vocabulary"
    )


def _no_file(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name[:100]!r} in it is a link or a device; expected plain files and folders: do "
        f"not use this archive unless you know who made it"
    )


def _too_much(path: Path, total: int | None) -> CheckpointError:
    told = f"{total:,} bytes" if total else "far more bytes than it has"
    return CheckpointError(
        f"{path}: unpacks to {told}; expected at most {MOST_TIMES} times its "
        f"{path.stat().st_size:,}, as weights do not shrink: do not use this archive unless you "
        f"know who made it"
    )
