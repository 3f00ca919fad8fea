"""The folder of a modern encoder: opened by `transformers`, and theirs opened here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.model.modern_models import (
    FULL,
    TINY,
    batch_of,
    inputs_of,
    randomized,
    theirs_like,
)
from tests.model.published import assert_agree, encoder_part
from torch import nn

from bertsmith import load
from bertsmith.config import BertConfig, CasingConfig, ModernBertConfig
from bertsmith.errors import CheckpointError, DataError
from bertsmith.folder import load_encoder, load_model, save_model, write_tokenizer
from bertsmith.model.modern import ModernBert
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import AnyModel, encoder_in
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "##s", "##ed"]
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
SMALL = dataclasses.replace(TINY, vocab_size=len(PIECES))
BIASED = dataclasses.replace(FULL, vocab_size=len(PIECES))
FACTS = {"labels": ["yes", "no", "maybe"], "intents": ["go", "stop"]}
LENGTHS = [9, 4, 50]
each_config = pytest.mark.parametrize("config", [SMALL, BIASED], ids=["small", "biased"])


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary(PIECES), CasingConfig())


def models_of(config: ModernBertConfig) -> list[AnyModel]:
    return [
        ModernBertForPreTraining(config),
        ModernBert(config),
        ModernBert(config, with_pooler=False),
        BertForClassification(config, 3),
        BertForClassification(config, 3, several=True),
        BertForRegression(config),
        BertForTagging(config, 3),
        BertForTagging(config, 3, num_intents=2),
        BertForAnswering(config),
        BertForChoice(config),
        BertForTagging(config, 3, crf=True),
    ]


def same_weights(ours: nn.Module, other: nn.Module) -> bool:
    state, others = ours.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[n], others[n]) for n in state)


@each_config
@pytest.mark.parametrize("number", range(11))
def test_a_model_comes_back_bit_for_bit(
    config: ModernBertConfig, number: int, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(models_of(config)[number])
    save_model(tmp_path / "model", model, tokenizer, FACTS)
    loaded = load_model(tmp_path / "model")
    assert type(loaded.model) is type(model) and not loaded.model.training
    assert loaded.config == config
    assert same_weights(loaded.model, model)
    assert same_weights(load_encoder(tmp_path / "model").model, encoder_in(model))


@each_config
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "AutoModelForMaskedLM"),
        (2, "AutoModel"),
        (3, "AutoModelForSequenceClassification"),
        (5, "AutoModelForSequenceClassification"),
        (6, "AutoModelForTokenClassification"),
        (8, "AutoModelForQuestionAnswering"),
        (9, "AutoModelForMultipleChoice"),
    ],
)
def test_transformers_opens_our_folder_with_equal_answers(
    config: ModernBertConfig, number: int, name: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    model = randomized(models_of(config)[number]).eval()
    save_model(tmp_path / "model", model, tokenizer, FACTS)
    theirs, report = getattr(transformers, name).from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    if name.endswith("Choice"):
        inputs = {part: ids[None] for part, ids in inputs.items()}
    with torch.no_grad():
        expected = theirs.eval()(**inputs)
        ours = answers_of(model, batch)
    found = expected[0]
    if name.endswith("Choice"):
        found = found.view(-1, 1)
    elif name.endswith("Answering"):
        found = torch.stack([expected.start_logits, expected.end_logits], -1)
    assert_agree(ours, found[used] if found.ndim == 3 else found)


def answers_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    part = encoder_part(batch)
    if isinstance(model, ModernBert):
        return model(**part)
    if isinstance(model, ModernBertForPreTraining):
        return model.logits(**part, positions=torch.arange(len(batch["piece_ids"])))
    answers: torch.Tensor = model.logits(**part)
    return answers


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_pipelines_of_transformers_give_the_same_answers(
    pooling: Any, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    config = dataclasses.replace(SMALL, classifier_pooling=pooling)
    task = {"task": "classify", "labels": FACTS["labels"]}
    classifier = randomized(BertForClassification(config, 3))
    save_model(tmp_path / "classifier", classifier, tokenizer, task)
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "classifier"))
    [ours] = load(tmp_path / "classifier").predict(["the dog ran"])
    theirs = {answer["label"]: answer["score"] for answer in classify("the dog ran", top_k=None)}
    assert theirs == pytest.approx(ours.probabilities, rel=1e-5)
    filler = randomized(ModernBertForPreTraining(config))
    save_model(tmp_path / "filler", filler, tokenizer, {})
    fill = transformers.pipeline("fill-mask", model=str(tmp_path / "filler"), device="cpu")
    [found] = load(tmp_path / "filler").fill_mask("The cats [MASK] on a mat", top=4)
    expected = fill("The cats [MASK] on a mat", top_k=4)
    assert [answer["token_str"] for answer in expected] == [each["piece"] for each in found]
    assert [answer["score"] for answer in expected] == pytest.approx(
        [each["probability"] for each in found], rel=1e-5
    )


def write_theirs(folder: Path, theirs: Any, tokenizer: Tokenizer) -> None:
    """Writes a folder with nothing in it but what `transformers` itself writes."""
    theirs.save_pretrained(folder)
    write_tokenizer(folder.parent / "vocab", tokenizer)
    (folder.parent / "vocab" / "config.json").write_text('{"model_type": "bert"}')
    transformers.AutoTokenizer.from_pretrained(folder.parent / "vocab").save_pretrained(folder)
    assert not (folder / "vocab.txt").exists()


@each_config
@pytest.mark.parametrize("kind", ["ForMaskedLM", "Model", "ForTokenClassification"])
def test_folders_that_transformers_wrote_are_read_and_given_back_bit_for_bit(
    config: ModernBertConfig, kind: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    theirs = randomized(getattr(transformers, f"ModernBert{kind}")(theirs_like(config)))
    write_theirs(tmp_path / "theirs", theirs, tokenizer)
    loaded = load_model(tmp_path / "theirs")
    assert loaded.config == config
    assert loaded.tokenizer.vocabulary.pieces == PIECES
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    with torch.no_grad():
        expected = theirs.eval()(**inputs)[0][inputs["attention_mask"].bool()]
        assert_agree(answers_of(loaded.model, batch), expected)
    save_model(tmp_path / "again", loaded.model, loaded.tokenizer, loaded.facts)
    again = type(theirs).from_pretrained(tmp_path / "again")
    assert same_weights(again, theirs)


def test_the_older_form_of_a_published_config_says_the_same(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    save_model(tmp_path / "model", ModernBert(BIASED), tokenizer, {})
    path = tmp_path / "model" / "config.json"
    (tmp_path / "model" / "bertsmith.json").unlink()
    published = json.loads(path.read_text())
    for newer in ("layer_types", "rope_parameters"):
        del published[newer]
    path.write_text(json.dumps(published))
    assert load_model(tmp_path / "model").config == BIASED
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert theirs.layer_types == theirs_like(BIASED).layer_types
    assert theirs.rope_parameters == theirs_like(BIASED).rope_parameters


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tie_word_embeddings", False, "tie_word_embeddings is False; expected True"),
        ("layer_types", ["sliding_attention"] * 5, "expected full_attention in the first and in"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "positions that are scaled"),
        (
            "rope_parameters",
            {"full_attention": {"rope_type": "yarn", "factor": 2.0}},
            "rope_type of full_attention is 'yarn'",
        ),
        ("model_type", "roberta", "model_type is 'roberta'; expected 'bert' or 'modernbert'"),
    ],
)
def test_what_would_give_other_answers_is_refused(
    key: str, value: Any, message: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    save_model(tmp_path / "model", ModernBert(SMALL), tokenizer, {})
    (tmp_path / "model" / "bertsmith.json").unlink()
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "model")


def test_missing_and_left_over_tensors_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from safetensors.torch import load_file, save_file

    save_model(tmp_path / "model", ModernBertForPreTraining(SMALL), tokenizer, {})
    (tmp_path / "model" / "bertsmith.json").unlink()
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.attn_norm.weight"] = tensors.pop("model.final_norm.weight")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError,
        match=r"model\.final_norm\.weight is missing and model\.layers\.0\.attn_norm\.weight is l",
    ):
        load_model(tmp_path / "model")


def test_an_encoder_for_fine_tuning_has_the_rate_of_dropout_that_is_asked_for(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    save_model(tmp_path / "model", ModernBertForPreTraining(SMALL), tokenizer, {})
    config = load_encoder(tmp_path / "model", dropout=0.25).config
    assert isinstance(config, ModernBertConfig)
    rates = (config.embedding_dropout, config.attention_dropout, config.mlp_dropout)
    assert rates == (0.25,) * 3 and config.head_dropout == 0.25


def test_a_vocabulary_of_another_kind_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_model(tmp_path / "model", ModernBert(SMALL), tokenizer, {})
    for name in ("bertsmith.json", "vocab.txt"):
        (tmp_path / "model" / name).unlink()
    path = tmp_path / "model" / "tokenizer.json"
    table = json.loads(path.read_text())
    table["model"]["type"] = "BPE"
    path.write_text(json.dumps(table))
    with pytest.raises(DataError, match="model.type is 'BPE'; expected 'WordPiece'"):
        load_model(tmp_path / "model")


def test_a_bert_folder_is_no_modern_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_model(tmp_path / "model", ModernBert(SMALL), tokenizer, {})
    (tmp_path / "model" / "bertsmith.json").unlink()
    path = tmp_path / "model" / "config.json"
    shape = BertConfig(vocab_size=len(PIECES)).to_mapping()
    path.write_text(json.dumps(shape | {"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(CheckpointError, match="missing"):
        load_model(tmp_path / "model")
