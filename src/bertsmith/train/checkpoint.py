"""Checkpoints: everything that a run needs to go on as if it had not stopped.

A checkpoint is a sealed folder `step-00001000/` of `model.safetensors`, `optimizer.safetensors` and
`state.json`. No pickle: nothing in it can run. The newest one that verifies is the one that counts;
those that do not are named and passed over, never deleted and never trusted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertsmith.errors import CheckpointError, MissingInputError
from bertsmith.storage import read_json, refuse_without_room, replace_file, storage_errors
from bertsmith.train.loop import Run
from bertsmith.train.sealed import verify_sealed, write_sealed

_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")  # the second number: its first place was taken
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]  # what the recipe gave: position, seconds, and so on


def save_checkpoint(folder: Path, run: Run, state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint of `run` under `folder` and returns its place.

    `state` is what the recipe needs besides, as JSON values. A valid checkpoint of the same step is
    left as it is; a damaged one is left too, and the new one takes a place beside it.

    Raises:
        StorageError: there is no room or writing failed; the older checkpoints stand.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    place, is_saved = _place(folder, run.step)
    if not is_saved:
        weights, moments = _on_cpu(_weights(run.model)), _on_cpu(_moments(run))
        content = json.dumps({"step": run.step, "state": dict(state)}, indent=1).encode()
        write_sealed(
            place,
            {
                _MODEL: lambda path: save_file(weights, path),
                _OPTIMIZER: lambda path: save_file(moments, path),
                _STATE: lambda path: _write(path, content),
            },
            needed_bytes=_size(weights) + _size(moments) + len(content),
        )
    replace_file(folder / "latest", f"{place.name}\n".encode())
    return place


def refuse_without_room_to_keep(folder: Path, run: Run, keep: int) -> None:
    """Refuses to start a run whose checkpoints under `folder` will not fit the disk.

    While one is made the `keep` before it stand; of these two are asked for at most, since a run
    may end before there are more. What stands there already takes no more room.

    Raises:
        StorageError: the disk has not that many bytes free.
    """
    missing = max(1, min(keep, 2) + 1 - len(_places(folder)))
    place = folder if folder.is_dir() else folder.parent
    refuse_without_room(place, missing * (_size(_weights(run.model)) + _size(_moments(run))))


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Returns the newest checkpoint that verifies, or None where none was ever finished.

    Those passed over are named, with the reason, through `say`.

    Raises:
        CheckpointError: there are checkpoints, but none verifies.
    """
    damages = []
    for place in reversed(_places(folder)):
        damage = _damage(place, contents=True)
        if not damage:
            content = read_json(place / _STATE)
            return Checkpoint(place, content["step"], content["state"])
        damages.append(damage)
        say(f"passed over a damaged checkpoint: {damage}")
    if damages:
        raise CheckpointError(
            f"{folder}: none of its {len(damages)} checkpoints verifies (newest: {damages[0]}); "
            f"restore one from a copy, or start again in another folder"
        )
    return None


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Puts the weights, the optimizer's state and the step of `checkpoint` into `run`.

    Raises:
        CheckpointError: names or shapes are not those of this model and optimizer.
    """
    _fill(_weights(run.model), checkpoint.folder / _MODEL)
    _fill(_moments(run), checkpoint.folder / _OPTIMIZER)
    run.step = checkpoint.step


def tensors_of(run: Run) -> dict[str, Tensor]:
    """Returns all tensors that a checkpoint of `run` holds, in an order that every rank has."""
    weights = {f"model/{name}": tensor for name, tensor in _weights(run.model).items()}
    return weights | {f"optimizer/{name}": tensor for name, tensor in _moments(run).items()}


def purge_checkpoints(folder: Path, keep: int) -> None:
    """Removes all but the `keep` newest checkpoints, by step; damaged ones neither count nor go."""
    sound = [place for place in _places(folder) if not _damage(place, contents=False)]
    for place in sound[: max(0, len(sound) - keep)]:
        going = folder / f".tmp-{place.name}-going"  # killed half-way, it is no checkpoint
        with storage_errors(place):
            os.replace(place, going)
            shutil.rmtree(going)


def _place(folder: Path, step: int) -> tuple[Path, bool]:
    """Returns where the checkpoint of `step` stands, or may be put, and whether it stands there."""
    place = folder / f"step-{step:08d}"
    attempt = 1
    while place.exists() or place.is_symlink():
        if not _damage(place, contents=True):
            return place, True
        attempt += 1
        place = folder / f"step-{step:08d}-{attempt}"
    return place, False


def _places(folder: Path) -> list[Path]:
    """Returns the checkpoint folders, oldest first, by step and never by the clock."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and path.is_dir() and not path.is_symlink():
            found.append((int(name[1]), int(name[2] or 1), path))
    return [path for *_, path in sorted(found)]


def _damage(place: Path, *, contents: bool) -> str:
    """Returns why a checkpoint does not verify, or an empty string."""
    try:
        verify_sealed(place, contents=contents)
        content = read_json(place / _STATE)
    except (CheckpointError, MissingInputError) as error:
        return str(error)
    except OSError as error:
        return f"{place}: cannot be read ({error.strerror})"
    if content.keys() != {"step", "state"} or type(content["step"]) is not int:
        return f"{place / _STATE}: does not hold a step and a state"
    return ""


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by name, shared ones once."""
    return {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _moments(run: Run) -> dict[str, Tensor]:
    """Returns the optimizer's tensors as 'kind/parameter'."""
    return {
        f"{kind}/{name}": tensor
        for name, parameter in run.model.named_parameters()
        for kind, tensor in run.optimizer.state.get(parameter, {}).items()
    }


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _fill(targets: Mapping[str, Tensor], path: Path) -> None:
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    for name in targets.keys() ^ found.keys():
        holder = "has no" if name in targets else "holds an unknown"
        raise CheckpointError(f"{path}: {holder} tensor {name!r}; it is of another model")
    with torch.no_grad():
        for name, target in targets.items():
            if found[name].shape != target.shape:
                raise CheckpointError(
                    f"{path}: {name!r} has shape {list(found[name].shape)}; "
                    f"this model has {list(target.shape)}"
                )
            target.copy_(found[name])


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
