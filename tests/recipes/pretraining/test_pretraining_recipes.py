"""What a recipe chooses, what wins over it, and that its runs are resumed bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.toy_runs import (
    SETTINGS,
    STEPS,
    as_killed_after,
    metrics_of,
    settings_with,
    weights_of,
)

from bertsmith.cli import main
from bertsmith.commands.pretraining import COMMANDS
from bertsmith.config import OptimizerConfig, RanksConfig, setting_names
from bertsmith.errors import ConfigError
from bertsmith.flags import Given
from bertsmith.recipes.pretraining.named_recipes import RECIPES, recipe_of
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings, check_settings
from bertsmith.train.place import Place

TOY = ["--size", "L2-H16", "--steps", "6", "--tokens-per-batch", "160", "--sequence-length", "20"]


def chosen(**values: Any) -> dict[str, Any]:
    given = Given(values, "here")
    return dict(given.over(recipe_of(given.values, given.where)).values)


def test_every_choice_of_a_recipe_is_a_setting_of_pretraining() -> None:
    stages = dict(COMMANDS)[COMMANDS[0][0]]
    known = {name for stage in stages for name in setting_names(stage)}
    for recipe in RECIPES.values():
        assert recipe(256).keys() <= known


def test_the_papers_recipe_is_the_published_one() -> None:
    found = chosen()
    assert found == {"learning_rate": 3 * 1e-4, "warmup": 0.1, "bias_correction": False}
    assert chosen(size="base")["learning_rate"] == 1e-4
    assert chosen(recipe="paper", size="large")["learning_rate"] == 1e-4


def test_what_is_given_wins_over_the_recipe() -> None:
    found = chosen(recipe="modern", optimizer="adamw", dropout=0.1)
    assert (found["optimizer"], found["dropout"]) == ("adamw", 0.1)
    assert (found["architecture"], found["sentence_task"]) == ("modern", "none")


def test_an_unknown_recipe_or_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="recipe is 'old'; expected 'paper' or 'modern'"):
        recipe_of({"recipe": "old"}, "here")
    with pytest.raises(ConfigError, match="there is no size 'bse'"):
        recipe_of({"size": "bse"}, "here")


def test_the_modern_recipe_runs_and_is_resumed_bit_for_bit(
    tmp_path: Path, toy_corpus: Path
) -> None:
    command = ["pretrain", str(toy_corpus), "--recipe", "modern", "--checkpoint-every", "1", *TOY]
    command += ["--threads", "1", "--keep-checkpoints", "100", "--evaluate-every", "4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*command, "--out", str(whole)]) == 0
    settings = json.loads((whole / "settings.json").read_text())
    assert (settings["optimizer"], settings["initialization"]) == ("muon", "silent")
    as_killed_after_six(whole, broken, 3)
    assert main([*command, "--out", str(broken), "--resume"]) == 0
    assert weights_of(broken, 6) == weights_of(whole, 6)
    assert metrics_of(broken) == metrics_of(whole)
    again = tmp_path / "again"
    config = str(whole / "settings.json")
    assert main(["pretrain", "--config", config, "--out", str(again)]) == 0
    assert weights_of(again, 6) == weights_of(whole, 6)


def as_killed_after_six(run: Path, out: Path, step: int) -> None:
    shutil.copytree(run, out)
    for later in range(step + 1, 7):
        shutil.rmtree(out / "checkpoints" / f"step-{later:08d}")


@pytest.fixture(scope="module")
def silent_settings() -> PretrainSettings:
    settings = settings_with(initialization="silent", size="L2-H16")
    optimizer = replace(SETTINGS.optimizer, optimizer="muon", schedule="flat", bias_correction=True)
    return replace(settings, optimizer=optimizer)


def test_bert_begins_silent_and_is_moved_by_muon_too(
    tmp_path: Path, toy_corpus: Path, silent_settings: PretrainSettings
) -> None:
    whole = tmp_path / "whole"
    pretrain([str(toy_corpus)], whole, silent_settings)
    assert any(row["gradient_norm"] > 0 for row in metrics_of(whole) if row["split"] == "train")
    broken = as_killed_after(whole, 5, tmp_path / "broken")
    pretrain([str(toy_corpus)], broken, silent_settings, resume=True)
    assert weights_of(broken, STEPS) == weights_of(whole, STEPS)


def test_a_run_is_not_resumed_with_another_optimizer(
    tmp_path: Path, unbroken_run: Path, toy_corpus: Path
) -> None:
    out = as_killed_after(unbroken_run, 4, tmp_path / "run")
    changed = replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, optimizer="muon"))
    with pytest.raises(ConfigError, match="optimizer: 'adamw' -> 'muon'"):
        pretrain([str(toy_corpus)], out, changed, resume=True)


def test_muon_does_not_move_sharded_matrices() -> None:
    settings = replace(
        SETTINGS, optimizer=OptimizerConfig(optimizer="muon"), ranks=RanksConfig(shard_model=True)
    )
    two = Place(rank=0, count=2, local_rank=0, local_count=2)
    with pytest.raises(ConfigError, match="Muon needs whole matrices"):
        check_settings(settings, None, two)
