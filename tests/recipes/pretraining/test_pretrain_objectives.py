"""Pre-training with every objective: it runs, says what it measured, and resumes bit for bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers
from tests.recipes.toy_runs import (
    RUN,
    SETTINGS,
    STEPS,
    as_killed_after,
    metrics_of,
    state_of,
    weights_of,
)
from tests.recipes.toy_text import write_text

from bertsmith.cli import main
from bertsmith.config import CorpusConfig, FinetuneConfig, PrepareConfig
from bertsmith.data.shards import open_corpus
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import load_model
from bertsmith.model.heads import BertForPreTraining
from bertsmith.predict import Model
from bertsmith.recipes.evaluate import evaluate
from bertsmith.recipes.finetuning.finetune import finetune
from bertsmith.recipes.pretraining.data import held_out_batches, unigram_loss
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings

NO_TASK = {"sentence_task": "none"}
# name: settings of the examples, settings of the run, figures beside those of pieces, architecture
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, str]] = {
    "words": ({"masked_units": "words"}, {}, True, "BertForPreTraining"),
    "sop": ({"sentence_task": "sop", "masked_units": "spans"}, {}, True, "BertForPreTraining"),
    "none": ({**NO_TASK, "masking": "static"}, {}, False, "BertForMaskedLM"),
    "packed": ({**NO_TASK, "layout": "packed"}, {}, False, "BertForMaskedLM"),
    "lm": ({**NO_TASK, "objective": "lm"}, {}, False, "BertLMHeadModel"),
    "moving": (
        {"final_masked_lm_prob": 0.4},
        {"first_tokens_per_batch": 100, "batch_growth": "linear"},
        True,
        "BertForPreTraining",
    ),
    "packed and growing": (
        {**NO_TASK, "layout": "packed", "final_masked_lm_prob": 0.4, "masked_units": "spans"},
        {"first_tokens_per_batch": 60, "batch_growth": "doubling", "accumulate": 2},
        False,
        "BertForMaskedLM",
    ),
}


def settings_of(kind: str) -> PretrainSettings:
    examples, run, _, _ = KINDS[kind]
    return replace(
        SETTINGS, run=replace(RUN, **run), examples=replace(SETTINGS.examples, **examples)
    )


@pytest.fixture(scope="module", params=list(KINDS))
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path
) -> tuple[str, Path, dict[str, Any]]:
    """Returns a kind, the folder of an unbroken run of it, and its result."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return request.param, out, pretrain([str(toy_corpus)], out, settings_of(request.param))


def test_a_result_tells_what_there_was_to_measure(made: tuple[str, Path, dict[str, Any]]) -> None:
    kind, out, result = made
    _, _, judges_pairs, architecture = KINDS[kind]
    piece_task = "lm" if kind == "lm" else "mlm"
    told = {f"{piece_task}_loss", f"{piece_task}_accuracy", "unigram_loss"}
    told |= {"nsp_loss", "nsp_accuracy"} if judges_pairs else set()
    assert {name for name in result if name.endswith(("loss", "accuracy"))} == told
    for row in metrics_of(out):
        if row["split"] not in ("train", "held_out"):
            continue
        expected = told - ({"unigram_loss"} if row["split"] == "train" else set())
        assert {name for name in row if name.endswith(("loss", "accuracy"))} == expected
    assert result["steps"] == STEPS
    published = json.loads((out / "model/config.json").read_text())
    assert published["architectures"] == [architecture]
    loaded = load_model(out / "model")
    assert isinstance(loaded.model, BertForPreTraining)
    assert (loaded.model.next is not None) == judges_pairs
    opened = transformers.AutoModel.from_pretrained(out / "model")
    assert opened.config.is_decoder == (kind == "lm")


@pytest.mark.parametrize("step", [1, 5, 8, 9, 11])
def test_resumed_after_a_step_a_run_ends_as_the_unbroken_one(
    made: tuple[str, Path, dict[str, Any]], tmp_path: Path, toy_corpus: Path, step: int
) -> None:
    """The steps pass epochs' ends and the turn to the second phase."""
    kind, whole, _ = made
    out = as_killed_after(whole, step, tmp_path / "run")
    pretrain([str(toy_corpus)], out, settings_of(kind), resume=True)
    assert weights_of(out) == weights_of(whole)
    assert metrics_of(out) == metrics_of(whole)
    assert state_of(out) == state_of(whole)


def test_a_model_is_measured_by_what_it_has_learnt(
    made: tuple[str, Path, dict[str, Any]], tmp_path: Path
) -> None:
    kind, out, result = made
    text = write_text(tmp_path / "text.txt", 10, seed=9)
    found = evaluate(out / "model", [str(text)], CorpusConfig())
    loss = "lm_loss" if kind == "lm" else "mlm_loss"
    assert found["perplexity"] == pytest.approx(math.exp(found[loss]))
    assert {name for name in found if name.endswith(("loss", "accuracy"))} == {
        name for name in result if name.endswith(("loss", "accuracy")) and name != "unigram_loss"
    }


