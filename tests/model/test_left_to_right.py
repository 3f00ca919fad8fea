"""The encoder that reads left to right, and its language model, against `transformers`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from tests.model.published import (
    EXACT,
    LENGTHS,
    TINY,
    assert_agree,
    encoder_part,
    packed,
    padded,
    theirs_like,
)
from torch import Tensor
from torch.nn import functional as F

from bertsmith.errors import ConfigError
from bertsmith.model import heads
from bertsmith.model.attention import Layout, _DroppedAttention, attend
from bertsmith.model.bert import Bert
from bertsmith.model.dropout import Noise
from bertsmith.model.heads import BertForPreTraining, piece_loss_in_chunks
from bertsmith.model.names import from_published, to_published
from bertsmith.model.task_heads import BertForClassification, BertForTagging

CAUSAL = dataclasses.replace(TINY, is_decoder=True)
EXACT_CAUSAL = dataclasses.replace(EXACT, is_decoder=True)
HEADS, HIDDEN = 3, 12


def language_models(exact: bool) -> tuple[BertForPreTraining, transformers.BertLMHeadModel]:
    """Returns our model and theirs with the same random weights."""
    config = EXACT_CAUSAL if exact else CAUSAL
    torch.manual_seed(1)
    theirs = transformers.BertLMHeadModel(theirs_like(config))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = BertForPreTraining(config, next_sentence=False)
    ours.load_state_dict(
        from_published(theirs.state_dict(), ours.state_dict(), where="transformers")
    )
    return ours, theirs


def next_pieces(lengths: list[int]) -> dict[str, Tensor]:
    """Returns a packed batch in which every piece that follows another is predicted."""
    batch = packed(lengths, TINY)
    starts = batch["sequence_starts"].long()
    has_next = torch.ones(len(batch["piece_ids"]), dtype=torch.bool)
    has_next[starts[1:] - 1] = False
    batch["masked_positions"] = has_next.nonzero().squeeze(1)
    batch["masked_labels"] = batch["piece_ids"][batch["masked_positions"] + 1]
    del batch["next_labels"]
    return batch


def one_by_one(qkv: Tensor, lengths: list[int]) -> Tensor:
    """Attends token by token, by the formula, on rows in the order of the sequences."""
    read, start = [], 0
    for length in lengths:
        query, key, value = (
            qkv[start : start + length].unflatten(-1, (3, HEADS, -1)).permute(1, 2, 0, 3)
        )
        for place in range(length):
            seen = slice(0, place + 1)
            scores = query[:, place, None] @ key[:, seen].mT / query.shape[-1] ** 0.5
            read.append((scores.softmax(-1) @ value[:, seen]).flatten())
        start += length
    return torch.stack(read)


@pytest.mark.parametrize("lengths", [LENGTHS, [5] * 9, [3]])
@pytest.mark.parametrize("kernel", ["plain", "with dropout"])
def test_attention_reads_nothing_that_comes_later(lengths: list[int], kernel: str) -> None:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    layout = Layout.of(starts, torch.device("cpu"), causal=True)
    rng = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3 * HIDDEN, dtype=torch.float64, generator=rng)
    qkv.requires_grad_()
    rows = layout.arrange(qkv)
    if kernel == "plain":
        ours = attend(rows, layout, HEADS, 0.0, None)
    else:
        ours = _DroppedAttention.apply(rows, layout, HEADS, 0.0, Noise(0))
    ours, theirs = layout.restore(ours), one_by_one(qkv, lengths)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(theirs.shape, dtype=torch.float64, generator=rng)
    torch.testing.assert_close(
        torch.autograd.grad(ours, qkv, weights), torch.autograd.grad(theirs, qkv, weights)
    )


def test_logits_agree_with_those_of_the_published_language_model() -> None:
    ours, theirs = language_models(exact=False)
    batch = next_pieces(LENGTHS)
    inputs = padded(batch)
    del inputs["labels"]
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        everywhere = torch.arange(len(batch["piece_ids"]))
        logits = ours.eval().logits(**encoder_part(batch), positions=everywhere)
    assert_agree(logits, expected[inputs["attention_mask"].bool()])


def test_loss_and_gradients_agree_with_those_of_the_published_language_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "_CHUNK", 50)  # of 232 predicted pieces
    ours, theirs = language_models(exact=True)
    batch = next_pieces(LENGTHS)
    inputs = padded(batch)
    # Theirs shifts the labels itself and takes the mean over all that are not -100.
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    loss = theirs.train()(**inputs).loss
    loss.backward()
    sums, counts = ours.train()(**batch), ours.counts(**batch)
    assert set(sums) == {"lm_loss", "lm_accuracy"} == set(counts)
    objective = sums["lm_loss"] / counts["lm_loss"]
    objective.backward()
    assert_agree(objective, loss)
    gradients = {name: value.grad for name, value in ours.named_parameters()}
    expected = {name: value.grad for name, value in theirs.named_parameters()}
    found = to_published({name: grad for name, grad in gradients.items() if grad is not None})
    assert len(found) == len(expected)
    for name, gradient in found.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        # A key's bias shifts all of a token's scores alike: its gradient is 0 but for rounding.
        if not name.endswith("key.bias"):
            assert error < 1e-5, name


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("scale", [1.0, 1 / 7])
def test_loss_in_chunks_is_cross_entropy(
    chunk: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_CHUNK", chunk)
    rng = torch.Generator().manual_seed(0)
    states, weight, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
        for shape in ((29, 8), (31, 8), (31,))
    )
    inputs = [states, weight, bias]
    labels = torch.randint(0, 31, (29,), generator=rng)
    loss, correct = piece_loss_in_chunks(states, weight, bias, labels)
    logits = F.linear(states, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert correct.item() == (logits.argmax(1) == labels).sum().item()
    ours = torch.autograd.grad(loss * scale, inputs)
    theirs = torch.autograd.grad(expected * scale, inputs)
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted)
    with torch.no_grad():
        torch.testing.assert_close(piece_loss_in_chunks(states, weight, bias, labels)[0], expected)


def test_no_scores_are_kept_from_the_way_forward_to_the_way_back() -> None:
    states, weight = torch.randn(4096, 8, requires_grad=True), torch.randn(3000, 8)
    labels = torch.randint(0, 3000, (4096,))
    loss, _ = piece_loss_in_chunks(states, weight, torch.zeros(3000), labels)
    assert loss.grad_fn is not None
    kept = sum(tensor.numel() for tensor in loss.grad_fn.saved_tensors)  # type: ignore[attr-defined]
    assert kept == states.numel() + weight.numel() + 3000


def test_a_text_is_told_by_its_last_token_which_has_read_all() -> None:
    torch.manual_seed(0)
    model = BertForClassification(CAUSAL, 3).eval()
    batch = encoder_part(packed([9, 6, 9], TINY))
    changed = {**batch, "piece_ids": batch["piece_ids"].clone()}
    changed["piece_ids"][4] = 1 + batch["piece_ids"][4] % 200
    assert isinstance(model.encoder, Bert)
    with torch.no_grad():
        before, after = model.logits(**batch), model.logits(**changed)
        last = model.encoder(**batch)[[8, 14, 23]]
        torch.testing.assert_close(model.encoder.firsts(**batch), last)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])


def test_states_agree_with_the_published_encoder_under_tags() -> None:
    torch.manual_seed(0)
    theirs = transformers.BertForTokenClassification(theirs_like(CAUSAL, num_labels=3)).eval()
    ours = BertForTagging(CAUSAL, 3).eval()
    ours.load_state_dict(
        from_published(theirs.state_dict(), ours.state_dict(), where="transformers")
    )
    batch = encoder_part(packed(LENGTHS, TINY))
    inputs = padded(batch)
    del inputs["labels"]
    with torch.no_grad():
        expected = theirs(**inputs).logits[inputs["attention_mask"].bool()]
        assert_agree(ours.logits(**batch), expected)


def test_intents_are_refused_left_to_right() -> None:
    with pytest.raises(ConfigError, match="reads left to right"):
        BertForTagging(CAUSAL, 3, num_intents=2)


def test_in_both_directions_nothing_changed() -> None:
    assert Layout.of(torch.tensor([0, 3]), torch.device("cpu")).groups[0].bias is None
    assert not Bert(TINY).config.is_decoder
