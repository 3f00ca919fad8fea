"""Google's checkpoints: lossless both ways, strict in both, and refused where they cannot hold."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bertsmith.config import BertConfig, CasingConfig, ModernBertConfig
from bertsmith.errors import (
    BertsmithError,
    CheckpointError,
    ConfigError,
    FolderInUseError,
    MissingInputError,
    StorageError,
)
from bertsmith.folder import Loaded, load_model, save_model
from bertsmith.interop.bundle import Bundle, write_bundle
from bertsmith.interop.conversion import convert
from bertsmith.interop.difference import max_abs_difference
from bertsmith.interop.google import (
    PREFIX,
    as_model_folder,
    is_google_checkpoint,
    prefix_of,
    read_google_checkpoint,
    write_google_checkpoint,
)
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern import ModernBert
from bertsmith.model.published import AnyModel
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

PIECES = (*SPECIAL_PIECES, "the", "cat", "sat", "on", "bank", "##s", ".", "river", "no", "paris")
SMALL = BertConfig(
    vocab_size=len(PIECES) + 2,  # Google's embeddings may have rows to spare
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=64,
)
UNCASED = Tokenizer(Vocabulary(PIECES), CasingConfig())
INDEX, DATA = f"{PREFIX}.index", f"{PREFIX}.data-00000-of-00001"


def silent(message: str) -> None:
    """Hears what is said and lets it be."""


def randomized(model: AnyModel) -> Any:
    """Moves every weight, so that no two parameters of one shape are equal."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def loaded(model: AnyModel, tokenizer: Tokenizer = UNCASED) -> Loaded:
    return Loaded(randomized(model), tokenizer, model.config, {})


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    state, others = one.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[n], others[n]) for n in state)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def google(tmp_path: Path) -> Path:
    """Returns the folder of a pre-trained checkpoint of random weights."""
    write_google_checkpoint(loaded(BertForPreTraining(SMALL)), tmp_path / "google")
    return tmp_path / "google"


def tensors_of(folder: Path) -> dict[str, Any]:
    bundle = Bundle(folder / PREFIX)
    return {name: bundle.read(name) for name in bundle.tensors}


def rewrite(folder: Path, tensors: Mapping[str, Any]) -> None:
    write_bundle(folder / PREFIX, sorted(tensors.items(), key=lambda one: one[0].encode()))


# ----------------------------------------------------------------------------------------- trips


