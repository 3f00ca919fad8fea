"""Pre-training from text to model folder, stopped and resumed in every way."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.toy_runs import (
    PREPARE,
    RUN,
    SETTINGS,
    STEPS,
    metrics_of,
    settings_with,
)
from tests.recipes.toy_text import write_text

from bertsmith.config import (
    CorpusConfig,
    ExamplesConfig,
    OptimizerConfig,
    PretrainConfig,
    bert_of_size,
)
from bertsmith.data.batches import Position
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.packing import pack
from bertsmith.data.shards import open_corpus
from bertsmith.errors import (
    ConfigError,
)
from bertsmith.folder import load_model
from bertsmith.model.heads import BertForPreTraining
from bertsmith.recipes.evaluate import evaluate
from bertsmith.recipes.pretraining.data import (
    StepStream,
    StreamState,
    held_out_batches,
    phases,
    unigram_loss,
)
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps

# ---------------------------------------------------------------------------------- learning


def test_one_batch_is_learnt_to_nearly_zero_loss(toy_corpus: Path) -> None:
    vocabulary = open_corpus(toy_corpus).read_tokenizer().vocabulary
    examples = PretrainingExamples(
        open_corpus(toy_corpus), vocabulary, ExamplesConfig(sequence_length=20), seed=0
    )
    batch = pack([examples.example(0, index) for index in range(6)]).tensors()
    torch.manual_seed(0)
    model = BertForPreTraining(
        bert_of_size(
            "L2-H32",
            vocab_size=len(vocabulary.pieces),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    config = OptimizerConfig(learning_rate=0.005)
    rows: list[dict[str, float]] = []
    train(
        Run(model, adamw(model, config)),
        iter([[batch]] * 150),
        pace=by_steps(150),
        schedule=warmup_then_decay(config),
        max_gradient_norm=1.0,
        seed=0,
        after_step=lambda run, figures: rows.append(figures),
    )
    assert rows[0]["mlm_loss"] > 3.0
    assert rows[-1]["mlm_loss"] < 0.05
    assert rows[-1]["nsp_loss"] < 0.05


def test_a_short_run_passes_the_unigram_model(tmp_path: Path, toy_vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", 300)
    settings = PretrainSettings(
        run=PretrainConfig(
            size="L2-H32",
            steps=250,
            tokens_per_batch=512,
            long_sequence_share=0.0,
            evaluate_every=250,
            threads=1,
        ),
        examples=ExamplesConfig(sequence_length=32),
        optimizer=OptimizerConfig(learning_rate=0.003, warmup=0.1, bias_correction=False),
        corpus=CorpusConfig(),
        prepare=PREPARE,
    )
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert result["split"] == "held_out"
    assert result["mlm_loss"] < 0.9 * result["unigram_loss"]


@pytest.mark.parametrize("initialization", ["published", "directed"])
def test_attention_begins_as_asked(initialization: str, tmp_path: Path, toy_corpus: Path) -> None:
    settings = replace(
        settings_with(steps=1, initialization=initialization),
        optimizer=OptimizerConfig(learning_rate=1e-9),
    )
    pretrain([str(toy_corpus)], tmp_path / "run", settings)
    loaded = load_model(tmp_path / "run" / "model")
    assert isinstance(loaded.model, BertForPreTraining)
    state = loaded.model.state_dict()
    queries, keys, _ = state["encoder.blocks.0.attention.qkv.weight"].split(16)
    as_queries = bool(torch.allclose(keys, queries, atol=1e-6))
    assert as_queries == (initialization == "directed")


def test_the_result_tells_what_was_done_and_the_model_folder_holds_it(
    unbroken_run: Path, toy_corpus: Path
) -> None:
    """A finished run, when resumed, says its result again."""
    result = pretrain([str(toy_corpus)], unbroken_run, SETTINGS, resume=True)
    assert list(result) == [
        *("steps", "tokens", "seconds", "tokens_per_second", "split"),
        *("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "unigram_loss", "out"),
    ]
    assert result["steps"] == STEPS
    assert 0.7 * 240 * STEPS < result["tokens"] <= 240 * STEPS
    loaded = load_model(unbroken_run / "model")
    assert isinstance(loaded.model, BertForPreTraining)
    assert loaded.facts["scores"]["mlm_loss"] == result["mlm_loss"]
    assert loaded.facts["settings"]["tokens_per_batch"] == 240
    assert loaded.config.max_position_embeddings == 512


def test_a_model_is_measured_on_raw_text(unbroken_run: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 30, seed=9)
    found = evaluate(
        unbroken_run / "model",
        [str(text)],
        CorpusConfig(),
        examples=ExamplesConfig(sequence_length=20),
    )
    assert found["perplexity"] == pytest.approx(math.exp(found["mlm_loss"]))
    assert found["mlm_loss"] < math.log(
        len(read_tokenizer(unbroken_run / "model").vocabulary.pieces)
    )
    assert found["examples"] > 30
    assert found["tokens"] > 10 * found["examples"]


def test_the_unigram_loss_is_that_of_counted_pieces(toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    vocabulary = opened.read_tokenizer().vocabulary
    batches = held_out_batches(
        opened, vocabulary, SETTINGS.examples, most_examples=10, tokens_per_batch=240
    )
    counts = Counter(range(opened.vocab_size))
    for number in range(len(opened.shards("train"))):
        counts.update(opened.open_shard("train", number).pieces.tolist())
    total = sum(counts.values())
    labels = [label for batch in batches for label in batch.tensors()["masked_labels"].tolist()]
    expected = -sum(math.log(counts[label] / total) for label in labels) / len(labels)
    assert unigram_loss(opened, batches) == pytest.approx(expected)


# ---------------------------------------------------------------------------------- phases


def test_the_last_phase_reads_long_sequences_in_batches_as_large(toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    done = 0
    with StepStream(
        opened,
        opened.read_tokenizer().vocabulary,
        RUN,
        SETTINGS.examples,
        phase=lambda: int(done >= 5),
        state=StreamState(),
        device=torch.device("cpu"),
    ) as stream:
        longest = []
        for step in range(8):
            done = step
            (part,) = next(stream)
            longest.append(int(part["sequence_starts"].diff().max()))
            assert 240 * 0.5 < len(part["piece_ids"]) <= 240
    assert longest == [20] * 5 + [40] * 3
    assert stream.state.phase == 1
    assert stream.state.position.epoch == 0


def test_a_cap_on_predictions_grows_with_the_length() -> None:
    """The published commands have 20 predictions in 128 pieces and 80 in 512."""
    first, last = phases(PretrainConfig(), ExamplesConfig(max_predictions_per_seq=20))
    assert (first.sequence_length, first.max_predictions_per_seq) == (128, 20)
    assert (last.sequence_length, last.max_predictions_per_seq) == (512, 80)
    assert len(phases(PretrainConfig(long_sequence_share=0.0), ExamplesConfig())) == 1
    assert len(phases(PretrainConfig(), ExamplesConfig(sequence_length=512))) == 1


def test_a_batch_too_small_for_a_long_sequence_is_refused(tmp_path: Path, toy_corpus: Path) -> None:
    with pytest.raises(ConfigError, match="tokens_per_batch is 30; expected .* sequence's 40"):
        pretrain([str(toy_corpus)], tmp_path / "run", settings_with(tokens_per_batch=30))


def test_a_run_by_the_clock_ends_on_time_with_its_rate_at_zero(
    tmp_path: Path, toy_corpus: Path
) -> None:
    settings = settings_with(steps=None, budget="2s", checkpoint_every=10_000, log_every=1)
    started = time.monotonic()
    result = pretrain([str(toy_corpus)], tmp_path / "run", settings)
    assert time.monotonic() - started < 20
    rows = [row for row in metrics_of(tmp_path / "run") if row["split"] == "train"]
    assert result["seconds"] >= 1.5  # what is left is for the end: to evaluate and to save
    assert result["steps"] == len(rows) > 5
    assert rows[-1]["learning_rate"] < 0.1 * SETTINGS.optimizer.learning_rate
    again = pretrain([str(toy_corpus)], tmp_path / "run", settings, resume=True)
    assert again["steps"] == result["steps"]


def test_by_default_a_run_is_one_epoch(tmp_path: Path, toy_corpus: Path) -> None:
    pieces = open_corpus(toy_corpus).total("train").pieces
    result = pretrain([str(toy_corpus)], tmp_path / "run", settings_with(steps=None))
    assert result["steps"] == round(pieces / 240)


# ---------------------------------------------------------------------------------- raw text


def test_raw_text_is_prepared_once_inside_the_run(tmp_path: Path, toy_vocabulary: Path) -> None:
    text = write_text(tmp_path / "text.txt", 40)
    out = tmp_path / "run"
    pretrain([str(text)], out, settings_with(steps=3), vocab=toy_vocabulary)
    assert open_corpus(out / "corpus").total("train").documents > 20
    text.unlink()  # what is prepared needs the text no more
    result = pretrain([str(text)], out, settings_with(steps=5), vocab=toy_vocabulary, resume=True)
    assert result["steps"] == 5


def with_room(**changes: Any) -> PretrainSettings:
    """Returns settings under which two sentences of so many pieces find room in an example."""
    return replace(settings_with(**changes), examples=ExamplesConfig(sequence_length=40))


def test_from_text_alone_a_vocabulary_is_learnt_first(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 40)
    out = tmp_path / "run"
    pretrain([str(text)], out, with_room(steps=2, vocab_size=60))
    assert len(read_tokenizer(out / "vocab").vocabulary.pieces) <= 60
    assert read_tokenizer(out / "model").decode([5]) == read_tokenizer(out / "vocab").decode([5])
    with pytest.raises(ConfigError, match="vocab_size is given, but .* vocabulary of its own"):
        pretrain([str(out / "corpus")], tmp_path / "other", settings_with(vocab_size=60))


def test_a_cased_vocabulary_is_learnt_on_request(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 60)
    settings = with_room(steps=2, vocab_size=60, cased=True)
    pretrain([str(text)], tmp_path / "run", settings)
    tokenizer = read_tokenizer(tmp_path / "run/model")
    assert not tokenizer.casing.do_lower_case
    assert any(piece[0].isupper() for piece in tokenizer.vocabulary.pieces)


@pytest.mark.parametrize("given", ["corpus", "vocab"])
def test_a_vocabulary_of_another_case_than_asked_for_is_refused(
    tmp_path: Path, toy_corpus: Path, toy_vocabulary: Path, given: str
) -> None:
    text = write_text(tmp_path / "text.txt", 10)
    source, vocab = (toy_corpus, None) if given == "corpus" else (text, toy_vocabulary)
    with pytest.raises(ConfigError, match=r"cased is True, but the vocabulary of .* is uncased;"):
        pretrain([str(source)], tmp_path / "run", settings_with(cased=True), vocab=vocab)
    assert not (tmp_path / "run/corpus").exists()


def test_without_text_set_aside_the_figures_are_those_of_training(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    settings = replace(settings_with(steps=3), prepare=replace(PREPARE, held_out=0.0))
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert result["split"] == "train"
    assert result["mlm_loss"] > 0
    assert "unigram_loss" not in result
    assert load_model(tmp_path / "run" / "model").facts["step"] == 3


def test_the_position_of_a_stream_survives_json() -> None:
    state = StreamState(phase=1, position=Position(epoch=3, index=17), tokens=99)
    assert StreamState.from_mapping(json.loads(json.dumps(state.to_mapping()))) == state
