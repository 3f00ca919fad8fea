"""Weights in the files of others: read as they are; refused where they lie or would run code."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.test_folder import PIECES, SMALL, randomized, same_weights
from torch import Tensor

from bertsmith import weights_files
from bertsmith.config import CasingConfig
from bertsmith.errors import CheckpointError, ConfigError, MissingInputError
from bertsmith.folder import load_model, save_model
from bertsmith.model.heads import BertForPreTraining
from bertsmith.text.wordpiece import Tokenizer, Vocabulary
from bertsmith.weights_files import INDEX_FILE, PICKLE_FILE, WEIGHTS_FILE, read_weights

NAMES = [f"bert.part{number}.weight" for number in range(6)]


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(3, 5) for name in NAMES}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as `transformers` writes it: without facts."""
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    save_model(tmp_path / "model", randomized(BertForPreTraining(SMALL)), tokenizer, {})
    (tmp_path / "model" / "bertsmith.json").unlink()
    return tmp_path / "model"


def sharded(folder: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Writes two shards and their index; returns the index's table."""
    table: dict[str, str] = {}
    for number in (1, 2):
        name = f"model-{number:05}-of-00002.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number - 1 :: 2]}
        save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    write_index(folder, table)
    return table


def write_index(folder: Path, table: dict[str, Any]) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def in_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


# ----------------------------------------------------------------------------------- pickles


class Payload:
    """Writes a file where a pickle of it is opened by Python's own reader."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("as_archive", [True, False], ids=["archive", "stream"])
def test_a_pickle_of_tensors_is_read_in_both_of_torchs_formats(
    as_archive: bool, foreign: Path
) -> None:
    expected = load_model(foreign).model
    tensors, _ = read_weights(foreign)
    torch.save(tensors, foreign / PICKLE_FILE, _use_new_zipfile_serialization=as_archive)
    assert zipfile.is_zipfile(foreign / PICKLE_FILE) is as_archive
    (foreign / WEIGHTS_FILE).unlink()
    assert same_weights(load_model(foreign).model, expected)


@pytest.mark.parametrize("form", ["archive", "stream", "protocol 0", "protocol 4"])
def test_a_pickle_that_would_run_code_is_refused_and_has_not_run(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / PICKLE_FILE
    content = {"weight": Payload(os.system, f"touch {marker}")}
    if form.startswith("protocol"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
        pickle.loads(path.read_bytes())
        assert marker.exists()  # it is a real one
        marker.unlink()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(CheckpointError, match=rf"{PICKLE_FILE}: asks for posix\.system, which"):
        read_weights(tmp_path)
    assert not marker.exists()


def test_harmless_looking_calls_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": Payload(eval, "1 + 1")}, tmp_path / PICKLE_FILE)
    with pytest.raises(CheckpointError, match="asks for eval, which"):
        read_weights(tmp_path)


def test_no_warning_tells_that_a_pickle_was_refused(tmp_path: Path) -> None:
    (tmp_path / PICKLE_FILE).write_bytes(pickle.dumps({"a": Payload(eval, "1")}, protocol=4))
    with warnings.catch_warnings(action="error"), pytest.raises(CheckpointError, match=r"\.eval"):
        read_weights(tmp_path)


@pytest.mark.parametrize("version", ["2.9.1", "2.6.0+cu124", "1.13.1"])
def test_no_pickle_is_opened_by_a_torch_that_could_be_made_to_run_it(
    version: str, tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors, tmp_path / PICKLE_FILE)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(ConfigError, match=r"install torch 2\.10 or newer"):
        read_weights(tmp_path)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0"])
def test_newer_torches_open_pickles(
    version: str, tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors, tmp_path / PICKLE_FILE)
    monkeypatch.setattr(torch, "__version__", version)
    assert in_bits(read_weights(tmp_path)[0], tensors)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "expected tensors that torch.save wrote"),
        (b"<!DOCTYPE html><html>not found</html>", "expected tensors that torch.save wrote"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (os.urandom(5000), "expected tensors that torch.save wrote"),
    ],
    ids=["empty", "page", "pointer", "noise"],
)
def test_what_is_no_pickle_is_said_to_be_none(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / PICKLE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_weights(tmp_path)


@pytest.mark.parametrize("as_archive", [True, False], ids=["archive", "stream"])
def test_a_pickle_that_is_cut_anywhere_is_refused(
    as_archive: bool, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path / PICKLE_FILE
    torch.save(tensors, path, _use_new_zipfile_serialization=as_archive)
    whole = path.read_bytes()
    for length in (0, 4, 8, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=PICKLE_FILE):
            read_weights(tmp_path)


def test_only_dense_tensors_are_taken_from_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / PICKLE_FILE
    for content, said in (
        ({"weight": torch.eye(3).to_sparse()}, "weight is a sparse_coo tensor"),
        ({"weight": 3}, "weight is int"),
        ({3: torch.eye(3)}, "names a tensor '3'"),
        ([torch.eye(3)], "holds list"),
        ({}, "holds dict"),
    ):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=said):
            read_weights(tmp_path)


def test_an_archive_that_unpacks_to_more_than_it_takes_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.zeros(1_000_000)}, tmp_path / "plain")
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / PICKLE_FILE, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was opened"))
    with pytest.raises(CheckpointError, match="is packed"):
        read_weights(tmp_path)


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with zipfile.ZipFile(folder / PICKLE_FILE, "w") as archive:
        archive.writestr("../escaped", b"x")
        archive.writestr("/tmp/../escaped/data.pkl", b"x")
    with pytest.raises(CheckpointError, match=PICKLE_FILE):
        read_weights(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", PICKLE_FILE]


# ------------------------------------------------------------------------------------ shards


def test_shards_are_read_as_the_one_file_that_they_came_from(foreign: Path) -> None:
    expected = load_model(foreign).model
    tensors, _ = read_weights(foreign)
    (foreign / WEIGHTS_FILE).unlink()
    sharded(foreign, tensors)
    assert same_weights(load_model(foreign).model, expected)


def test_shards_that_transformers_wrote_are_read(foreign: Path, tmp_path: Path) -> None:
    import transformers

    theirs = transformers.BertForPreTraining.from_pretrained(foreign)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    for file in foreign.iterdir():
        if file.name not in (WEIGHTS_FILE, "config.json"):
            (tmp_path / "theirs" / file.name).write_bytes(file.read_bytes())
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    assert same_weights(load_model(tmp_path / "theirs").model, load_model(foreign).model)


def test_shards_of_pickles_are_read(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    half = len(NAMES) // 2
    table: dict[str, str] = {}
    for number, part in enumerate((NAMES[:half], NAMES[half:])):
        name = f"pytorch_model-{number}.bin"
        torch.save({key: tensors[key] for key in part}, tmp_path / name)
        table |= dict.fromkeys(part, name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert in_bits(read_weights(tmp_path)[0], tensors)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "folder/outside.safetensors",
        "..\\outside.safetensors",
        "C:\\outside.safetensors",
        "%2e%2e/outside.safetensors",
        "a..safetensors\0.safetensors",
        ".hidden.safetensors",
        "model.safetensors/../../outside.safetensors",
        "out\u2024side.safetensors",
        "x" * 10_000 + ".safetensors",
        "outside.bin",
        "outside",
        "",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_an_index_opens_no_file_but_weights_beside_it(
    name: Any, tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, tmp_path / "outside.safetensors")
    write_index(folder, dict.fromkeys(NAMES, name))
    monkeypatch.setattr(weights_files, "read_safetensors", lambda path: pytest.fail(str(path)))
    with pytest.raises(CheckpointError, match=INDEX_FILE):
        read_weights(folder)


def test_an_index_and_its_shards_must_agree(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    table = sharded(tmp_path, tensors)
    first, second = sorted(set(table.values()))
    for change, said in (
        ({"bert.absent": first}, f"{first}: does not hold bert.absent"),
        ({NAMES[0]: second}, f"{second}: does not hold {NAMES[0]}"),
        ({NAMES[0]: None}, "is said to be in 'None'"),
    ):
        write_index(tmp_path, table | change)
        with pytest.raises(CheckpointError, match=said):
            read_weights(tmp_path)
    write_index(tmp_path, {name: file for name, file in table.items() if name != NAMES[0]})
    with pytest.raises(CheckpointError, match=f"holds {NAMES[0]}; {INDEX_FILE} does not list it"):
        read_weights(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    table = sharded(tmp_path, tensors)
    first, second = sorted(set(table.values()))
    held = [name for name in NAMES if table[name] == second]
    save_file({name: tensors[name] for name in [*held, NAMES[0]]}, tmp_path / second)
    with pytest.raises(CheckpointError, match=f"{second}: holds {NAMES[0]}.*is in {first}"):
        read_weights(tmp_path)


def test_an_absent_shard_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    table = sharded(tmp_path, tensors)
    (tmp_path / table[NAMES[0]]).unlink()
    with pytest.raises(MissingInputError, match=f"{table[NAMES[0]]}: there is no such file"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "b"',
     '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=INDEX_FILE):
        read_weights(tmp_path)


def test_one_file_of_weights_goes_before_an_index_and_that_before_a_pickle(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / PICKLE_FILE)
    sharded(tmp_path, tensors)
    assert read_weights(tmp_path)[1].name == INDEX_FILE
    save_file({"one": torch.zeros(1)}, tmp_path / WEIGHTS_FILE)
    found, where = read_weights(tmp_path)
    assert where.name == WEIGHTS_FILE and list(found) == ["one"]


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"expected weights in it, or in"):
        read_weights(tmp_path)
