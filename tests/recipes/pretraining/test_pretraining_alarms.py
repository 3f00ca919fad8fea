"""A run is warned of a plateau once, and of a jump once; stopped and resumed as unbroken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.toy_runs import (
    PREPARE,
    SETTINGS,
    as_killed_after,
    metrics_of,
    settings_with,
)
from tests.recipes.toy_text import write_text

from bertsmith.cli import main
from bertsmith.config import OptimizerConfig, PretrainConfig, WatchConfig
from bertsmith.data.shards import open_corpus
from bertsmith.errors import DivergedError
from bertsmith.recipes.pretraining.alarms import Alarms, objective
from bertsmith.recipes.pretraining.data import unigram_entropy
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.recipes.pretraining.settings import PretrainSettings

WATCH = WatchConfig(plateau_share=0.25, divergence_ratio=2.0)


def train_row(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "split": "train", "mlm_loss": loss, "mlm_accuracy": 0.1}


def told(losses: list[float]) -> list[int]:
    """Returns at which losses, by number, a warning is given."""
    alarms = Alarms(WATCH, PretrainConfig())
    return [n for n, loss in enumerate(losses) if alarms.on_train({"mlm_loss": loss})]


# -------------------------------------------------------------------------------------- laws


def test_a_jump_is_told_once_until_the_loss_was_down_again() -> None:
    assert told([5.0, 5.0, 5.0, 11.0, 12.0, 5.0, 5.0, 11.0]) == [3, 7]


def test_neither_a_start_nor_a_rise_below_the_ratio_is_a_jump() -> None:
    assert told([2.0, 9.0, 2.0, 2.0]) == []
    assert told([5.0, 5.0, 5.0, 9.9, 9.9, 9.9]) == []
    assert told([10.0 - 0.1 * n for n in range(80)]) == []


def test_the_median_runs_with_the_loss() -> None:
    assert told([10.0] * 100 + [4.0] * 100 + [9.0]) == [200]


def test_the_losses_of_every_objective_count_and_the_unigram_models_does_not() -> None:
    row = {"mlm_loss": 5.0, "nsp_loss": 0.5, "mlm_accuracy": 0.3, "unigram_loss": 6.0}
    assert objective(row, {}) == 5.5
    assert objective({"mlm_loss": 5.0}, {}) == 5.0
    assert objective(row, {"nsp_loss": 50.0}) == 30.0


def test_a_plateau_is_told_once_after_its_share_of_the_run() -> None:
    alarms = Alarms(WATCH, PretrainConfig())
    assert alarms.on_plateau(0.2, 6.9, 6.9) is None
    assert alarms.on_plateau(0.3, 6.7, 6.9) is None  # passed
    warning = alarms.on_plateau(0.3, 6.88, 6.9)
    assert warning is not None
    assert "after 30% of the run the loss on masked pieces is 6.880" in warning
    assert "--initialization directed" in warning
    assert alarms.on_plateau(0.9, 6.9, 6.9) is None


def test_what_a_run_does_already_is_not_advised() -> None:
    tried = PretrainConfig(initialization="directed", dropout=0.0)
    warning = Alarms(WATCH, tried).on_plateau(0.3, 6.9, 6.9)
    assert warning is not None
    assert "try a smaller --vocab-size or --size, a lower --learning-rate or a longer" in warning


def test_what_is_known_can_be_told_from_the_rows() -> None:
    losses = [5.0, 5.0, 5.0, 11.0, 12.0, 5.0, 5.0, 11.0, 12.0]
    for cut in range(len(losses)):
        alarms = Alarms.after(
            [train_row(n, loss) for n, loss in enumerate(losses[:cut])], WATCH, PretrainConfig(), {}
        )
        later = [alarms.on_train({"mlm_loss": loss}) for loss in losses[cut:]]
        assert [cut + n for n, warning in enumerate(later) if warning] == [
            n for n in (3, 7) if n >= cut
        ]
    row = {"step": 4, "split": "alarm", "alarm": "plateau", "message": ""}
    assert Alarms.after([row], WATCH, PretrainConfig(), {}).on_plateau(0.9, 6.9, 6.9) is None


# -------------------------------------------------------------------------------------- runs


def still(**watch: Any) -> PretrainSettings:
    """Returns the settings of a run whose rate is next to nothing: it stays where it began."""
    return replace(
        settings_with(evaluate_every=2, log_every=1),
        optimizer=OptimizerConfig(learning_rate=1e-9),
        watch=WatchConfig(**watch),
    )


def alarms_of(run: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["alarm"]) for row in metrics_of(run) if row["split"] == "alarm"]


def test_a_run_that_does_not_learn_says_so(
    tmp_path: Path, toy_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    pretrain([str(toy_corpus)], out, still(plateau_share=0.5))
    assert alarms_of(out) == [(6, "plateau")]
    assert capsys.readouterr().err.count("warning: after 50% of the run") == 1
    assert main(["doctor", str(out)]) == 0
    assert "nothing is learnt from context yet" in capsys.readouterr().out
    again = as_killed_after(out, 8, tmp_path / "again")
    pretrain([str(toy_corpus)], again, still(plateau_share=0.5), resume=True)
    assert metrics_of(again) == metrics_of(out)


def test_without_text_set_aside_the_training_loss_is_judged(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = write_text(tmp_path / "text.txt", 20)
    settings = replace(still(plateau_share=0.5), prepare=replace(PREPARE, held_out=0.0))
    out = tmp_path / "run"
    pretrain([str(text)], out, settings, vocab=toy_vocabulary)
    assert alarms_of(out) == [(6, "plateau")]
    corpus = open_corpus(out / "corpus")
    entropy = unigram_entropy(corpus, corpus.read_tokenizer().vocabulary)
    (row,) = (row for row in metrics_of(out) if row["split"] == "alarm")
    assert f"piece frequencies alone is {entropy:.3f}" in row["message"]


def wild(**watch: Any) -> PretrainSettings:
    """Returns the settings of a run whose rate is a thousand times what it takes, after a rest."""
    return replace(
        settings_with(steps=16, log_every=1, dropout=0.0, checkpoint_every=4),
        optimizer=replace(SETTINGS.optimizer, learning_rate=3.0, warmup=1.0, max_gradient_norm=1e9),
        watch=WatchConfig(divergence_ratio=1.5, **watch),
    )


def test_a_run_that_diverges_is_warned_of_and_goes_on_or_stops(
    tmp_path: Path, toy_corpus: Path
) -> None:
    on, stopped = tmp_path / "on", tmp_path / "stopped"
    assert pretrain([str(toy_corpus)], on, wild())["steps"] == 16
    step, alarm = alarms_of(on)[0]
    assert alarm == "divergence"
    with pytest.raises(DivergedError, match=rf"stopped after step {step}, as stop_at_divergence"):
        pretrain([str(toy_corpus)], stopped, wild(stop_at_divergence=True))
    assert metrics_of(stopped)[-1]["alarm"] == "divergence"
    assert (stopped / "report.html").is_file()
    later = [path.name for path in (stopped / "checkpoints").glob("step-*")]
    assert all(int(name[5:]) < step for name in later)
