"""The modern encoder is trained, resumed, fine-tuned, measured and asked as BERT is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tests.recipes.finetuning.test_finetune import FAST, WORDS, opinions, write_rows
from tests.recipes.finetuning.test_finetune_answer import WORDS as QUESTION_WORDS
from tests.recipes.finetuning.test_finetune_answer import write_questions
from tests.recipes.finetuning.test_finetune_tag import WORDS as TAG_WORDS
from tests.recipes.finetuning.test_finetune_tag import rows_of, write_conll, write_folder
from tests.recipes.toy_runs import (
    SETTINGS,
    STEPS,
    as_killed_after,
    metrics_of,
    settings_with,
    weights_of,
)
from tests.recipes.toy_text import write_text
from tests.tiny import tiny_tokenizer

from bertsmith import load
from bertsmith.config import (
    ColumnsConfig,
    ExamplesConfig,
    FinetuneConfig,
    ModernBertConfig,
    OptimizerConfig,
    PretrainConfig,
    modern_of_size,
)
from bertsmith.errors import ConfigError
from bertsmith.folder import load_model, save_model
from bertsmith.lab.inspection import account
from bertsmith.model.accounting import count_parameters, on_paper, parameters_by_formula
from bertsmith.model.modern import ModernBert
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.recipes.evaluate import evaluate
from bertsmith.recipes.features import write_features
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune, rate_scales
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.tasks.answer import Answer

SHORT = FinetuneConfig(epochs=4, batch_size=16, max_length=24, threads=1)
FASTER = OptimizerConfig(learning_rate=4e-3)
MODERN = replace(
    settings_with(architecture="modern", size="L3-H16", dropout=0.1),
    examples=replace(SETTINGS.examples, sentence_task="none"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("modern") / "run"
    pretrain([str(toy_corpus)], out, MODERN)
    return out


def write_encoder(folder: Path, words: list[str], **shape: object) -> Path:
    tokenizer = tiny_tokenizer(words)
    known = {
        "vocab_size": len(tokenizer.vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "local_attention": 8,
    }
    torch.manual_seed(1)
    config = ModernBertConfig(**(known | shape))  # type: ignore[arg-type]
    save_model(folder, ModernBert(config, with_pooler=False), tokenizer, {})
    return folder


def test_pre_training_learns_and_leaves_a_folder_for_transformers(run: Path) -> None:
    rows = metrics_of(run)
    vocab_size = load_model(run / "model").config.vocab_size
    # Twelve steps are enough to know some pieces for likelier than others.
    held_out = [row for row in rows if row["split"] == "held_out"]
    assert held_out[-1]["mlm_loss"] < math.log(vocab_size) - 0.2
    assert not any("nsp_loss" in row for row in rows)
    loaded = load_model(run / "model")
    assert isinstance(loaded.model, ModernBertForPreTraining)
    assert isinstance(loaded.config, ModernBertConfig) and loaded.config.attention_dropout == 0.1
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        run / "model", output_loading_info=True
    )
    assert type(theirs).__name__ == "ModernBertForMaskedLM" and not report["missing_keys"]


def test_a_resumed_run_ends_with_the_weights_of_the_unbroken_one(
    tmp_path: Path, toy_corpus: Path, run: Path
) -> None:
    killed = as_killed_after(run, 5, tmp_path / "killed")
    result = pretrain([str(toy_corpus)], killed, MODERN, resume=True)
    assert result["steps"] == STEPS and "nsp_loss" not in result
    assert weights_of(killed) == weights_of(run)
    assert metrics_of(killed) == metrics_of(run)
    again = pretrain([str(toy_corpus)], killed, MODERN, resume=True)
    assert again["mlm_loss"] == result["mlm_loss"]


def test_directed_positions_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match="initialization is 'directed'.*has none; choose"):
        PretrainConfig(architecture="modern", initialization="directed")


@pytest.mark.parametrize(
    "examples",
    [
        ExamplesConfig(objective="lm", sentence_task="none"),
        ExamplesConfig(sentence_task="sop"),
    ],
)
def test_what_it_has_no_head_for_is_refused(
    tmp_path: Path, toy_corpus: Path, examples: ExamplesConfig
) -> None:
    settings = replace(settings_with(architecture="modern"), examples=examples)
    with pytest.raises(ConfigError, match="expected --sentence-task none and --objective mlm"):
        pretrain([str(toy_corpus)], tmp_path / "run", settings)


def test_a_pre_trained_folder_fills_embeds_and_is_measured(tmp_path: Path, run: Path) -> None:
    model = load(run / "model")
    [found] = model.fill_mask("the cat sees the [MASK] in the house")
    assert len(found) == 5 and found[0]["probability"] >= found[1]["probability"] > 0
    texts = ["the cat sees the dog", "a bird"]
    vectors = model.embed(texts)
    assert vectors.shape == (2, 16)
    np.testing.assert_allclose(vectors[1], model.embed(texts[1:])[0], rtol=1e-4, atol=1e-5)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(texts))
    result = write_features(run / "model", path, tmp_path / "states.npz", "0:-1")
    states = np.load(tmp_path / "states.npz")["states"]
    assert result["layers"] == [0, 1, 2, 3] and states.shape[1:] == (4, 16)
    np.testing.assert_allclose(states[:7, -1].mean(0), vectors[0], rtol=1e-4, atol=1e-5)
    figures = evaluate(run / "model", [str(write_text(tmp_path / "more.txt", 10, seed=5))])
    assert figures["mlm_loss"] > 0 and "nsp_loss" not in figures


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_classifier_learns(tmp_path: Path, pooling: str) -> None:
    encoder = write_encoder(tmp_path / "encoder", [*WORDS, "1", "2"], classifier_pooling=pooling)
    train = write_rows(tmp_path / "train.csv", opinions(300, 0))
    dev = write_rows(tmp_path / "dev.csv", opinions(100, 1))
    result = finetune("classify", train, encoder, tmp_path / "run", SHORT, FAST, dev=dev)
    assert result["scores"]["accuracy"] > 0.95
    again = evaluate_task(tmp_path / "run/best", dev)
    assert {name: again[name] for name in result["scores"]} == result["scores"]


def test_pairs_are_read_without_segments(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder", [*WORDS, "1", "2"])
    rows = [
        {"text": first, "second": second, "label": "same" if first == second else "other"}
        for first in WORDS[:6]
        for second in WORDS[:6]
    ]
    data = write_rows(tmp_path / "train.csv", rows)
    config = FinetuneConfig(epochs=1, batch_size=16, max_length=24, threads=1, train_anyway=True)
    columns = ColumnsConfig(text_column="text", pair_column="second")
    finetune("classify", data, encoder, tmp_path / "run", config, FAST, columns=columns, dev=data)
    model = load(tmp_path / "run/best")
    assert model.predict([("good", "good")])[0].answer in ("same", "other")


def test_a_tagger_with_intents_learns(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder", TAG_WORDS)
    train = write_folder(tmp_path / "train", rows_of(200, 0))
    dev = write_folder(tmp_path / "dev", rows_of(60, 1))
    result = finetune("tag", train, encoder, tmp_path / "run", SHORT, FASTER, dev=dev)
    assert result["scores"]["f1"] > 0.9 and result["scores"]["intent_accuracy"] > 0.9


def test_a_tagger_without_intents_opens_in_transformers(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder", TAG_WORDS)
    train = write_conll(tmp_path / "train.txt", rows_of(100, 0))
    config = FinetuneConfig(epochs=2, batch_size=16, max_length=24, threads=1, train_anyway=True)
    finetune("tag", train, encoder, tmp_path / "run", config, FASTER, dev=train)
    [ours] = load(tmp_path / "run/best").tag([["ann", "goes", "to", "rome"]])
    theirs = transformers.pipeline("token-classification", model=str(tmp_path / "run/best"))
    found = {answer["word"]: answer["entity"] for answer in theirs("ann goes to rome")}
    words = ("ann", "goes", "to", "rome")
    kinds = {word: tag for word, tag in zip(words, ours.answer, strict=True) if tag != "O"}
    assert {word: tag[2:] for word, tag in found.items()} == {w: t[2:] for w, t in kinds.items()}


def test_answers_are_learnt(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder", QUESTION_WORDS)
    train = write_questions(tmp_path / "train.json", 300, 0, lacking=0.0)
    dev = write_questions(tmp_path / "dev.json", 60, 1, lacking=0.0)
    config = FinetuneConfig(epochs=3, batch_size=16, max_length=40, threads=1)
    result = finetune("answer", train, encoder, tmp_path / "run", config, FASTER, dev=dev)
    assert result["scores"]["f1"] > 90
    assert isinstance(load(tmp_path / "run/best").task, Answer)


def test_the_rate_of_a_layer_falls_with_its_depth(run: Path) -> None:
    from bertsmith.model.task_heads import BertForClassification

    config = load_model(run / "model").config
    scales = rate_scales(BertForClassification(config, 2), FinetuneConfig(layer_decay=0.5), 1e-3)
    assert scales["classifier.weight"] == scales["encoder.pooler.dense.weight"] == 1
    assert scales["encoder.norm.weight"] == 1
    assert scales["encoder.blocks.2.output.weight"] == 0.5
    assert scales["encoder.embeddings.pieces.weight"] == 0.5**4


@pytest.mark.parametrize(
    "config",
    [
        ModernBertConfig(),
        modern_of_size("mini"),
        ModernBertConfig(attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True),
    ],
)
def test_the_formula_is_the_count(config: ModernBertConfig) -> None:
    counts = count_parameters(on_paper(config))
    assert parameters_by_formula(config)["encoder"] == counts["encoder"]
    with torch.device("meta"):
        names = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
        published = transformers.ModernBertConfig(**config.to_mapping(), **dict.fromkeys(names, 0))
        theirs = transformers.ModernBertForMaskedLM(published)
    # Theirs counts the tied weight twice where nothing is drawn.
    tied = sum({id(part): part.numel() for part in theirs.parameters()}.values())
    assert counts["total"] in (tied, tied - config.vocab_size * config.hidden_size)


def test_a_folder_is_accounted_for(run: Path) -> None:
    facts = account(str(run / "model"))
    assert facts["parameters"]["total"] == sum(
        part.numel() for part in load_model(run / "model").model.parameters()
    )
    assert facts["flops_per_token"]["training"] == 3 * facts["flops_per_token"]["inference"]
    assert facts["memory_bytes"]["training"] > facts["memory_bytes"]["inference"] > 0


def test_blocks_have_as_many_weights_as_those_of_bert_of_that_size() -> None:
    config = modern_of_size("base")
    assert config.intermediate_size == 2048
    assert config.block_weights == 12 * 768**2
