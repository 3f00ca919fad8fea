"""The weights of a model folder, in any of the files that published folders keep them in.

    model.safetensors
    model.safetensors.index.json    and the files of weights that it lists
    pytorch_model.bin               a pickle, of which nothing but tensors is taken
    pytorch_model.bin.index.json    and the pickles that it lists

The first that is there is read. May import `errors` and `storage`.
"""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertsmith.errors import CheckpointError, ConfigError, MissingInputError
from bertsmith.storage import read_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
# Before this release a file could run code in spite of `weights_only` (CVE-2026-24747).
SAFE_TORCH = (2, 10)
# A file beside the index, and nothing else: no path, no hidden file, no drive.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.(?:safetensors|bin)")
_POINTER = b"version https://git-lfs"  # what stands in place of a file that was not fetched


def read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Returns the tensors of a model folder under their own names, and the file that tells of them.

    Raises:
        MissingInputError: there are no weights, or a file that an index lists is not there.
        CheckpointError: a file is damaged, holds more than tensors, or is not what its index says.
        ConfigError: the weights are a pickle, and this torch would run the code in one.
    """
    for name, read in _READERS.items():
        if (folder / name).is_file():
            return read(folder / name), folder / name
    graph = "; a graph of ONNX is not read" if any(folder.glob("*.onnx")) else ""
    raise MissingInputError(
        f"{folder / WEIGHTS_FILE}: there is no such file; expected weights in it, or in "
        f"{INDEX_FILE} or {PICKLE_FILE}{graph}"
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of one file in the safetensors format.

    Raises:
        CheckpointError: it is cut short, altered, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _refuse_pointer(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}; the file is cut short or altered") from None


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file that `torch.save` wrote; nothing in it is ever run.

    Both of torch's formats are read: archives, which are mapped, and the streams of before 2020.

    Raises:
        ConfigError: this torch is one of those that could be made to run code.
        CheckpointError: the file asks for anything but dense tensors, is damaged, or is packed.
    """
    _refuse_unsafe_torch(path)
    _refuse_pointer(path)
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        _refuse_packed(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles newer than torch writes
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # pickles fail in every way that Python can
        raise CheckpointError(_why_not(path, error)) from None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{path}: holds {type(found).__name__}; expected named tensors, as of a state_dict"
        )
    return {_checked_name(name, path): _dense(name, found[name], path) for name in found}


def index_shards(path: Path) -> dict[str, set[str]]:
    """Returns the files of weights that an index lists, each with the names of its tensors.

    Raises:
        CheckpointError: it is no such index, or names a file that does not stand beside it.
    """
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{path}: has no weight_map; expected the file of every tensor in it")
    ending = ".safetensors" if path.name == INDEX_FILE else ".bin"
    shards: dict[str, set[str]] = {}
    for tensor, name in listed.items():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name) or ".." in name:
            raise CheckpointError(
                f"{path}: {tensor} is said to be in {str(name)[:100]!r}; expected the bare name of "
                f"a file in the same folder, ending in {ending}"
            )
        if not name.endswith(ending):
            raise CheckpointError(
                f"{path}: {tensor} is said to be in {name!r}; expected a file ending in {ending}"
            )
        shards.setdefault(name, set()).add(tensor)
    return shards


def _read_index(path: Path) -> dict[str, Tensor]:
    shards = index_shards(path)
    for name in shards:
        if not (path.parent / name).is_file():
            raise MissingInputError(
                f"{path.parent / name}: there is no such file; {path.name} lists it: get it from "
                f"where the folder came from"
            )
    tensors: dict[str, Tensor] = {}
    for name, expected in shards.items():
        shard = path.parent / name
        read = read_safetensors if path.name == INDEX_FILE else read_pickle
        found = read(shard)
        absent = sorted(expected - found.keys())
        if absent:
            raise CheckpointError(
                f"{shard}: does not hold {absent[0]}; {path.name} says that it does"
            )
        for tensor in sorted(found.keys() - expected):
            elsewhere = [other for other, names in shards.items() if tensor in names]
            said = f"says it is in {elsewhere[0]}" if elsewhere else "does not list it"
            raise CheckpointError(f"{shard}: holds {tensor}; {path.name} {said}")
        tensors |= found
    return tensors


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    WEIGHTS_FILE: read_safetensors,
    INDEX_FILE: _read_index,
    PICKLE_FILE: read_pickle,
    PICKLE_INDEX_FILE: _read_index,
}


# ------------------------------------------------------------------------- what pickles may hold


def _refuse_unsafe_torch(path: Path) -> None:
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < SAFE_TORCH:
        raise ConfigError(
            f"{path}: is a pickle, and torch {torch.__version__} can be made to run the code in "
            f"one; install torch 2.10 or newer, or use a folder with {WEIGHTS_FILE}"
        )


def _refuse_packed(path: Path) -> None:
    """Refuses an archive that unpacks to more than it takes: torch writes none."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}; the file is cut short or altered") from None
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    total = sum(member.file_size for member in members)
    if packed or total > path.stat().st_size:
        which = packed[0] if packed else members[0].filename
        raise CheckpointError(
            f"{path}: {which[:100]!r} in it is packed; expected what torch.save writes, where "
            f"nothing is"
        )


def _why_not(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    asked = refused[1] if refused else _first_global(path)
    if asked:
        return (
            f"{path}: asks for {asked}, which could run code when it is opened; expected "
            f"tensors alone: do not use this file unless you know who wrote it"
        )
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if "weights_only" in reason:  # torch goes on to advise what must not be done
        reason = "is cut short, altered, or no pickle of torch"
    return f"{path}: {reason}; expected tensors that torch.save wrote, and nothing else"


def _first_global(path: Path) -> str | None:
    """Returns what a pickle that is no archive asks for first, read without running it."""
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(texts[-2:])
                if isinstance(argument, str):
                    texts.append(argument)
    except Exception:  # as torch.load: whatever a damaged pickle gives
        return None
    return None


def _checked_name(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise CheckpointError(
            f"{path}: names a tensor {str(name)[:100]!r}; expected texts as names"
        )
    return name


def _dense(name: str, tensor: Any, path: Path) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{path}: {name} is {type(tensor).__name__}; expected a tensor, as in a state_dict"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(f"{path}: {name} is a {kind} tensor; expected a dense one")
    return tensor.detach()


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if start == _POINTER:
        raise CheckpointError(
            f"{path}: is a pointer to weights and not the weights; fetch them with `git lfs pull`"
        )
