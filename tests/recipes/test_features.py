"""Features are what the encoder's layers hold, piece by piece, and memory stays flat."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import write_tiny_encoder

from bertsmith.cli import main
from bertsmith.config import ColumnsConfig
from bertsmith.errors import ConfigError, DataError, StorageError
from bertsmith.recipes import features
from bertsmith.recipes.features import write_features
from bertsmith.tasks.layers import parse_layers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(
        tmp_path_factory.mktemp("encoder") / "model",
        [*LETTERS, "##é"],
        hidden_size=16,
        num_hidden_layers=3,
        max_position_embeddings=40,
        initializer_range=0.5,
    )


def write_texts(path: Path, count: int) -> list[str]:
    rng = Random(0)
    texts = [" ".join(rng.choices(LETTERS, k=rng.randrange(1, 60))) for _ in range(count)]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return texts


def test_states_are_those_of_transformers(encoder: Path, tmp_path: Path) -> None:
    import transformers

    texts = write_texts(tmp_path / "texts.txt", 300)
    result = write_features(encoder, tmp_path / "texts.txt", tmp_path / "out.npz", "-2:-1,0")
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder)
    with np.load(tmp_path / "out.npz") as found:
        states, ids, starts, pieces = (
            found[name] for name in ("states", "piece_ids", "sequence_starts", "pieces")
        )
    assert states.dtype == np.float32
    assert states.shape == (result["tokens"], 3, 16)
    assert result["layers"] == [2, 3, 0]
    assert len(starts) == len(texts) + 1 == result["texts"] + 1
    assert result["cut_texts"] == sum(len(text.split()) > 38 for text in texts)
    assert pieces.tolist() == tokenizer.convert_ids_to_tokens(ids.tolist())
    for number in range(0, len(texts), 23):
        inputs = tokenizer(texts[number], truncation=True, max_length=40, return_tensors="pt")
        place = slice(starts[number], starts[number + 1])
        assert ids[place].tolist() == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            theirs = model(**inputs, output_hidden_states=True).hidden_states
        for layer, ours in zip((2, 3, 0), states[place].swapaxes(0, 1), strict=True):
            assert ours == pytest.approx(theirs[layer][0].numpy(), abs=1e-5)


def test_an_npy_holds_the_states_alone(encoder: Path, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.txt", 30)
    write_features(encoder, tmp_path / "texts.txt", tmp_path / "out.npz", ":")
    write_features(encoder, tmp_path / "texts.txt", tmp_path / "out.npy", ":")
    mapped = np.load(tmp_path / "out.npy", mmap_mode="r")
    assert (mapped == np.load(tmp_path / "out.npz")["states"]).all()


def test_a_table_is_read_by_its_column(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('tweet,note\n"a b",x\nc,y\n')
    columns = ColumnsConfig(text_column="tweet")
    result = write_features(encoder, tmp_path / "table.csv", tmp_path / "o.npz", "-1", columns)
    with np.load(tmp_path / "o.npz") as found:
        assert found["pieces"].tolist() == ["[CLS]", "a", "b", "[SEP]", "[CLS]", "c", "[SEP]"]
    assert result["columns"] == "text from column 'tweet'"


def test_the_command_takes_a_range_that_begins_with_a_dash(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "texts.txt", 3)
    arguments = ["features", str(encoder), str(tmp_path / "texts.txt")]
    arguments += ["--out", str(tmp_path / "out.npz"), "--layers", "-3:-1", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("chosen", "layers"),
    [
        ("-1", (12,)),
        ("-4:-1", (9, 10, 11, 12)),
        ("0,6,12", (0, 6, 12)),
        ("1:", tuple(range(1, 13))),
        (":2", (0, 1, 2)),
        (":", tuple(range(13))),
        ("-2, 0", (11, 0)),
        ("-13", (0,)),
        ("3:3,3", (3, 3)),
    ],
)
def test_a_range_of_layers_holds_both_its_ends(chosen: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(chosen, 12) == layers


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("", "layers is ''; expected numbers or ranges"),
        ("all", "layers is 'all'; expected numbers or ranges"),
        ("1:2:3", "expected numbers or ranges"),
        ("1 2", "expected numbers or ranges"),
        ("1,,2", "expected numbers or ranges"),
        ("13", "the model has 12 blocks; expected -13 to 12"),
        ("-14:-1", "the model has 12 blocks; expected -13 to 12"),
        ("-1:-4", "'-1:-4' holds none"),
    ],
)
def test_layers_that_are_not_there_are_refused(chosen: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_layers(chosen, 12)


def test_what_cannot_be_written_is_refused(encoder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a\n")
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.npz or \.npy"):
        write_features(encoder, texts, tmp_path / "out.txt", "-1")
    (tmp_path / "out.npz").mkdir()
    with pytest.raises(StorageError, match=r"out\.npz: cannot be written"):
        write_features(encoder, texts, tmp_path / "out.npz", "-1")
    texts.write_text("")
    with pytest.raises(DataError):
        write_features(encoder, texts, tmp_path / "new.npz", "-1")
    assert not (tmp_path / "new.npz").exists()


def test_memory_does_not_grow_with_the_file(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(model: Any, rows: Any, layers: Any) -> Any:
        return np.zeros((sum(map(len, rows)), len(layers), 16), np.float32)

    monkeypatch.setattr(features, "states_of", zeros)
    peaks = []
    for count in (400, 4000):
        write_texts(tmp_path / "texts.txt", count)
        tracemalloc.start()
        result = write_features(encoder, tmp_path / "texts.txt", tmp_path / "out.npz", ":")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert result["tokens"] > 100_000
    assert peaks[1] < peaks[0] + 2_000_000  # the states alone are 30 MB
