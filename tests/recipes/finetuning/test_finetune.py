"""Fine-tuning learns, keeps the best epoch, and can be stopped and gone on with."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tests.tiny import tiny_tokenizer, write_tiny_encoder

from bertsmith.config import (
    BertConfig,
    ColumnsConfig,
    FinetuneConfig,
    OptimizerConfig,
    bert_of_size,
)
from bertsmith.errors import ConfigError, DataError, FolderInUseError, StoppedError
from bertsmith.folder import load_model
from bertsmith.model.task_heads import BertForClassification
from bertsmith.recipes.finetuning import finetune as recipe
from bertsmith.recipes.finetuning import watch
from bertsmith.recipes.finetuning.evaluate_task import evaluate_task
from bertsmith.recipes.finetuning.finetune import finetune, rate_scales, usual_learning_rate
from bertsmith.recipes.finetuning.rows import Rows, read_steps
from bertsmith.tasks.classify import Classify
from bertsmith.tasks.labelled import Example
from bertsmith.text.wordpiece import Tokenizer

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "the", "a", "film", "was", "is", "it"]
WORDS += ["and", "so", "very", "plot", "one", "two"]
FAST = OptimizerConfig(learning_rate=2e-3)
SHORT = FinetuneConfig(epochs=4, batch_size=16, max_length=24, threads=1)


def small_tokenizer() -> Tokenizer:
    return tiny_tokenizer([*WORDS, "1", "2"])


def write_encoder(folder: Path, **changes: Any) -> Path:
    return write_tiny_encoder(folder, [*WORDS, "1", "2"], seed=1, **changes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "model")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def opinions(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts whose label is told by one word among many that tell nothing."""
    rng = Random(seed)
    rows = []
    for number in range(count):
        label = rng.choice(["praise", "blame"])
        words = rng.choices(WORDS[6:], k=rng.randrange(3, 10))
        words.insert(
            rng.randrange(len(words)), rng.choice(WORDS[:3] if label == "praise" else WORDS[3:6])
        )
        rows.append({"id": number, "text": " ".join(words), "label": label})
    return rows


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "train.csv", opinions(300, 0))


def test_a_classifier_learns_and_its_best_epoch_is_kept(
    tmp_path: Path, encoder: Path, labelled: Path
) -> None:
    dev = write_rows(tmp_path / "dev.csv", opinions(100, 1))
    result = finetune("classify", labelled, encoder, tmp_path / "run", SHORT, FAST, dev=dev)
    assert result["scores"]["accuracy"] > 0.95
    assert (result["train_rows"], result["dev_rows"], result["cut_texts"]) == (300, 100, 0)
    assert not result["collapsed"]

    dev_scores = {row["epoch"]: row["dev"] for row in metrics(tmp_path / "run") if "dev" in row}
    assert dev_scores[result["best_epoch"]] == result["scores"]
    assert max(scores["accuracy"] for scores in dev_scores.values()) == result["scores"]["accuracy"]

    best = load_model(tmp_path / "run/best")
    assert isinstance(best.model, BertForClassification)
    assert best.facts["labels"] == ["blame", "praise"]
    assert best.facts["scores"] == result["scores"]
    assert best.facts["columns"] == {"text": "text", "pair": None, "label": "label"}
    again = evaluate_task(tmp_path / "run/best", dev)
    assert {name: again[name] for name in result["scores"]} == pytest.approx(
        result["scores"], abs=1e-6
    )
    assert load_model(tmp_path / "run/model").facts["epoch"] == 4


