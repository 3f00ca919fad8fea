"""Checkpoints under faults: cut short, altered, killed half-way, on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.toys import Toy, toy_run
from torch import nn

from bertsmith.errors import CheckpointError, StorageError
from bertsmith.train import checkpoint
from bertsmith.train.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    purge_checkpoints,
    refuse_without_room_to_keep,
    restore,
    save_checkpoint,
    tensors_of,
)
from bertsmith.train.loop import Run
from bertsmith.train.sealed import remove_unfinished, verify_sealed

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def silent(message: str) -> None:
    pass


def saved(folder: Path, *steps: int) -> Run:
    run = toy_run(Toy())
    for step in steps:
        run.step = step
        save_checkpoint(folder, run, {"position": step * 10})
    return run


def newest(folder: Path, say: Callable[[str], None] = silent) -> Checkpoint:
    found = newest_checkpoint(folder, say)
    assert found is not None
    return found


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_restoring_gives_back_what_was_saved(tmp_path: Path) -> None:
    run = saved(tmp_path, 7)
    other = toy_run(Toy(seed=5))
    found = newest(tmp_path)
    restore(other, found)
    assert (other.step, found.state) == (7, {"position": 70})
    for name, parameter in run.model.named_parameters():
        twin = other.model.get_parameter(name)
        assert torch.equal(twin, parameter)
        for kind, tensor in run.optimizer.state[parameter].items():
            assert torch.equal(other.optimizer.state[twin][kind], tensor)


def test_the_newest_is_the_one_of_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    saved(tmp_path, 900, 1000, 20)
    os.utime(tmp_path / "step-00001000", (0, 0))
    assert newest(tmp_path).step == 1000


def test_where_nothing_was_saved_there_is_no_newest(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", silent) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["0", "4", "8", "half", "size-1"])
def test_a_cut_file_is_named_and_passed_over(tmp_path: Path, name: str, where: str) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    size = path.stat().st_size
    os.truncate(path, {"half": size // 2, "size-1": size - 1}.get(where) or int(where))
    said: list[str] = []
    assert newest(tmp_path, said.append).step == 1
    assert len(said) == 1
    assert "step-00000002" in said[0]
    assert path.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [9, 0.5, -3])
def test_one_flipped_byte_is_found(tmp_path: Path, name: str, where: float) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    place = int(len(content) * where) if isinstance(where, float) else where
    content[place] ^= 0x04
    path.write_bytes(content)
    said: list[str] = []
    assert newest(tmp_path, said.append).step == 1
    assert name in said[0]


def test_where_none_verifies_nothing_starts_from_scratch(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        os.truncate(tmp_path / f"step-0000000{step}" / "model.safetensors", 5)
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints verifies"):
        newest_checkpoint(tmp_path, silent)


def test_a_damaged_checkpoint_keeps_its_place_when_its_step_comes_again(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    damaged = tmp_path / "step-00000002" / "state.json"
    damaged.write_text("")
    place = save_checkpoint(tmp_path, saved(tmp_path, 2), {})
    assert place.name == "step-00000002-2"
    assert damaged.read_text() == ""
    assert newest(tmp_path).folder == place


def test_only_the_newest_sound_checkpoints_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-00000004" / "state.json").unlink()
    (tmp_path / "step-notes").mkdir()
    purge_checkpoints(tmp_path, keep=2)
    assert steps_in(tmp_path) == ["step-00000002", "step-00000003", "step-00000004", "step-notes"]


@pytest.mark.parametrize("keep", range(7))
def test_as_many_are_kept_as_are_asked_for_after_every_save(tmp_path: Path, keep: int) -> None:
    for step in range(1, 10):
        saved(tmp_path, step)
        purge_checkpoints(tmp_path, keep=keep)
        expected = range(max(1, step - keep + 1), step + 1)
        assert steps_in(tmp_path) == [f"step-{one:08d}" for one in expected]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", "a\\b", ""])
def test_a_manifest_opens_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 1)
    manifest = tmp_path / "step-00000001" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = {"size": 1, "sha256": "0"}
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="expected plain file names"):
        verify_sealed(manifest.parent)


def test_files_too_many_too_few_or_linked_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    place = tmp_path / "step-00000001"
    (place / "extra.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"extra\.bin: is not listed"):
        verify_sealed(place)
    (place / "extra.bin").unlink()
    (place / "state.json").rename(tmp_path / "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json: listed .* but not there"):
        verify_sealed(place)
    (place / "state.json").symlink_to(tmp_path / "state.json")
    with pytest.raises(CheckpointError, match=r"state\.json: listed .* but not there"):
        verify_sealed(place)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    manifest = tmp_path / "step-00000001" / "manifest.json"
    manifest.write_text('{"format": 1, "files": {}, "files": {}}')
    with pytest.raises(CheckpointError, match="the key .files. stands twice"):
        verify_sealed(manifest.parent)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["format", "files", "size", "sha256", "x"]), inner)
        ),
    )
)
def test_no_manifest_but_the_right_one_verifies(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    place = tmp_path_factory.mktemp("sealed")
    (place / "manifest.json").write_text(json.dumps(content))
    (place / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError):
        verify_sealed(place)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    wider, fewer = Toy(), Toy()
    wider.classes = nn.Linear(8, 5)
    fewer.total = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"'classes.weight' has shape \[3, 8\]; this .*5, 8"):
        restore(Run(wider, torch.optim.SGD(wider.parameters())), newest(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds an unknown tensor 'total\."):
        restore(Run(fewer, torch.optim.SGD(fewer.parameters())), newest(tmp_path))


def test_killed_at_any_durable_call_the_run_still_has_a_checkpoint(tmp_path: Path) -> None:
    """Every sync, rename and removal of a third save, and of the purge after it, is tried."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("writer.py")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    *killed, survived = [line.split() for line in done.stdout.splitlines()]
    assert len(killed) >= 10
    assert {status for _, status in killed} == {"-9"}
    assert steps_in(tmp_path / survived[0]) == ["step-00000002", "step-00000003"]
    for moment, _ in killed:
        folder = tmp_path / moment
        found = newest(folder)
        assert found.step in (2, 3)
        run = toy_run(Toy(seed=3))
        restore(run, found)
        remove_unfinished(folder)
        run.step = 3
        save_checkpoint(folder, run, {"position": 30})
        purge_checkpoints(folder, keep=2)
        assert steps_in(folder) == ["step-00000002", "step-00000003"]
        assert (folder / "latest").read_text() == "step-00000003\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mounts a disk of 64 KiB where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("mounting a small disk is not allowed here")
    yield place
    subprocess.check_call(["umount", str(place)])


