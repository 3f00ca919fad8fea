"""The fastest engine that agrees is taken, and figures say why; int8 stays within its bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tests.engines.checks import cache
from tests.model.modern_models import TINY as MODERN
from tests.tiny import tiny_tokenizer, write_tiny_encoder

from bertsmith.cli import main
from bertsmith.config import BertConfig, InferenceConfig
from bertsmith.engines import choose as choosing
from bertsmith.errors import ConfigError
from bertsmith.folder import save_model
from bertsmith.model.modern import ModernBert
from bertsmith.model.task_heads import BertForClassification
from bertsmith.predict import load

__all__ = ["cache"]  # a fixture

for library, extra in (("ctranslate2", "ctranslate2"), ("onnxruntime", "onnx")):
    pytest.importorskip(library, reason=f"pip install 'bertsmith[{extra}]'")

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def in_a_moment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_SECONDS", 0.01)


def texts(count: int = 60) -> list[str]:
    rng = Random(count)
    return [" ".join(rng.choices(LETTERS, k=rng.randrange(1, 40))) for _ in range(count)]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_tiny_encoder(tmp_path / "encoder", LETTERS, initializer_range=0.1)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    tokenizer = tiny_tokenizer(LETTERS)
    config = BertConfig(
        vocab_size=len(tokenizer.vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    facts = {
        "task": "classify",
        "labels": ["x", "y", "z"],
        "max_length": 48,
        "columns": {"text": "text", "pair": None, "label": "label"},
    }
    save_model(tmp_path / "classifier", BertForClassification(config, 3), tokenizer, facts)
    return tmp_path / "classifier"


@pytest.mark.parametrize("engine", ["onnxruntime", "ctranslate2", "auto"])
def test_vectors_are_those_of_torch(encoder: Path, engine: str) -> None:
    expected = load(encoder).embed(texts())
    found = load(encoder, engine, sample=texts()).embed(texts())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "ctranslate2"])
def test_an_engine_that_answers_otherwise_is_refused_when_it_is_loaded(
    encoder: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = choosing._MAKERS[engine]

    def wrong(*arguments: object) -> object:
        made = computed(*arguments)  # type: ignore[arg-type]
        right = type(made).__call__
        monkeypatch.setattr(type(made), "__call__", lambda *given: right(*given) + 0.01)
        return made

    monkeypatch.setitem(choosing._MAKERS, engine, wrong)
    with pytest.raises(ConfigError, match=f"engine {engine} does not compute this model as torch"):
        load(encoder, engine)


def test_auto_says_what_it_measured_of_each(encoder: Path) -> None:
    said = load(encoder, "auto", sample=texts()).engine_said
    engines = said["engines"]
    assert set(engines) == {"torch", "onnxruntime", "ctranslate2"}
    assert said["engine"] == max(engines, key=lambda name: engines[name]["texts_per_second"])
    assert 0 < said["choosing_seconds"] < 60
    for name in ("onnxruntime", "ctranslate2"):
        assert engines[name]["max_abs_difference"] <= 1e-4


def test_auto_takes_none_that_disagrees(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "FARTHEST", -1.0)
    said = load(encoder, "auto", sample=texts()).engine_said
    assert said["engine"] == "torch"
    assert "from torch's; expected" in said["engines"]["ctranslate2"]["passed_over"]


def test_auto_names_what_is_not_installed(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    engines = load(encoder, "auto", sample=texts()).engine_said["engines"]
    assert "pip install 'bertsmith[ctranslate2]'" in engines["ctranslate2"]["passed_over"]


def test_auto_leaves_a_modern_encoder_to_torch(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(LETTERS)
    save_model(tmp_path / "modern", ModernBert(MODERN), tokenizer, {})
    said = load(tmp_path / "modern", "auto", sample=texts()).engine_said
    assert said["engine"] == "torch"
    assert "modern encoders" in said["engines"]["onnxruntime"]["passed_over"]


def test_measuring_needs_texts(encoder: Path) -> None:
    with pytest.raises(ConfigError, match="is measured on your texts, and none are given"):
        load(encoder, "auto")


def test_torch_has_no_int8() -> None:
    with pytest.raises(ConfigError, match="precision is int8, which engine torch has not"):
        InferenceConfig(precision="int8")


@pytest.mark.parametrize("engine", ["onnxruntime", "ctranslate2", "auto"])
def test_int8_within_its_bound_is_taken_and_told(encoder: Path, engine: str) -> None:
    model = load(encoder, engine, "int8", int8_bound=0.9, sample=texts())
    told = model.engine_said
    assert told["precision"] == "int8"
    figures = told["engines"][told["engine"]] if engine == "auto" else told
    exact, found = load(encoder).embed(texts()), model.embed(texts())
    cosines = torch.cosine_similarity(torch.from_numpy(exact), torch.from_numpy(found))
    assert figures["mean_cosine"] == pytest.approx(float(cosines.mean()), abs=1e-4)
    assert figures["worst_cosine"] == pytest.approx(float(cosines.min()), abs=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "ctranslate2", "auto"])
def test_int8_beyond_its_bound_is_refused_with_the_number(encoder: Path, engine: str) -> None:
    with pytest.raises(ConfigError, match=r"mean cosine to float32 is 0\.99\d+; expected 1\.0"):
        load(encoder, engine, "int8", int8_bound=1.0, sample=texts())


def test_int8_of_a_classifier_is_judged_by_its_labels(classifier: Path) -> None:
    model = load(classifier, "ctranslate2", "int8", int8_bound=0.5, sample=texts(200))
    exact = load(classifier).predict(texts(200))
    found = model.predict(texts(200))
    equal = np.mean([a.answer == b.answer for a, b in zip(exact, found, strict=True)])
    assert model.engine_said["equal_labels"] == pytest.approx(float(equal))


def test_commands_take_an_engine(
    classifier: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "texts.txt"
    plain.write_text("\n".join(texts()) + "\n")
    labelled = tmp_path / "rows.csv"
    labelled.write_text("text,label\n" + "".join(f"{text},x\n" for text in texts()))
    commands = {
        "embed": ["embed", str(encoder), str(plain), "--out", str(tmp_path / "v.npy")],
        "predict": ["predict", str(classifier), str(labelled), "--out", str(tmp_path / "p.csv")],
        "evaluate": ["evaluate", str(classifier), str(labelled)],
    }
    scores = {}
    for engine in ("torch", "auto", "onnxruntime"):
        for name, command in commands.items():
            assert main([*command, "--engine", engine, "--json"]) == 0
            result = json.loads(capsys.readouterr().out)
            assert ("engine" in result) == (engine != "torch")
            if name == "evaluate":
                scores[engine] = result["accuracy"]
    assert scores["torch"] == scores["auto"] == scores["onnxruntime"]