def test_one_batch_is_learnt_to_nearly_zero_loss(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder")
    rows = opinions(16, 2)
    path = write_rows(tmp_path / "train.csv", rows)
    config = FinetuneConfig(
        epochs=40, batch_size=16, max_length=24, dropout=0.0, threads=1, train_anyway=True
    )
    steep = OptimizerConfig(learning_rate=1e-2)
    finetune("classify", path, encoder, tmp_path / "run", config, steep, dev=path)
    losses = [row["loss"] for row in metrics(tmp_path / "run") if "loss" in row]
    assert losses[0] > 0.6 and losses[-1] < 0.02


@pytest.mark.parametrize("dropout", [FinetuneConfig.dropout, 0.0])
def test_dropout_is_that_of_the_run_and_not_that_of_pre_training(
    tmp_path: Path, labelled: Path, dropout: float
) -> None:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = write_encoder(tmp_path / "encoder", **still)
    config = FinetuneConfig(
        epochs=1, batch_size=90, max_length=24, dropout=dropout, threads=1, restarts=0
    )
    finetune("classify", labelled, encoder, tmp_path / "run", config, FAST)
    best = load_model(tmp_path / "run/best")
    assert isinstance(best.config, BertConfig)
    assert best.config.hidden_dropout_prob == dropout
    assert best.config.attention_probs_dropout_prob == dropout
    ids = torch.arange(5, 25)
    batch = (ids, torch.zeros_like(ids), torch.arange(20), torch.tensor([0, 20]))
    assert isinstance(best.model, BertForClassification)
    best.model.train()
    same = torch.equal(best.model.logits(*batch), best.model.logits(*batch))
    assert same == (dropout == 0.0)


def test_the_order_inside_a_pair_is_learnt(tmp_path: Path, encoder: Path) -> None:
    rng = Random(0)
    rows = []
    for _ in range(400):
        first, second = rng.sample(["one", "two"], 2) if rng.random() < 0.5 else ["one"] * 2
        rows.append({"sentence1": first, "sentence2": second, "label": int(first == second)})
    path = write_rows(tmp_path / "train.csv", rows)
    result = finetune("classify", path, encoder, tmp_path / "run", SHORT, FAST)
    assert result["scores"]["f1"] > 0.95
    assert result["train_rows"] + result["dev_rows"] == 400


def test_a_regressor_learns_in_the_units_of_the_file(tmp_path: Path, encoder: Path) -> None:
    rng = Random(0)
    rows = []
    for _ in range(400):
        words = rng.choices(["good", "bad", "film"], k=6)
        rows.append({"text": " ".join(words), "price": 50_000 + 1000 * words.count("good")})
    path = write_rows(tmp_path / "train.csv", rows)
    config = FinetuneConfig(epochs=8, batch_size=16, max_length=24, threads=1)
    columns = ColumnsConfig(label_column="price")
    result = finetune("regress", path, encoder, tmp_path / "run", config, FAST, columns)
    assert result["scores"]["pearson"] > 0.9
    assert result["scores"]["mse"] < 1000**2 / 2
    again = evaluate_task(tmp_path / "run/best", path)
    assert again["pearson"] > 0.9


def test_equal_settings_give_equal_weights_and_a_stopped_run_goes_on_to_them(
    tmp_path: Path, encoder: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneConfig(epochs=2, batch_size=16, max_length=24, threads=1)
    whole = finetune("classify", labelled, encoder, tmp_path / "whole", config, FAST)

    class Interrupted(watch.Sitting):
        def after_step(self, run: Any, figures: dict[str, float]) -> None:
            if run.step in (5, 20):
                signal.raise_signal(signal.SIGINT)
            super().after_step(run, figures)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "Sitting", Interrupted)
        for resume in (False, True):
            with pytest.raises(StoppedError, match="settings.json --out .* --resume"):
                finetune(
                    "classify", labelled, encoder, tmp_path / "cut", config, FAST, resume=resume
                )
    other = write_rows(tmp_path / "other.csv", opinions(300, 5))
    with pytest.raises(DataError, match="rows are not those that this run was begun with"):
        finetune("classify", other, encoder, tmp_path / "cut", config, FAST, resume=True)
    cut = finetune("classify", labelled, encoder, tmp_path / "cut", config, FAST, resume=True)
    assert cut["scores"] == whole["scores"] and cut["best_epoch"] == whole["best_epoch"]
    for place in ("model", "best"):
        first, second = (
            load_model(tmp_path / run / place).model.state_dict() for run in ("whole", "cut")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_random_weights_keep_the_shape_but_not_what_was_learnt(
    tmp_path: Path, encoder: Path, labelled: Path
) -> None:
    config = FinetuneConfig(epochs=1, batch_size=150, max_length=24, threads=1)
    slow = OptimizerConfig(learning_rate=1e-9)
    embeddings = []
    for random_weights in (False, True):
        out = tmp_path / str(random_weights)
        finetune("classify", labelled, encoder, out, config, slow, random_weights=random_weights)
        model = load_model(out / "model").model
        embeddings.append(model.state_dict()["encoder.embeddings.pieces.weight"])
    learnt = load_model(encoder).model.state_dict()["embeddings.pieces.weight"]
    torch.testing.assert_close(embeddings[0], learnt, atol=1e-6, rtol=0)
    assert (embeddings[1] - learnt).abs().max() > 0.01


def test_every_epoch_holds_each_row_once_in_another_order() -> None:
    tokenizer = small_tokenizer()
    examples = [Example("", " ".join(["good"] * n), label="x") for n in range(1, 41)]
    task = Classify(tuple(str(n) for n in range(40)))
    features = [task.features(example, tokenizer, 64) for example in examples]
    rows = Rows(examples, features, [(n,) for n in range(40)])
    steps = read_steps(task, rows, 16, seed=3, step=0)
    epochs = []
    for _ in range(2):
        labels = [part["labels"] for _ in range(3) for part in next(steps)]
        assert [len(part) for part in labels] == [16, 16, 8]
        epochs.append(torch.cat(labels).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]
    resumed = next(read_steps(task, rows, 16, seed=3, step=4))
    assert resumed[0]["labels"].tolist() == epochs[1][16:32]


def test_a_large_batch_goes_through_in_parts_that_hold_all_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bertsmith.recipes.finetuning.rows.TOKENS_PER_PART", 50)
    tokenizer = small_tokenizer()
    examples = [Example("", " ".join(["good"] * (n % 9)), label="x") for n in range(40)]
    task = Classify(tuple(str(n) for n in range(40)))
    features = [task.features(example, tokenizer, 64) for example in examples]
    rows = Rows(examples, features, [(n,) for n in range(40)])
    parts = next(read_steps(task, rows, 40, seed=0, step=0))
    assert all(len(part["piece_ids"]) <= 50 for part in parts)
    assert sorted(torch.cat([part["labels"] for part in parts]).tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "good", "label": "a"}] * 4, "all 4 training rows have the label 'a'"),
        ([{"text": "good", "label": "a"}, {"text": "", "label": "b"}], r":3: 'text' is empty"),
        ([{"text": "good", "label": "a"}, {"text": "bad", "label": ""}], r":3: the label is empty"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_named_before_training(
    tmp_path: Path, encoder: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = write_rows(tmp_path / "train.csv", rows)
    with pytest.raises(DataError, match=message):
        finetune("classify", path, encoder, tmp_path / "run", SHORT, FAST)


def test_a_dev_label_unseen_in_training_is_named_before_training(
    tmp_path: Path, encoder: Path, labelled: Path
) -> None:
    dev = write_rows(tmp_path / "dev.csv", [{"text": "good", "label": "prais"}])
    with pytest.raises(DataError, match=r"dev\.csv:2: the label 'prais' .*did you mean 'praise'"):
        finetune("classify", labelled, encoder, tmp_path / "run", SHORT, FAST, dev=dev)
    with pytest.raises(DataError, match=r"dev\.csv:2: the label 'prais'"):
        finetune("classify", labelled, encoder, tmp_path / "run", SHORT, FAST)
        evaluate_task(tmp_path / "run/best", dev)


def test_texts_that_are_cut_are_counted_and_settings_that_do_not_fit_are_refused(
    tmp_path: Path, encoder: Path
) -> None:
    rows = opinions(40, 0)
    rows[3]["text"] = "film " * 100
    path = write_rows(tmp_path / "train.csv", rows)
    dev = write_rows(tmp_path / "dev.csv", opinions(20, 1))
    config = FinetuneConfig(epochs=1, max_length=24, threads=1)
    result = finetune("classify", path, encoder, tmp_path / "run", config, FAST, dev=dev)
    assert result["cut_texts"] == 1
    with pytest.raises(ConfigError, match="max_length is 65, but .* reads at most 64"):
        long = FinetuneConfig(max_length=65)
        finetune("classify", path, encoder, tmp_path / "other", long, FAST)
    with pytest.raises(FolderInUseError, match="holds"):
        finetune("classify", path, encoder, tmp_path / "run", config, FAST)
    with pytest.raises(ConfigError, match="no task 'clasify'; did you mean 'classify'"):
        finetune("clasify", path, encoder, tmp_path / "other", config, FAST)


def test_a_model_that_says_the_same_of_every_row_is_called_out(
    tmp_path: Path, encoder: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = FinetuneConfig(epochs=1, batch_size=300, max_length=24, threads=1, restarts=1)
    frozen = OptimizerConfig(learning_rate=1e-12)
    result = finetune("classify", labelled, encoder, tmp_path / "run", config, frozen)
    said = capsys.readouterr().err
    assert result["collapsed"] == ("gives every dev row the same" in said)
    assert result["restarts"] == said.count("is begun again")


def test_a_run_that_learnt_nothing_is_begun_again_with_another_seed(
    tmp_path: Path,
    encoder: Path,
    labelled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first attempt is made to look collapsed; the second has the next seed's weights."""
    config = FinetuneConfig(epochs=1, batch_size=32, max_length=24, threads=1, seed=7)
    scores = watch.Sitting._scores

    def collapsed(self: watch.Sitting, run: Any) -> Any:
        task, found, _ = scores(self, run)
        return task, found, self.standing.restarts == 0

    monkeypatch.setattr(watch.Sitting, "_scores", collapsed)
    result = finetune("classify", labelled, encoder, tmp_path / "run", config, FAST)
    assert result["restarts"] == 1 and not result["collapsed"]
    assert "begun again, with seed 8" in capsys.readouterr().err
    assert [row["step"] for row in metrics(tmp_path / "run") if "dev" in row] == [9]


def test_early_stopping_ends_the_run_after_evaluations_without_a_gain(
    tmp_path: Path, encoder: Path, labelled: Path
) -> None:
    config = FinetuneConfig(
        epochs=5, batch_size=90, max_length=24, threads=1, early_stopping=1, restarts=0
    )
    still = OptimizerConfig(learning_rate=1e-12)
    result = finetune("classify", labelled, encoder, tmp_path / "run", config, still)
    assert result["best_epoch"] == 1
    assert max(row["epoch"] for row in metrics(tmp_path / "run")) == 2


def test_a_frozen_encoder_stays_and_new_top_blocks_are_new(
    tmp_path: Path, encoder: Path, labelled: Path
) -> None:
    config = FinetuneConfig(
        epochs=1, batch_size=90, max_length=24, threads=1, freeze_encoder=True, reinit_layers=1
    )
    finetune("classify", labelled, encoder, tmp_path / "run", config, FAST)
    before = load_model(encoder).model.state_dict()
    after = load_model(tmp_path / "run/model").model.state_dict()
    top = f"blocks.{load_model(encoder).config.num_hidden_layers - 1}."
    for name, tensor in before.items():
        is_new = name.startswith((top, "pooler")) and tensor.ndim > 1
        assert torch.equal(after[f"encoder.{name}"], tensor) != is_new, name
    with pytest.raises(ConfigError, match="reinit_layers is 99, but .* layers"):
        many = FinetuneConfig(max_length=24, reinit_layers=99)
        finetune("classify", labelled, encoder, tmp_path / "many", many, FAST)


def test_rates_fall_from_block_to_block() -> None:
    model = BertForClassification(bert_of_size("L2-H32-A2", vocab_size=20), 2)
    scales = rate_scales(model, FinetuneConfig(layer_decay=0.5), 1e-3)
    assert scales["classifier.weight"] == scales["encoder.pooler.weight"] == 1
    assert scales["encoder.blocks.1.output.weight"] == 0.5
    assert scales["encoder.blocks.0.output.weight"] == 0.25
    assert scales["encoder.embeddings.pieces.weight"] == 0.125
    assert set(scales) == {name for name, _ in model.named_parameters()}


def test_narrow_encoders_have_larger_usual_rates(tmp_path: Path) -> None:
    rates = []
    for width in (128, 384, 768, 1024):
        (tmp_path / "config.json").write_text(json.dumps({"hidden_size": width}))
        rates.append(usual_learning_rate(tmp_path))
    assert rates == [3e-4, 1e-4, 5e-5, 3e-5]
