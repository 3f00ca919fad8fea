"""Converted models, kept from run to run in a folder of the cache and never among a user's files.

A converted form stands under the SHA-256 of the weights and settings that it was made of, with who
made it. It is verified whenever it is read: what is damaged is made anew, and that is said.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bertsmith.errors import BertsmithError, StorageError
from bertsmith.model.kinds import Encoder
from bertsmith.storage import (
    CACHE_VARIABLE,
    cache_folder,
    read_json,
    replacing,
    sha256_of,
    write_json,
)

_MANIFEST = "files.json"


def digest_of(encoder: Encoder) -> str:
    """Returns the SHA-256 of an encoder's settings and weights, in hexadecimal digits."""
    digest = hashlib.sha256(repr(sorted(encoder.config.to_mapping().items())).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def converted(
    encoder: Encoder, maker: str, files: tuple[str, ...], write: Callable[[Path], None]
) -> Path:
    """Returns the folder of a converted encoder, written now if it is not there whole.

    Args:
        encoder: what is converted.
        maker: who converts it, with versions, as a file's name.
        files: the names of what `write` writes.
        write: writes them into an empty folder.

    Raises:
        StorageError: the cache cannot be written.
    """
    folder = cache_folder() / f"{digest_of(encoder)[:40]}-{maker}"
    if folder.exists():
        if _is_whole(folder, files):
            return folder
        print(f"{folder}: is damaged; it is made anew", file=sys.stderr)
    try:
        with replacing(folder, known={*files, _MANIFEST}) as building:
            write(building)
            write_json(building / _MANIFEST, {name: sha256_of(building / name) for name in files})
    except StorageError as error:
        if _is_whole(folder, files):  # another process was sooner
            return folder
        raise StorageError(
            f"{error}; converted models are kept there: name another folder in {CACHE_VARIABLE}"
        ) from error
    return folder


def _is_whole(folder: Path, files: tuple[str, ...]) -> bool:
    with suppress(BertsmithError, OSError):
        sums = read_json(folder / _MANIFEST)
        return sums.keys() == set(files) and all(
            sha256_of(folder / name) == sums[name] for name in files
        )
    return False
