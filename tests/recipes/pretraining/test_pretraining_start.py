"""Runs that begin with the weights of a model that is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.toy_runs import SETTINGS, STEPS, metrics_of, settings_with, weights_of
from tests.recipes.toy_text import write_text

from bertsmith.cli import main
from bertsmith.config import ModernBertConfig
from bertsmith.errors import ConfigError, DataError
from bertsmith.folder import load_encoder, load_model, save_model
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import encoder_in
from bertsmith.recipes.extend import extend
from bertsmith.recipes.pretraining.model import started_model
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.recipes.pretraining.start import settings_of_start


@pytest.fixture
def start(unbroken_run: Path) -> Path:
    return unbroken_run / "model"


def settings_from(start: Path, **changes: Any) -> PretrainSettings:
    found = settings_of_start(str(start), lambda _: None)
    return settings_with(from_=str(start), **(found | changes))


def test_the_run_begins_with_the_weights_bit_for_bit(start: Path) -> None:
    model = started_model(settings_from(start), lambda said: pytest.fail(said))
    assert model is not None
    expected = load_model(start).model.state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_heads_that_are_not_there_are_drawn_from_the_seed_and_said(
    start: Path, tmp_path: Path
) -> None:
    loaded = load_encoder(start)
    save_model(tmp_path / "bare", encoder_in(loaded.model), loaded.tokenizer, {})
    said: list[str] = []
    settings = settings_from(tmp_path / "bare")
    model = started_model(settings, said.append)
    assert model is not None
    assert any("masked.bias" in line and "drawn anew" in line for line in said)
    again = started_model(settings, said.append)
    assert again is not None
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[f"encoder.{name}"])


def test_a_run_goes_on_where_the_model_stood(start: Path, toy_corpus: Path, tmp_path: Path) -> None:
    fresh = pretrain([str(toy_corpus)], tmp_path / "fresh", settings_with(steps=1))
    result = pretrain([str(toy_corpus)], tmp_path / "on", settings_from(start, steps=1))
    assert result["mlm_loss"] < fresh["mlm_loss"] - 0.1


def test_a_stopped_run_ends_as_the_unbroken_one(
    start: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    pretrain([str(toy_corpus)], tmp_path / "whole", settings_from(start))
    pretrain([str(toy_corpus)], tmp_path / "parts", settings_from(start))
    for step in range(6, STEPS + 1):
        folder = tmp_path / f"parts/checkpoints/step-{step:08d}"
        folder.rename(tmp_path / f"gone-{step}")
    pretrain([str(toy_corpus)], tmp_path / "parts", settings_from(start), resume=True)
    assert weights_of(tmp_path / "parts") == weights_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_raw_text_is_cut_by_the_vocabulary_of_the_model(start: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", 20, seed=3)
    pretrain([str(text)], tmp_path / "run", settings_from(start, steps=1))
    there, here = load_model(start), load_model(tmp_path / "run" / "model")
    assert here.tokenizer.fingerprint == there.tokenizer.fingerprint
    assert not (tmp_path / "run" / "vocab").exists()


def test_the_recipe_for_a_domain_runs_from_words_to_a_model(start: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("thecat\nbirdhouse\n")
    result = extend(start, tmp_path / "words.txt", tmp_path / "extended")
    text = write_text(tmp_path / "text.txt", 20, seed=3)
    status = main(
        ["pretrain", str(text), "--from", str(tmp_path / "extended"), "--out",
         str(tmp_path / "run"), "--steps", "2", "--sequence-length", "20",
         "--long-sequence-share", "0", "--threads", "1", "--workers", "1"]
    )  # fmt: skip
    assert status == 0
    model = load_model(tmp_path / "run" / "model")
    assert model.config.vocab_size == result["vocab_size"]
    assert "birdhouse" in model.tokenizer.vocabulary.ids
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["from_"] == str(tmp_path / "extended")
    assert settings["size"] == "L1-H16-A1"


def test_a_settings_file_may_say_from(start: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f'from = "{start}"\nsteps = 1\nlong-sequence-share = 0\nthreads = 1\nworkers = 1\n'
    )
    text = write_text(tmp_path / "text.txt", 20, seed=3)
    config = ["--config", str(tmp_path / "run.toml")]
    assert main(["pretrain", str(text), *config, "--out", str(tmp_path / "run")]) == 0


def test_contradictions_are_refused(start: Path, toy_corpus: Path, tmp_path: Path) -> None:
    data, out = [str(toy_corpus)], tmp_path / "run"
    for changes, said in (
        ({"size": "L2-H16"}, "leave size and architecture out"),
        ({"initialization": "directed"}, "leave initialization out"),
        ({"long_sequence_length": 4096}, "has positions for 512"),
    ):
        with pytest.raises(ConfigError, match=said):
            pretrain(data, out, settings_from(start, **changes))
    left = replace(settings_from(start), examples=replace(SETTINGS.examples, objective="lm",
                   sentence_task="none"))  # fmt: skip
    with pytest.raises(ConfigError, match="reads in both directions"):
        pretrain(data, out, left)
    with pytest.raises(ConfigError, match="which has a vocabulary of its own"):
        pretrain(data, out, settings_from(start), vocab=start)
    with pytest.raises(ConfigError, match="vocab_size"):
        pretrain([str(write_text(tmp_path / "t.txt", 9))], out, settings_from(start, vocab_size=99))
    assert not out.exists()


def test_a_corpus_of_another_vocabulary_is_refused(
    start: Path, toy_corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("birdhouse\n")
    extend(start, tmp_path / "words.txt", tmp_path / "extended")
    with pytest.raises(DataError, match="tokenizer"):
        pretrain([str(toy_corpus)], tmp_path / "run", settings_from(tmp_path / "extended"))


def test_a_modern_model_goes_on_as_one(start: Path, toy_corpus: Path, tmp_path: Path) -> None:
    loaded = load_model(start)
    config = ModernBertConfig(
        vocab_size=loaded.config.vocab_size, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48, max_position_embeddings=64, local_attention=16,
    )  # fmt: skip
    model = ModernBertForPreTraining(config)
    save_model(tmp_path / "modern", model, loaded.tokenizer, {})
    settings = settings_from(tmp_path / "modern", steps=1)
    alone = replace(settings, examples=replace(SETTINGS.examples, sentence_task="none"))
    pretrain([str(toy_corpus)], tmp_path / "run", alone)
    found = load_model(tmp_path / "run" / "model").config
    for name in ("intermediate_size", "local_attention", "max_position_embeddings"):
        assert getattr(found, name) == getattr(config, name)
    assert found.hidden_size == 32 and not found.is_decoder
