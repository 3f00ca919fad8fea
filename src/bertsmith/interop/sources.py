"""What a user may call a model: its folder, a Google checkpoint, an archive of either, or a name.

Whatever it is, a model folder comes back. Google's checkpoints and archives become one in our
cache; models of the hub are fetched into the one that `huggingface_hub` shares with other programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bertsmith.errors import ConfigError, MissingInputError
from bertsmith.interop.archives import MARKS, is_archive, unpacked
from bertsmith.interop.google import as_model_folder, is_google_checkpoint
from bertsmith.interop.hub import fetch_model
from bertsmith.storage import cache_folder

# 'name' or 'owner/name', as the hub allows: what else there is (dots, dashes) is checked below.
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LONGEST_NAME = 96

Say = Callable[[str], None]


def model_folder(source: str | Path, *, say: Say) -> Path:
    """Returns the model folder that a user means, made or fetched first where that must be.

    What is there on this disk goes before what the hub has, and is returned as it is; of the folder
    of a run, the best model, or where none is marked so, the newest. The hub is asked only for what
    can be a name there and no path here. `say` is told of either.

    Raises:
        MissingInputError: nothing here is called so, and the hub has none, gives none or cannot be
            reached.
        ConfigError: it is neither a path here nor a name that the hub could have.
        CheckpointError: what was fetched, the Google checkpoint or the archive is damaged, or not
            to be trusted.
        StorageError: a cache cannot be written.
    """
    name = str(source)
    path = Path(name)
    if "\0" in name or not name:
        raise ConfigError(f"the model is {name[:100]!r}; {_EXPECTED}")
    if len(name) <= 4096:
        if is_google_checkpoint(path):
            return as_model_folder(path, cache_folder(), say)
        if path.is_dir():
            return _of_run(path, say)
        if is_archive(path):
            return model_folder(unpacked(path, cache_folder(), say), say=say)
        if path.exists():
            raise ConfigError(f"{name}: is a file; {_EXPECTED}")
    _refuse_no_name(name)
    return fetch_model(name, say)


_EXPECTED = (
    "expected a model folder, a Google checkpoint, an archive of either (.zip, .tar.gz), or a "
    "name at the hub as in 'bert-base-uncased' or 'owner/name'"
)


def _of_run(folder: Path, say: Say) -> Path:
    """Returns the best model of a run, or its newest one; a folder that is no run as it is."""
    is_run = any((folder / name).is_file() for name in ("settings.json", "report.html"))
    if is_run and not any((folder / mark).exists() for mark in MARKS):
        for name in ("best", "model"):
            if (folder / name / "config.json").is_file():
                say(f"{folder}: is a run; takes the model in {folder / name}")
                return folder / name
    return folder


def _refuse_no_name(name: str) -> None:
    """Refuses what the hub is not to be asked for: a path that is not there, or no name at all."""
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    if "://" in name:
        raise ConfigError(f"{shown!r} is a URL; {_EXPECTED}")
    is_name = (
        len(name) <= _LONGEST_NAME
        and _HUB_NAME.fullmatch(name)
        and not any(mark in name for mark in ("..", "--"))
        and not any(part.endswith((".", "-", ".git")) for part in name.split("/"))
    )
    if not is_name:
        raise MissingInputError(
            f"{shown!r}: there is no such folder or checkpoint here, and it cannot be a name at "
            f"the hub; {_EXPECTED}"
        )
    owner = name.partition("/")[0]
    if "/" in name and Path(owner).is_dir():
        raise MissingInputError(
            f"{name}: the folder {owner} is here and holds no such model; a model of that name at "
            f"the hub would be taken only where no folder {owner} is: check the path, or go "
            f"elsewhere for the hub's"
        )
