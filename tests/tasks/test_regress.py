"""Numbers are learnt in their own scale, and what is no number is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertsmith.config import BertConfig, TaskConfig
from bertsmith.data.framing import Framed
from bertsmith.errors import DataError
from bertsmith.tasks.forms import Features, Prediction
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.regress import Regress

TINY = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)

INPUTS = ("piece_ids", "segment_ids", "position_ids", "sequence_starts")


def rows(*labels: str) -> list[Example]:
    return [Example(f"train.csv:{n}", "text", None, label) for n, label in enumerate(labels, 2)]


def test_labels_are_scaled_to_mean_zero_and_deviation_one() -> None:
    examples = rows("100000", "150000.0", "2e5", "-5")
    task = Regress.learn(examples, TaskConfig())
    scaled = torch.tensor(
        [task.target(example, Features(())) for example in examples], dtype=torch.float64
    )
    assert scaled.mean().item() == pytest.approx(0, abs=1e-12)
    assert scaled.std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize("label", ["good", "1,5", "nan", "inf", "1_000", "--1"])
def test_what_is_no_number_is_named_with_its_row(label: str) -> None:
    with pytest.raises(DataError, match="train.csv:3: .* is no number"):
        Regress.learn(rows("1", label), TaskConfig())


def test_no_rows_or_one_number_only_cannot_be_learnt() -> None:
    with pytest.raises(DataError, match="no rows"):
        Regress.learn([], TaskConfig())
    with pytest.raises(DataError, match="all 2 training rows have the number 3"):
        Regress.learn(rows("3", "3.0"), TaskConfig())


def test_a_model_for_use_answers_in_the_units_of_the_file() -> None:
    torch.manual_seed(0)
    task = Regress(mean=2.5, deviation=40.0)
    model = task.head(TINY).eval()
    batch = {
        "piece_ids": torch.tensor([1, 2, 3, 4, 5]),
        "segment_ids": torch.zeros(5, dtype=torch.int64),
        "position_ids": torch.tensor([0, 1, 2, 0, 1]),
        "sequence_starts": torch.tensor([0, 3, 5], dtype=torch.int32),
    }
    with torch.inference_mode():
        scaled = model.logits(**batch)
        ready = task.for_use(model)
        answers = [
            task.decode(rows("1")[0], Features(()), [row]).answer for row in ready.logits(**batch)
        ]
    assert answers == pytest.approx((scaled.squeeze(1) * 40 + 2.5).tolist(), rel=1e-5)
    assert ready.encoder is model.encoder
    assert not ready.training


def test_predictions_are_scored_in_the_units_of_the_file() -> None:
    task = Regress(mean=2.5, deviation=40.0)
    scorer = task.scorer()
    for example, answer in zip(rows("1", "2", "4"), (1.0, 2.0, 3.0), strict=True):
        scorer.add(example, Prediction(answer))
    scores = scorer.scores()
    assert scores["mse"] == pytest.approx(1 / 3)
    assert scores["spearman"] == pytest.approx(1.0)


def test_windows_of_one_text_count_as_one_row() -> None:
    part = Framed(np.array([1, 2], np.int32), np.zeros(2, np.int32), False)
    batch = Regress().collate([Features((part,)), Features((part, part))], [0.5, -1.0])
    assert batch["labels"].tolist() == [0.5, -1.0, -1.0]
    assert batch["label_weights"].tolist() == [1.0, 0.5, 0.5]
    torch.manual_seed(0)
    model = Regress().head(TINY).eval()
    found = model(**batch)["loss"] / model.counts(**batch)["loss"]
    numbers = model.logits(**{name: batch[name] for name in INPUTS}).squeeze(1)
    squares = (numbers - batch["labels"]).square()
    assert found.item() == pytest.approx(((squares[0] + squares[1:].mean()) / 2).item(), rel=1e-5)
