"""What a user calls a model is found on this disk, or at a hub that stands in for the real one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from tests.interop.hub_server import Hub, serving
from tests.test_folder import PIECES, SMALL, randomized, same_weights

import bertsmith
from bertsmith.config import CasingConfig
from bertsmith.errors import BertsmithError, CheckpointError, ConfigError, MissingInputError
from bertsmith.folder import load_model, save_model
from bertsmith.interop.google import write_google_checkpoint
from bertsmith.interop.sources import model_folder
from bertsmith.model.heads import BertForPreTraining
from bertsmith.text.wordpiece import Tokenizer, Vocabulary
from bertsmith.weights_files import read_weights

NAME = "someone/tiny-bert"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    save_model(tmp_path / "model", randomized(BertForPreTraining(SMALL)), tokenizer, {})
    return tmp_path / "model"


@pytest.fixture
def foreign(folder: Path, tmp_path: Path) -> Path:
    """A folder as published ones are: with files that are not read here."""
    shutil.copytree(folder, tmp_path / "foreign")
    (tmp_path / "foreign" / "bertsmith.json").unlink()
    for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot"):
        (tmp_path / "foreign" / name).write_bytes(b"other weights")
    torch.save(read_weights(folder)[0], tmp_path / "foreign" / "pytorch_model.bin")
    return tmp_path / "foreign"


@pytest.fixture
def hub(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({NAME: foreign, "tiny-bert": foreign}) as hub:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "our-cache"))
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.chdir(tmp_path)
        yield hub


def find(source: str | Path) -> Path:
    return model_folder(source, say=lambda _: None)


def test_a_folder_is_returned_as_it_is(hub: Hub, folder: Path) -> None:
    assert find(folder) == folder
    assert find(str(folder)) == folder
    assert find("model") == Path("model")
    assert not hub.requests


def test_of_a_run_the_best_model_is_taken_and_said(folder: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    run.mkdir()
    (run / "settings.json").write_text("{}")
    assert find(run) == run  # what it lacks is told by whoever opens it
    shutil.copytree(folder, run / "model")
    assert model_folder(run, say=said.append) == run / "model"
    shutil.copytree(folder, run / "best")
    assert model_folder(run, say=said.append) == run / "best"
    assert said == [
        f"{run}: is a run; takes the model in {run / name}" for name in ("model", "best")
    ]


def test_a_google_checkpoint_becomes_a_folder_once(hub: Hub, folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    write_google_checkpoint(loaded, tmp_path / "google", lambda _: None)
    found = find("google")
    assert found.parent == tmp_path / "our-cache"
    assert same_weights(load_model(found).model, loaded.model)
    written = (found / "bertsmith.json").stat().st_mtime_ns
    assert find("google/bert_model.ckpt") == found
    assert (found / "bertsmith.json").stat().st_mtime_ns == written
    assert not hub.requests


@pytest.mark.parametrize("name", [NAME, "tiny-bert"])
def test_a_name_at_the_hub_is_fetched_and_said(name: str, hub: Hub, folder: Path) -> None:
    said: list[str] = []
    found = model_folder(name, say=said.append)
    assert same_weights(load_model(found).model, load_model(folder).model)
    [line] = said
    assert "no folder here is called so" in line and hub.url in line


def test_only_what_is_read_is_fetched_and_weights_last(hub: Hub) -> None:
    find(NAME)
    given = hub.files_given()
    assert set(given) == {
        *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "model.safetensors"),
    }
    assert given[-1] == "model.safetensors" and len(given) == len(set(given))


def test_what_was_fetched_is_not_fetched_again(hub: Hub) -> None:
    found = find(NAME)
    hub.requests.clear()
    assert find(NAME) == found
    assert [method for method, _, _ in hub.requests] == ["HEAD"] * 2  # whether it is the newest


def test_a_folder_of_ours_comes_with_its_facts(hub: Hub, folder: Path) -> None:
    hub.folders[NAME] = folder
    assert load_model(find(NAME)).facts["format_version"] == 1


def test_pickles_and_shards_are_fetched_where_there_is_nothing_else(
    hub: Hub, foreign: Path, folder: Path
) -> None:
    (foreign / "model.safetensors").unlink()
    assert same_weights(load_model(find(NAME)).model, load_model(folder).model)
    import transformers

    model = transformers.BertForPreTraining.from_pretrained(folder)
    model.save_pretrained(foreign, max_shard_size="40KB")
    (foreign / "pytorch_model.bin").unlink()
    hub.folders["someone/sharded"] = foreign
    assert same_weights(load_model(find("someone/sharded")).model, load_model(folder).model)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub.breaks_at["model.safetensors"] = 10_000
    assert same_weights(load_model(find(NAME)).model, load_model(folder).model)
    ranges = [asked for method, path, asked in hub.requests if path.endswith("model.safetensors")]
    assert "bytes=8192-" in ranges


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt"])
def test_an_altered_file_is_refused_and_fetched_anew(file: str, hub: Hub, folder: Path) -> None:
    hub.altered.add(file)
    with pytest.raises(CheckpointError, match=f"{file} is not what the hub says it is"):
        find(NAME)
    hub.altered.clear()
    assert same_weights(load_model(find(NAME)).model, load_model(folder).model)


def test_a_cached_file_that_was_altered_since_is_noticed(hub: Hub) -> None:
    weights = (find(NAME) / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what the hub says"):
        find(NAME)


def test_what_the_hub_does_not_give_is_told_apart(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingInputError, match="no such folder here, and no model of that name"):
        find("someone/absent")
    hub.gated.add(NAME)
    with pytest.raises(MissingInputError, match=rf"accepted its terms; do so at {hub.url}/{NAME}"):
        find(NAME)
    hub.token = "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(MissingInputError, match="refuses the token"):
        find(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert find(NAME).is_dir()


def test_a_failing_hub_is_said_to_fail(hub: Hub) -> None:
    hub.status = 503
    with pytest.raises(MissingInputError, match="status 503"):
        find(NAME)


def test_a_model_without_config_or_weights_is_refused(hub: Hub, foreign: Path) -> None:
    (foreign / "model.safetensors").unlink()
    (foreign / "pytorch_model.bin").unlink()
    with pytest.raises(MissingInputError, match="no weights of it that are read here"):
        find(NAME)
    (foreign / "config.json").unlink()
    with pytest.raises(MissingInputError, match=r"has no config\.json"):
        find("tiny-bert")


def test_without_a_network_the_cache_is_used_and_else_it_is_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(NAME)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", dead)
    template = f"{dead}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    said: list[str] = []
    assert model_folder(NAME, say=said.append) == found
    assert "takes the version that was fetched before" in said[-1]
    started = time.monotonic()
    with pytest.raises(MissingInputError, match=r"cannot be fetched from .*check the network"):
        find("someone/other")
    assert time.monotonic() - started < 5  # and not after half a minute of trying


def test_offline_the_cache_is_used_and_nothing_is_asked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(NAME)
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find(NAME) == found
    with pytest.raises(MissingInputError, match="HF_HUB_OFFLINE forbids"):
        find("someone/other")
    assert not hub.requests


def test_half_of_a_model_is_not_taken_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = find(NAME) / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInputError, match="nor all of a model of that name"):
        find(NAME)


@pytest.mark.parametrize(
    "name",
    [
        *("../../etc", "..", ".", "./model-of-mine", "/etc/passwd-not", "~/model", "a/b/c", "a//b"),
        *("%2e%2e/%2e%2e", "C:\\models\\bert", "\\\\server\\share", "owner/../name", "owner/"),
        *("http://127.0.0.1/model", "https://huggingface.co/bert-base-uncased", "file:///etc"),
        *("hf://owner/name", "na\0me", "", "x" * 10_000, "a" * 97, "own\u0435r/name"),
        *("owner/na me",),
        *("owner/name.git", "owner/-name", "owner/na--me", "owner/name\n", "owner/name?x", "-rf"),
    ],
)  # fmt: skip
def test_what_is_no_name_never_goes_to_the_hub(name: str, hub: Hub) -> None:
    if name == ".":
        assert find(name) == Path(".")
    elif name == "..":
        assert find(name) == Path("..")
    else:
        with pytest.raises((ConfigError, MissingInputError), match="expected a model folder"):
            find(name)
    assert not hub.requests


def test_a_path_into_a_folder_that_is_here_never_goes_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "someone").mkdir()
    with pytest.raises(MissingInputError, match="the folder someone is here and holds no such"):
        find(NAME)
    assert not hub.requests


def test_a_file_is_no_model(hub: Hub, folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file; expected a model folder"):
        find(folder / "vocab.txt")


def test_the_environment_names_hub_token_and_cache(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add(NAME)
    hub.token = "hf_good"
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_good",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(bertsmith.__file__).parents[1]),
    }
    code = (
        "import sys; from bertsmith.interop.sources import model_folder; "
        f"print(model_folder({NAME!r}, say=lambda said: print(said, file=sys.stderr)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")
    assert load_model(Path(done.stdout.strip())).config == SMALL


def test_every_refusal_is_one_sentence(hub: Hub) -> None:
    for name in ("someone/absent", "a/b/c", "http://x"):
        with pytest.raises(BertsmithError) as caught:
            find(name)
        assert "\n" not in str(caught.value) and "nvalid" not in str(caught.value)
