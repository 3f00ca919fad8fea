"""The heads: logits, losses and gradients against `transformers`, and what they count."""

from __future__ import annotations

import pytest
import torch
from tests.model.published import (
    EXACT,
    LENGTHS,
    TINY,
    assert_agree,
    encoder_part,
    packed,
    padded,
    pair,
)
from torch.nn import functional as F

from bertsmith.errors import DataError
from bertsmith.model import heads
from bertsmith.model.heads import BertForPreTraining, piece_loss
from bertsmith.model.names import to_published


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_agree_with_transformers_on_a_ragged_batch(attention: str) -> None:
    ours, theirs = pair(TINY, attention)
    batch = packed(LENGTHS, TINY)
    inputs = padded(batch)
    with torch.no_grad():
        expected = theirs.eval()(**inputs)
        everywhere = torch.arange(len(batch["piece_ids"]))
        logits = ours.eval().logits(**encoder_part(batch), positions=everywhere)
        next_logits = ours.next_logits(**encoder_part(batch))
    used = inputs["attention_mask"].bool()
    assert_agree(logits, expected.prediction_logits[used])
    assert_agree(next_logits, expected.seq_relationship_logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 4, [11]])
def test_loss_and_gradients_agree_with_transformers(attention: str, lengths: list[int]) -> None:
    ours, theirs = pair(EXACT, attention)
    batch = packed(lengths, EXACT)
    loss = theirs.train()(**padded(batch)).loss
    loss.backward()
    sums = ours.train()(**batch)
    counts = ours.counts(**batch)
    objective = sum(sums[name] / counts[name] for name in sums if name.endswith("loss"))
    assert isinstance(objective, torch.Tensor)
    objective.backward()
    assert_agree(objective, loss)
    gradients = {name: value.grad for name, value in ours.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    expected = {name: value.grad for name, value in theirs.named_parameters()}
    for name, gradient in to_published(
        {n: g for n, g in gradients.items() if g is not None}
    ).items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        # A key's bias shifts all of a token's scores alike: its gradient is 0 but for rounding.
        if not name.endswith("key.bias"):
            assert error < 1e-5, name


def test_accuracies_count_right_answers() -> None:
    ours, theirs = pair(TINY)
    batch = packed(LENGTHS, TINY)
    inputs = padded(batch)
    with torch.no_grad():
        sums = ours.eval()(**batch)
        expected = theirs.eval()(**inputs)
    masked = inputs["labels"] != -100
    right = expected.prediction_logits.argmax(-1)[masked] == inputs["labels"][masked]
    assert sums["mlm_accuracy"].item() == right.sum().item()
    next_right = expected.seq_relationship_logits.argmax(-1) == batch["next_labels"]
    assert sums["nsp_accuracy"].item() == next_right.sum().item()
    assert ours.counts(**batch) == {
        "mlm_loss": len(batch["masked_positions"]),
        "mlm_accuracy": len(batch["masked_positions"]),
        "nsp_loss": len(LENGTHS),
        "nsp_accuracy": len(LENGTHS),
    }


def test_without_next_sentence_the_model_is_masked_language_modelling_alone() -> None:
    model = BertForPreTraining(TINY, next_sentence=False)
    batch = packed([9, 6], TINY)
    assert set(model(**batch)) == {"mlm_loss", "mlm_accuracy"} == set(model.counts(**batch))
    del batch["next_labels"]
    assert set(model(**batch)) == {"mlm_loss", "mlm_accuracy"}


def test_a_batch_without_next_labels_is_refused_where_they_are_needed() -> None:
    batch = packed([9, 6], TINY)
    del batch["next_labels"]
    with pytest.raises(DataError, match="no next_labels"):
        BertForPreTraining(TINY)(**batch)


@pytest.mark.parametrize("pieces", [1, 10, 50, 101, 500])
def test_piece_loss_is_cross_entropy_for_any_block(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_BLOCK_LOGITS", 1)
    monkeypatch.setattr(heads, "_FEWEST_PIECES", pieces)
    rng = torch.Generator().manual_seed(0)
    states, weight, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64)
        for shape in ((13, 8), (101, 8), (101,))
    )
    states *= 30  # shares down to 1e-200
    inputs = [tensor.requires_grad_() for tensor in (states, weight, bias)]
    labels = torch.randint(0, 101, (13,), generator=rng)
    loss, correct = piece_loss(states, weight, bias, labels)
    logits = F.linear(states, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert correct.item() == (logits.argmax(1) == labels).sum().item()
    ours = torch.autograd.grad(loss / 7, inputs)
    theirs = torch.autograd.grad(expected / 7, inputs)
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_piece_loss_is_finite_where_the_right_piece_has_no_share_at_all() -> None:
    states = torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([[500.0, 0.0], [-500.0, 0.0]])
    loss, _ = piece_loss(states, weight, torch.zeros(2), torch.tensor([1]))
    assert loss.item() == 1000


def test_piece_loss_of_no_masked_piece_is_zero() -> None:
    weight, bias = torch.randn(5, 3), torch.zeros(5)
    loss, correct = piece_loss(torch.empty(0, 3), weight, bias, torch.empty(0, dtype=torch.int64))
    assert loss.item() == 0 and correct.item() == 0


def test_one_batch_is_learnt_to_nearly_no_loss() -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(EXACT)
    batch = packed([20, 12, 30], EXACT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(120):
        sums, counts = model(**batch), model.counts(**batch)
        loss = sums["mlm_loss"] / counts["mlm_loss"] + sums["nsp_loss"] / counts["nsp_loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    assert sums["mlm_accuracy"].item() == counts["mlm_accuracy"]