def test_without_room_nothing_is_begun(small_disk: Path) -> None:
    run = saved(small_disk, 1)
    (small_disk / "ballast").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    run.step = 2
    with pytest.raises(StorageError, match=r"0 bytes are free .* needed: make room"):
        save_checkpoint(small_disk, run, {})
    with pytest.raises(StorageError, match="no room"):
        refuse_without_room_to_keep(small_disk, run, 1)
    assert newest(small_disk).step == 1


@pytest.mark.parametrize(
    ("keep", "standing", "wanted"),
    [(0, 0, 1), (1, 0, 2), (2, 0, 3), (9, 0, 3), (2, 1, 2), (2, 4, 1)],
)
def test_room_is_asked_for_what_will_stand_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, standing: int, wanted: int
) -> None:
    run = saved(tmp_path / "one", 1)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(run).values())
    for step in range(standing):
        (tmp_path / f"checkpoints/step-{step:08d}").mkdir(parents=True)
    asked = list[tuple[Path, int]]()
    monkeypatch.setattr(checkpoint, "refuse_without_room", lambda *room: asked.append(room))
    refuse_without_room_to_keep(tmp_path / "checkpoints", run, keep)
    ((place, needed),) = asked
    assert place == (tmp_path / "checkpoints" if standing else tmp_path)
    assert needed == wanted * size


def test_a_disk_that_fills_up_in_any_file_costs_only_the_new_checkpoint(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The early check is put out of action, and the disk is full after 0, 1, .. pages."""
    run = saved(small_disk, 1)
    monkeypatch.setattr("bertsmith.train.sealed.refuse_without_room", lambda folder, needed: None)
    run.step = 2
    messages = []
    for pages in range(12):
        free = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(b"x" * (free - pages * 4096))
        try:
            save_checkpoint(small_disk, run, {})
        except StorageError as error:
            messages.append(str(error))
            assert not list(small_disk.glob(".tmp-*"))
            assert newest(small_disk).step == (2 if "latest: No space" in str(error) else 1)
        else:
            break
        finally:
            (small_disk / "ballast").unlink()
    assert len(messages) >= 3
    assert all("No space left on device" in message for message in messages)
    assert newest(small_disk).step == 2


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failing_disk_ends_as_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = saved(tmp_path, 1)
    run.step = 2

    def fail(*arguments: object) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(StorageError, match="Input/output error"):
            save_checkpoint(tmp_path, run, {})
    assert sorted(os.listdir(tmp_path)) == ["latest", "step-00000001"]


@pytest.mark.filterwarnings("ignore:.*cannot be told to write at once")
def test_a_disk_that_cannot_sync_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(22, os.strerror(22))

    monkeypatch.setattr(os, "fsync", refuse)
    saved(tmp_path, 1)
    assert newest(tmp_path).step == 1