def test_a_text_without_a_pair_is_not_measured(tmp_path: Path, toy_corpus: Path) -> None:
    out = tmp_path / "run"
    examples = replace(SETTINGS.examples, sentence_task="sop")
    pretrain(
        [str(toy_corpus)], out, replace(SETTINGS, run=replace(RUN, steps=1), examples=examples)
    )
    (tmp_path / "text.txt").write_text("the\n")
    with pytest.raises(DataError, match="holds no text of two pieces or more"):
        evaluate(out / "model", [str(tmp_path / "text.txt")], CorpusConfig())


def test_growing_batches_grow(made: tuple[str, Path, dict[str, Any]]) -> None:
    kind, out, result = made
    first = settings_of(kind).run.first_tokens_per_batch
    tokens = [state_of(out, step)["stream"]["tokens"] for step in range(1, STEPS + 1)]
    sizes = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
    assert sum(sizes) == result["tokens"]
    assert sizes[0] <= (first or 240) and sizes[-1] > 160
    assert (sizes[0] < 120) == (first is not None)


def test_a_run_begun_before_there_were_objectives_goes_on(
    unbroken_run: Path, tmp_path: Path, toy_corpus: Path
) -> None:
    out = as_killed_after(unbroken_run, 9, tmp_path / "run")
    path = out / "settings.json"
    named = json.loads(path.read_text())
    for name in ("objective", "sentence_task", "layout", "masked_units", "mask_share"):
        del named[name]
    path.write_text(json.dumps(named))
    pretrain([str(toy_corpus)], out, SETTINGS, resume=True)
    assert weights_of(out) == weights_of(unbroken_run)


# ---------------------------------------------------------------------------------- left to right


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory, toy_corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("lm") / "run"
    pretrain([str(toy_corpus)], out, settings_of("lm"))
    return out / "model"


def test_a_short_run_left_to_right_passes_the_unigram_model(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 300)
    settings = replace(
        settings_of("lm"),
        run=replace(
            RUN,
            size="L2-H32",
            steps=100,
            tokens_per_batch=512,
            long_sequence_share=0.0,
            checkpoint_every=100,
            evaluate_every=100,
        ),
    )
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert result["split"] == "held_out"
    assert result["lm_loss"] < 0.7 * result["unigram_loss"]


def test_the_unigram_model_knows_how_often_a_text_ends(toy_corpus: Path) -> None:
    opened = open_corpus(toy_corpus)
    vocabulary = opened.read_tokenizer().vocabulary
    batches = held_out_batches(
        opened, vocabulary, settings_of("lm").examples, most_examples=20, tokens_per_batch=240
    )
    assert not any((batch.piece_ids == vocabulary.mask_id).any() for batch in batches)
    known = unigram_loss(opened, batches, vocabulary.sep_id)
    assert 2.0 < known < math.log(len(vocabulary)) < unigram_loss(opened, batches)


def test_a_language_model_fills_no_masks_and_embeds_by_the_mean(language_model: Path) -> None:
    model = Model(load_model(language_model), str(language_model))
    with pytest.raises(ConfigError, match="reads left to right and has learnt no"):
        model.fill_mask("the cat [MASK] a bird")
    with pytest.raises(ConfigError, match="expected pooling mean"):
        model.embed(["the cat"], pooling="cls")
    assert model.embed(["the cat", "a bird"]).shape == (2, 16)


def test_a_language_model_is_fine_tuned_left_to_right(language_model: Path, tmp_path: Path) -> None:
    rows = [f"the cat sees {what},{label}" for what, label in (("a bird", "x"), ("her fish", "y"))]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows * 20]) + "\n")
    config = FinetuneConfig(epochs=1, max_length=16, threads=1, train_anyway=True)
    finetune("classify", tmp_path / "train.csv", language_model, tmp_path / "run", config)
    assert load_model(tmp_path / "run" / "model").config.is_decoder


# ---------------------------------------------------------------------------------- the user's way


def test_settings_are_flags(
    tmp_path: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        *("--layout", "packed", "--sentence-task", "none", "--masked-units", "spans"),
        *("--mask-share", "0.9", "--random-share", "0.05", "--final-masked-lm-prob", "0.3"),
        *("--first-tokens-per-batch", "64", "--batch-growth", "doubling", "--steps", "3"),
        *("--size", "L1-H16", "--sequence-length", "16", "--tokens-per-batch", "256"),
        *("--long-sequence-length", "32", "--threads", "1", "--json"),
    ]
    assert main(["pretrain", str(toy_corpus), "--out", str(tmp_path / "run"), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 3 and "nsp_loss" not in result
    facts = load_model(tmp_path / "run" / "model").facts
    assert facts["settings"]["masked_units"] == "spans"
    assert facts["settings"]["mask_share"] == 0.9


def test_a_first_batch_smaller_than_a_sequence_is_refused(tmp_path: Path, toy_corpus: Path) -> None:
    settings = replace(SETTINGS, run=replace(RUN, first_tokens_per_batch=10))
    with pytest.raises(ConfigError, match="first_tokens_per_batch is 10; expected at least"):
        pretrain([str(toy_corpus)], tmp_path / "run", settings)


def test_without_text_set_aside_a_language_model_tells_of_its_training(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    settings = replace(settings_of("lm"), prepare=PrepareConfig(workers=1, held_out=0.0))
    result = pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert result["split"] == "train"
    assert set(result) >= {"lm_loss", "lm_accuracy"} and "unigram_loss" not in result