@pytest.mark.parametrize(
    "model",
    [
        BertForPreTraining(SMALL),
        BertForPreTraining(SMALL, next_sentence=False),
        BertForClassification(SMALL, 3),
        BertForRegression(SMALL),
        BertForAnswering(SMALL),
        Bert(SMALL),
        Bert(SMALL, with_pooler=False),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_model_goes_and_comes_back_bit_for_bit(model: AnyModel, tmp_path: Path) -> None:
    ours = loaded(model)
    write_google_checkpoint(ours, tmp_path / "one")
    back = read_google_checkpoint(tmp_path / "one", silent)
    assert type(back.model) is type(model) and not back.model.training
    assert same_weights(back.model, ours.model) and back.config == SMALL
    assert back.tokenizer.vocabulary.pieces == PIECES
    assert max_abs_difference(ours, back) == 0.0
    save_model(tmp_path / "folder", back.model, back.tokenizer, back.facts)
    write_google_checkpoint(load_model(tmp_path / "folder"), tmp_path / "two", silent)
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_names_and_layouts_are_those_of_googles_code(google: Path) -> None:
    """Source: the variables that modeling.py and run_pretraining.py make."""
    tensors = tensors_of(google)
    model = read_google_checkpoint(google, silent).model
    assert isinstance(model, BertForPreTraining)
    state = model.state_dict()
    query, key, value = state["encoder.blocks.1.attention.qkv.weight"].chunk(3)
    inner = "bert/encoder/layer_1"
    expected = {
        "bert/embeddings/word_embeddings": state["encoder.embeddings.pieces.weight"],
        "bert/embeddings/token_type_embeddings": state["encoder.embeddings.segments.weight"],
        "bert/embeddings/LayerNorm/gamma": state["encoder.embeddings.norm.weight"],
        f"{inner}/attention/self/query/kernel": query.t(),
        f"{inner}/attention/self/key/kernel": key.t(),
        f"{inner}/attention/self/value/kernel": value.t(),
        f"{inner}/attention/output/LayerNorm/beta": state["encoder.blocks.1.attention_norm.bias"],
        f"{inner}/intermediate/dense/kernel": state["encoder.blocks.1.intermediate.weight"].t(),
        f"{inner}/output/dense/bias": state["encoder.blocks.1.output.bias"],
        "bert/pooler/dense/kernel": state["encoder.pooler.weight"].t(),
        "cls/predictions/transform/dense/kernel": state["masked.dense.weight"].t(),
        "cls/predictions/output_bias": state["masked.bias"],
        "cls/seq_relationship/output_weights": state["next.weight"],
        "cls/seq_relationship/output_bias": state["next.bias"],
    }
    for name, tensor in expected.items():
        assert np.array_equal(tensors[name], tensor.numpy()), name
    assert len(tensors) == 5 + 2 * 16 + 2 + 5 + 2
    assert tensors["cls/seq_relationship/output_weights"].shape == (2, 24)
    assert list(json.loads((google / "bert_config.json").read_text())) == [
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "hidden_act", "hidden_dropout_prob"),
        *("attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
        "initializer_range",
    ]


def test_the_optimizers_own_are_passed_over_and_said(google: Path) -> None:
    tensors = tensors_of(google)
    slots = {f"{name}/adam_{slot}": value for name, value in tensors.items() for slot in "mv"}
    before = read_google_checkpoint(google, silent)
    rewrite(google, {**tensors, **slots, "global_step": np.float32(7)})
    heard: list[str] = []
    assert same_weights(read_google_checkpoint(google, heard.append).model, before.model)
    assert f"{2 * len(tensors) + 1} tensors are the optimizer's and its step" in heard[0]


def test_a_pooler_that_no_head_uses_is_passed_over_and_said(tmp_path: Path) -> None:
    # run_squad.py makes one whatever its head reads.
    write_google_checkpoint(loaded(BertForAnswering(SMALL)), tmp_path / "squad")
    kernel, bias = np.ones((24, 24), np.float32), np.ones(24, np.float32)
    pooler = {"bert/pooler/dense/kernel": kernel, "bert/pooler/dense/bias": bias}
    rewrite(tmp_path / "squad", {**tensors_of(tmp_path / "squad"), **pooler})
    heard: list[str] = []
    found = read_google_checkpoint(tmp_path / "squad", heard.append)
    assert isinstance(found.model, BertForAnswering) and found.facts == {"task": "answer"}
    assert "bert/pooler/dense/kernel and bert/pooler/dense/bias serve no head" in heard[0]


def test_labels_have_numbers_for_names(tmp_path: Path) -> None:
    model = loaded(BertForClassification(SMALL, 3))
    told = dataclasses.replace(model, facts={"task": "classify", "labels": ["a", "b", "c"]})
    heard: list[str] = []
    write_google_checkpoint(told, tmp_path / "google", heard.append)
    assert "has no place for labels; they are left out" in heard[0]
    found = read_google_checkpoint(tmp_path / "google", silent)
    assert found.facts == {"task": "classify", "labels": ["LABEL_0", "LABEL_1", "LABEL_2"]}


def test_what_makes_vectors_of_texts_has_no_place_and_that_is_said(tmp_path: Path) -> None:
    facts = {"pooling": "mean", "normalize": True, "max_length": 20}
    heard: list[str] = []
    told = dataclasses.replace(loaded(Bert(SMALL)), facts=facts)
    write_google_checkpoint(told, tmp_path / "google", heard.append)
    assert "has no place for pooling, normalize, max_length; they are left out" in heard[0]


@pytest.mark.parametrize("cased", [False, True])
def test_casing_is_kept_beside_or_else_guessed_and_said(cased: bool, tmp_path: Path) -> None:
    pieces = (*PIECES[:-1], "Paris") if cased else PIECES
    tokenizer = Tokenizer(Vocabulary(pieces), CasingConfig(do_lower_case=not cased))
    write_google_checkpoint(loaded(Bert(SMALL), tokenizer), tmp_path / "google")
    heard: list[str] = []
    assert read_google_checkpoint(tmp_path / "google", heard.append).tokenizer.casing == (
        tokenizer.casing
    )
    assert not heard
    (tmp_path / "google/tokenizer_config.json").unlink()
    assert read_google_checkpoint(tmp_path / "google", heard.append).tokenizer.casing == (
        tokenizer.casing
    )
    assert ("it is cased" if cased else "taken as uncased") in heard[0]


# ------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bert/pooler/dense/bias": None}, "bert/pooler/dense/bias is missing"),
        ({"bert/more": np.zeros(2, np.float32)}, "bert/more is left over"),
        ({"../../outside": np.zeros(2, np.float32)}, r"\.\./\.\./outside is left over"),
        ({"output_weights": np.zeros((2, 24), np.float32)}, "output_weights is left over"),
        (
            {"bert/pooler/dense/kernel": np.zeros((24, 23), np.float32)},
            r"bert/pooler/dense/kernel has the shape \[24, 23\]; expected \[24, 24\]",
        ),
        (
            {"bert/encoder/layer_1/output/dense/kernel": np.zeros((24, 40), np.float32)},
            r"has the shape \[24, 40\]; expected \[40, 24\]",
        ),
    ],
)
def test_tensors_must_be_exactly_those_of_the_model(
    change: dict[str, Any], reason: str, google: Path
) -> None:
    tensors = tensors_of(google) | change
    rewrite(google, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(CheckpointError, match=reason):
        read_google_checkpoint(google, silent)


@pytest.mark.parametrize(
    ("weights", "bias"), [((3, 24), (2,)), ((24,), (24,)), ((0, 24), (0,)), ((3, 24), None)]
)
def test_a_classifier_that_does_not_fit_itself_is_refused(
    weights: Any, bias: Any, google: Path
) -> None:
    kept = {name: t for name, t in tensors_of(google).items() if not name.startswith("cls")}
    kept["output_weights"] = np.zeros(weights, np.float32)
    if bias is not None:
        kept["output_bias"] = np.zeros(bias, np.float32)
    rewrite(google, kept)
    with pytest.raises(CheckpointError, match="expected a row and a number for each label"):
        read_google_checkpoint(google, silent)


@pytest.mark.parametrize(
    ("setting", "value", "error", "reason"),
    [
        ("num_hidden_layers", 3, CheckpointError, "bert/encoder/layer_2.* missing"),
        ("num_hidden_layers", 10**12, ConfigError, "num_hidden_layers is 1000000000000"),
        ("vocab_size", 10, CheckpointError, "the vocabulary holds 15 pieces but vocab_size"),
        ("hidden_size", 24.5, ConfigError, "hidden_size is 24.5"),
        ("layer_norm_eps", 1e-5, ConfigError, "modeling.py has 1e-12 in it"),
        ("hidden_act", "swish", ConfigError, "hidden_act is 'swish'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    setting: str, value: Any, error: type[Exception], reason: str, google: Path
) -> None:
    path = google / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(error, match=reason):
        read_google_checkpoint(google, silent)


@pytest.mark.parametrize("file", ["bert_config.json", "vocab.txt", DATA])
def test_a_missing_file_is_named(file: str, google: Path) -> None:
    (google / file).unlink()
    with pytest.raises(MissingInputError, match=file):
        read_google_checkpoint(google, silent)


MODERN = ModernBertConfig(
    vocab_size=len(PIECES),
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ModernBert(MODERN), "is a modern encoder"),
        (BertForTagging(SMALL, 3), "has a head that none of its programs knows"),
        (BertForChoice(SMALL), "has a head that none of its programs knows"),
        (BertForClassification(SMALL, 3, several=True), "several labels at once"),
        (Bert(dataclasses.replace(SMALL, hidden_act="gelu_new")), "has hidden_act 'gelu_new'"),
        (Bert(dataclasses.replace(SMALL, layer_norm_eps=1e-5)), "has layer_norm_eps 1e-05"),
        (Bert(dataclasses.replace(SMALL, is_decoder=True)), "has is_decoder True"),
    ],
)
def test_what_googles_code_cannot_hold_is_refused(
    model: AnyModel, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"to tf1: .*{reason}"):
        write_google_checkpoint(loaded(model), tmp_path / "google")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ places and faults


def test_a_checkpoint_is_its_folder_its_prefix_or_its_index(google: Path) -> None:
    for path in (google, google / PREFIX, google / INDEX):
        assert is_google_checkpoint(path) and prefix_of(path) == google / PREFIX
    for path in (google / "vocab.txt", google.parent, google / "absent"):
        assert not is_google_checkpoint(path)
    with pytest.raises(MissingInputError, match="expected a checkpoint's index"):
        prefix_of(google / "absent")
    with pytest.raises(MissingInputError, match="expected a Google checkpoint"):
        prefix_of(google.parent)


def test_one_of_several_checkpoints_is_asked_for(google: Path) -> None:
    for ending in ("index", "data-00000-of-00001"):
        shutil.copy(google / f"{PREFIX}.{ending}", google / f"model.ckpt-20.{ending}")
    with pytest.raises(ConfigError, match=r"holds 2 checkpoints.*model\.ckpt-20"):
        read_google_checkpoint(google, silent)
    assert read_google_checkpoint(google / "model.ckpt-20", silent)


def test_a_model_folder_is_none(google: Path) -> None:
    (google / "config.json").write_text("{}")
    assert not is_google_checkpoint(google)


def test_it_becomes_a_model_folder_once(google: Path, tmp_path: Path) -> None:
    folder = as_model_folder(google, tmp_path / "cache", silent)
    assert same_weights(load_model(folder).model, read_google_checkpoint(google, silent).model)
    written = (folder / "bertsmith.json").stat().st_mtime_ns
    assert as_model_folder(google / PREFIX, tmp_path / "cache", silent) == folder
    assert (folder / "bertsmith.json").stat().st_mtime_ns == written
    tensors = tensors_of(google)
    tensors["cls/predictions/output_bias"] = tensors["cls/predictions/output_bias"] + 1
    rewrite(google, tensors)
    assert as_model_folder(google, tmp_path / "cache", silent) != folder


def test_a_checkpoint_replaces_another_and_nothing_else(google: Path) -> None:
    model = loaded(Bert(SMALL))
    write_google_checkpoint(model, google)
    assert same_weights(read_google_checkpoint(google, silent).model, model.model)
    (google / "notes.txt").write_text("mine")
    with pytest.raises(FolderInUseError, match=r"notes\.txt"):
        write_google_checkpoint(model, google)


def test_a_failed_write_leaves_what_stood(google: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(google)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertsmith.interop.google.write_bundle", fails)
    with pytest.raises(StorageError, match="No space left"):
        write_google_checkpoint(loaded(Bert(SMALL)), google)
    assert content(google) == before and len(list(google.parent.iterdir())) == 1


@pytest.mark.parametrize("file", [INDEX, DATA])
def test_a_cut_file_is_refused(file: str, google: Path) -> None:
    whole = (google / file).read_bytes()
    for length in (0, 4, 8, len(whole) // 2, len(whole) - 1):
        (google / file).write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_google_checkpoint(google, silent)


@pytest.mark.parametrize("file", [INDEX, DATA])
def test_any_flipped_byte_is_refused_or_changes_nothing(file: str, google: Path) -> None:
    expected = read_google_checkpoint(google, silent).model
    whole = (google / file).read_bytes()
    rng = random.Random(0)
    for _ in range(25):
        altered = bytearray(whole)
        altered[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (google / file).write_bytes(altered)
        with suppress(BertsmithError):
            assert same_weights(read_google_checkpoint(google, silent).model, expected)


# ---------------------------------------------------------------------------------------- convert


def test_convert_there_and_back_loses_nothing(tmp_path: Path) -> None:
    ours = loaded(BertForPreTraining(SMALL))
    save_model(tmp_path / "ours", ours.model, ours.tokenizer, {})
    there = convert(tmp_path / "ours", "tf1", tmp_path / "google")
    assert there["max_abs_difference"] == 0.0 and there["out"] == str(tmp_path / "google")
    back = convert(tmp_path / "google", "hf", tmp_path / "back")
    assert back["max_abs_difference"] == 0.0
    weights = [tmp_path / name / "model.safetensors" for name in ("ours", "back")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_difference_is_measured(tmp_path: Path) -> None:
    one, other = loaded(BertForPreTraining(SMALL)), loaded(BertForPreTraining(SMALL))
    assert max_abs_difference(one, other) == 0.0
    assert isinstance(other.model, BertForPreTraining)
    with torch.no_grad():
        other.model.masked.bias[3] += 0.5
    assert max_abs_difference(one, other) == pytest.approx(0.5, abs=1e-6)
    assert max_abs_difference(one, loaded(BertForClassification(SMALL, 3))) == float("inf")


def test_an_unknown_format_is_refused(google: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no format 'tf2'; did you mean 'tf1'"):
        convert(google, "tf2", tmp_path / "out")
