"""CTranslate2 and onnxruntime compute what `transformers` does, from our own weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.engines.checks import (
    LENGTHS,
    cache,
    encoder_and_theirs,
    packed_inputs,
    states_of_theirs,
)
from tests.model.modern_models import TINY as MODERN

from bertsmith.engines.ctranslate2_engine import CTranslate2Engine
from bertsmith.engines.engine import Engine, standing_on
from bertsmith.engines.onnxruntime_engine import OnnxRuntimeEngine
from bertsmith.errors import ConfigError, DataError, MissingInputError, StorageError
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern import ModernBert
from bertsmith.model.task_heads import BertForClassification, BertForTagging

__all__ = ["cache"]  # a fixture

Maker = Callable[..., Engine]
ENGINES: dict[str, Maker] = {"ctranslate2": CTranslate2Engine, "onnxruntime": OnnxRuntimeEngine}


@pytest.fixture(params=list(ENGINES))
def maker(request: pytest.FixtureRequest, cache: Path) -> Maker:
    """Returns each engine in turn, where it is installed."""
    extra = "onnx" if request.param == "onnxruntime" else request.param
    for library in [request.param, "onnx"][: 2 if extra == "onnx" else 1]:
        pytest.importorskip(library, reason=f"pip install 'bertsmith[{extra}]'")
    return ENGINES[request.param]


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_states_are_those_of_transformers(maker: Maker, activation: str) -> None:
    encoder, theirs = encoder_and_theirs(hidden_act=activation, layer_norm_eps=1e-5)
    states = maker(encoder)(*packed_inputs(LENGTHS))
    torch.testing.assert_close(states, states_of_theirs(theirs, LENGTHS), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("lengths", [[1], [40], [5, 5, 5, 5], [1, 40], [3] * 300])
def test_any_batch_comes_back_in_its_order(maker: Maker, lengths: list[int]) -> None:
    encoder, _ = encoder_and_theirs()
    inputs = packed_inputs(lengths)
    with torch.inference_mode():
        expected = encoder(*inputs)
    torch.testing.assert_close(maker(encoder)(*inputs), expected, rtol=1e-5, atol=2e-5)


def test_heads_stand_on_an_engine_as_on_an_encoder(maker: Maker) -> None:
    encoder, _ = encoder_and_theirs()
    models = (
        BertForClassification(encoder.config, 3),
        BertForTagging(encoder.config, 4, num_intents=2),
        BertForTagging(encoder.config, 4, crf=True),
        BertForPreTraining(encoder.config),
    )
    inputs = packed_inputs(LENGTHS)
    for model in models:
        if model.encoder.pooler is not None:
            model.encoder.load_state_dict(encoder.state_dict())
        twin = standing_on(model.eval(), maker(model.encoder))
        more = (torch.tensor([3, 20, 60]),) if isinstance(model, BertForPreTraining) else ()
        with torch.inference_mode():
            found, expected = twin.logits(*inputs, *more), model.logits(*inputs, *more)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
        assert len(model.encoder.blocks) == encoder.config.num_hidden_layers  # it stays as it was


def test_int8_is_near_and_another_thing(maker: Maker) -> None:
    encoder, _ = encoder_and_theirs()
    inputs = packed_inputs(LENGTHS)
    exact, found = maker(encoder)(*inputs), maker(encoder, "int8")(*inputs)
    assert float(torch.cosine_similarity(exact, found).mean()) > 0.99
    assert float((exact - found).abs().max()) > 1e-4


def test_several_threads_may_ask_at_once(maker: Maker) -> None:
    encoder, _ = encoder_and_theirs()
    engine = maker(encoder)
    batches = [packed_inputs(LENGTHS, seed) for seed in range(12)]
    alone = [engine(*batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine(*batch), batches))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected)


def test_left_to_right_onnxruntime_hides_what_comes_later(cache: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'bertsmith[onnx]'")
    encoder, _ = encoder_and_theirs(is_decoder=True)
    inputs = packed_inputs(LENGTHS)
    with torch.inference_mode():
        expected = encoder(*inputs)
    torch.testing.assert_close(OnnxRuntimeEngine(encoder)(*inputs), expected, rtol=1e-5, atol=2e-5)


def test_left_to_right_is_refused_by_ctranslate2(cache: Path) -> None:
    pytest.importorskip("ctranslate2", reason="pip install 'bertsmith[ctranslate2]'")
    encoder, _ = encoder_and_theirs(is_decoder=True)
    with pytest.raises(ConfigError, match="this one reads left to right; expected engine torch"):
        CTranslate2Engine(encoder)


def test_modern_encoders_are_refused_by_name(maker: Maker) -> None:
    with pytest.raises(ConfigError, match="modern encoders.*expected engine torch"):
        maker(ModernBert(MODERN))


def test_what_the_model_does_not_know_is_refused_as_by_torch(maker: Maker) -> None:
    encoder, _ = encoder_and_theirs()
    pieces, segments, positions, starts = packed_inputs([4])
    twin = standing_on(encoder, maker(encoder))
    with pytest.raises(DataError, match="holds piece id 999"):
        twin(pieces.index_fill(0, torch.tensor([2]), 999), segments, positions, starts)


def test_other_layers_are_refused(maker: Maker) -> None:
    encoder, _ = encoder_and_theirs()
    with pytest.raises(ConfigError, match="gives the states of the last layer alone"):
        standing_on(encoder, maker(encoder)).layers(*packed_inputs([4]))


def test_one_conversion_serves_all_runs(maker: Maker, cache: Path) -> None:
    encoder, _ = encoder_and_theirs()
    maker(encoder)
    (folder,) = cache.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    maker(encoder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with torch.no_grad():
        encoder.blocks[0].output.bias[0] += 1  # type: ignore[union-attr,index,operator]
    maker(encoder)
    assert len(list(cache.iterdir())) == 2  # other weights are another model


@pytest.mark.parametrize("damage", ["cut", "altered", "lost", "unlisted"])
def test_a_damaged_conversion_is_made_anew(
    maker: Maker, cache: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, _ = encoder_and_theirs()
    inputs = packed_inputs(LENGTHS)
    expected = maker(encoder)(*inputs)
    (folder,) = cache.iterdir()
    model = next(path for path in folder.iterdir() if path.name.startswith("model"))
    content = model.read_bytes()
    if damage == "cut":
        model.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        model.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "lost":
        model.unlink()
    else:
        (folder / "files.json").write_text("{}")
    torch.testing.assert_close(maker(encoder)(*inputs), expected)
    assert model.read_bytes() == content
    assert f"{folder}: is damaged; it is made anew" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "file" / "cache"))
    encoder, _ = encoder_and_theirs()
    with pytest.raises(StorageError, match="name another folder in BERTSMITH_CACHE"):
        maker(encoder)


@pytest.mark.parametrize(
    ("name", "extra"), [("ctranslate2", "ctranslate2"), ("onnxruntime", "onnx")]
)
def test_an_engine_that_is_not_installed_says_what_to_install(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingInputError, match=rf"pip install 'bertsmith\[{extra}\]'"):
        ENGINES[name](Bert(encoder_and_theirs()[0].config))


def test_a_cached_graph_is_taken_up_without_what_writes_graphs(cache: Path) -> None:
    for library in ("onnxruntime", "onnx"):
        pytest.importorskip(library, reason="pip install 'bertsmith[onnx]'")
    loads = (
        "import sys, torch; from bertsmith.config import BertConfig;"
        "from bertsmith.model.bert import Bert;"
        "from bertsmith.engines.onnxruntime_engine import OnnxRuntimeEngine;"
        "torch.manual_seed(0); OnnxRuntimeEngine(Bert(BertConfig(vocab_size=9, hidden_size=8,"
        "num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)));"
        "print('onnx' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", loads], check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [one.stdout.strip() for one in told] == ["True", "False"]
