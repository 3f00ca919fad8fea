"""Folders of others, of every kind and age, open and answer as they do where they come from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.published import assert_agree, encoder_part, packed, padded
from tests.test_folder import PIECES, SMALL, randomized, same_weights

from bertsmith import load
from bertsmith.config import CasingConfig, ModernBertConfig
from bertsmith.errors import CheckpointError
from bertsmith.folder import load_encoder, load_model, save_model
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.kinds import pretraining_model_of
from bertsmith.model.published import encoder_in
from bertsmith.model.task_heads import BertForClassification
from bertsmith.text.wordpiece import Tokenizer, Vocabulary
from bertsmith.weights_files import PICKLE_FILE, WEIGHTS_FILE, read_weights

MODERN = ModernBertConfig(
    vocab_size=len(PIECES), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=48, max_position_embeddings=64, local_attention=16,
)  # fmt: skip
HEADS = [
    name
    for name in dir(transformers)
    if name.startswith(("BertFor", "ModernBertFor"))
    or name in ("BertModel", "ModernBertModel", "BertLMHeadModel")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    save_model(tmp_path / "model", randomized(BertForPreTraining(SMALL)), tokenizer, {})
    (tmp_path / "model" / "bertsmith.json").unlink()
    return tmp_path / "model"


def written_by_transformers(name: str, tmp_path: Path) -> tuple[Any, Path]:
    """Returns a model of random weights of a class of theirs, and its folder with a vocabulary."""
    tokenizer = Tokenizer(Vocabulary(PIECES), CasingConfig())
    config = MODERN if name.startswith("Modern") else SMALL
    save_model(tmp_path / "start", pretraining_model_of(config), tokenizer, {})
    torch.manual_seed(1)
    made = transformers.AutoConfig.from_pretrained(tmp_path / "start")
    theirs = getattr(transformers, name)(made).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    shutil.copy(tmp_path / "start" / "vocab.txt", tmp_path / "theirs")
    return theirs, tmp_path / "theirs"


def test_there_are_heads_to_open() -> None:
    assert {"BertForNextSentencePrediction", "ModernBertForMultipleChoice"} <= set(HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_that_transformers_writes_opens_and_comes_back(
    name: str, tmp_path: Path
) -> None:
    _, theirs = written_by_transformers(name, tmp_path)
    loaded = load_model(theirs)
    assert same_weights(load_encoder(theirs).model, encoder_in(loaded.model))
    save_model(tmp_path / "ours", loaded.model, loaded.tokenizer, loaded.facts)
    assert same_weights(load_model(tmp_path / "ours").model, loaded.model)


def test_a_next_sentence_head_alone_tells_pairs_apart_as_theirs_does(tmp_path: Path) -> None:
    theirs, folder = written_by_transformers("BertForNextSentencePrediction", tmp_path)
    loaded = load_model(folder)
    assert isinstance(loaded.model, BertForClassification)
    batch = packed([9, 4], SMALL)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        assert_agree(loaded.model.logits(**encoder_part(batch)), theirs(**inputs).logits)
    [found] = load(folder).predict([("the cat sat", "a dog ran")])
    assert found.answer in ("IsNext", "NotNext")


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_language_model_reads_as_its_config_says(is_decoder: bool, tmp_path: Path) -> None:
    _, folder = written_by_transformers("BertLMHeadModel", tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_decoder": is_decoder}))
    theirs = transformers.BertLMHeadModel.from_pretrained(folder).eval()
    ours = load_model(folder).model
    assert isinstance(ours, BertForPreTraining) and ours.config.is_decoder is is_decoder
    batch = packed([9, 4], SMALL)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        scores = ours.logits(**encoder_part(batch), positions=torch.arange(13))
        assert_agree(scores, theirs(**inputs).logits[inputs["attention_mask"].bool()])


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_the_oldest_folders_open(file: str, folder: Path) -> None:
    expected = load_model(folder).model
    old = {}
    for name, tensor in read_weights(folder)[0].items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    old["bert.embeddings.position_ids"] = torch.arange(SMALL.max_position_embeddings)[None]
    table = old["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.weight"] = table  # one storage, two names
    torch.save(old, folder / PICKLE_FILE, _use_new_zipfile_serialization=False)
    config = json.loads((folder / "config.json").read_text())
    for key in ("model_type", "position_embedding_type"):
        config.pop(key)
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.iterdir():
        if path.name not in ("config.json", PICKLE_FILE, file):
            path.unlink()
    assert same_weights(load_model(folder).model, expected)
    assert load_model(folder).tokenizer.casing.do_lower_case


def test_a_bare_encoder_without_prefix_opens_as_a_model_without_heads(folder: Path) -> None:
    expected = load_encoder(folder).model
    bare = {
        name.removeprefix("bert."): tensor
        for name, tensor in read_weights(folder)[0].items()
        if name.startswith("bert.")
    }
    bare["embeddings.position_ids"] = torch.arange(SMALL.max_position_embeddings)[None]
    (folder / WEIGHTS_FILE).unlink()
    torch.save(bare, folder / PICKLE_FILE)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    assert same_weights(load_model(folder).model, expected)


@pytest.mark.parametrize(
    "kind", ["roberta", "distilbert", "gpt2", "albert", "electra", "deberta-v2", "t5", "mpnet", 3]
)
def test_other_kinds_are_refused_by_name(kind: Any, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
    for read in (load_model, load_encoder):
        with pytest.raises(CheckpointError, match=f"model_type is {kind!r}; expected 'bert' or"):
            read(folder)


def test_half_precision_opens_as_it_was_rounded(folder: Path) -> None:
    expected = {name: tensor.half().float() for name, tensor in read_weights(folder)[0].items()}
    half = {name: tensor.half() for name, tensor in read_weights(folder)[0].items()}
    (folder / WEIGHTS_FILE).unlink()
    torch.save(half, folder / PICKLE_FILE)
    model = load_model(folder).model
    found = encoder_in(model).embeddings.pieces.weight
    assert torch.equal(found, expected["bert.embeddings.word_embeddings.weight"])
    assert dataclasses.asdict(model.config) == dataclasses.asdict(SMALL)
