"""The heads of tasks: logits and losses against `transformers` on ragged batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tests.model.published import (
    EXACT,
    LENGTHS,
    assert_agree,
    encoder_part,
    packed,
    padded,
    theirs_like,
)
from torch import Tensor
from torch.nn import functional as F

from bertsmith.model.names import from_published
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)


def like(ours: Any, theirs: Any) -> Any:
    """Gives ours the weights of theirs and returns it."""
    ours.load_state_dict(from_published(theirs.state_dict(), ours.state_dict(), where="theirs"))
    return ours


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a batch as `transformers` takes it, without labels."""
    return {
        name: tensor
        for name, tensor in padded(batch).items()
        if name not in ("labels", "next_sentence_label")
    }


@pytest.mark.parametrize("labels", [2, 5])
def test_classification_agrees_with_transformers(labels: int) -> None:
    torch.manual_seed(3)
    theirs = transformers.BertForSequenceClassification(theirs_like(EXACT, num_labels=labels))
    ours = BertForClassification(EXACT, labels)
    ours.load_state_dict(from_published(theirs.state_dict(), ours.state_dict(), where="theirs"))
    batch = packed(LENGTHS, EXACT)
    inputs = padded(batch)
    wanted = torch.randint(0, labels, (len(LENGTHS),))
    inputs["labels"] = wanted
    del inputs["next_sentence_label"]
    expected = theirs(**inputs)
    part = encoder_part(batch)
    assert_agree(ours.logits(**part), expected.logits)
    sums = ours(**part, labels=wanted)
    counts = ours.counts(**part, labels=wanted)
    assert_agree(sums["loss"] / counts["loss"], expected.loss)
    right = (expected.logits.argmax(1) == wanted).sum()
    assert sums["accuracy"].item() == right.item() and counts["accuracy"] == len(LENGTHS)


def test_regression_agrees_with_transformers() -> None:
    torch.manual_seed(3)
    theirs = transformers.BertForSequenceClassification(theirs_like(EXACT, num_labels=1))
    ours = BertForRegression(EXACT)
    ours.load_state_dict(from_published(theirs.state_dict(), ours.state_dict(), where="theirs"))
    batch = packed(LENGTHS, EXACT)
    inputs = padded(batch)
    wanted = torch.randn(len(LENGTHS))
    inputs["labels"] = wanted
    del inputs["next_sentence_label"]
    expected = theirs(**inputs)
    part = encoder_part(batch)
    assert_agree(ours.logits(**part), expected.logits)
    loss = ours(**part, labels=wanted)["loss"] / ours.counts(**part, labels=wanted)["loss"]
    assert_agree(loss, expected.loss)


def test_a_loss_with_smoothing_and_weights_is_that_of_torch() -> None:
    torch.manual_seed(3)
    ours = BertForClassification(EXACT, 3, smoothing=0.1)
    part = encoder_part(packed(LENGTHS, EXACT))
    wanted = torch.randint(0, 3, (len(LENGTHS),))
    by_class = torch.tensor([0.5, 1.0, 3.0])
    logits = ours.logits(**part)
    sums = ours(**part, labels=wanted, label_weights=by_class[wanted])
    counts = ours.counts(labels=wanted, label_weights=by_class[wanted])
    rows = F.cross_entropy(logits, wanted, label_smoothing=0.1, reduction="none")
    assert_agree(sums["loss"] / counts["loss"], (rows * by_class[wanted]).sum() / counts["loss"])
    plain = BertForClassification(EXACT, 3)
    plain.load_state_dict(ours.state_dict())
    found = plain(**part, labels=wanted, label_weights=by_class[wanted])["loss"] / counts["loss"]
    assert_agree(found, F.cross_entropy(logits, wanted, weight=by_class))


def test_several_labels_agree_with_transformers() -> None:
    torch.manual_seed(3)
    settings = theirs_like(EXACT, num_labels=4, problem_type="multi_label_classification")
    theirs = transformers.BertForSequenceClassification(settings)
    ours = like(BertForClassification(EXACT, 4, several=True), theirs)
    batch = packed(LENGTHS, EXACT)
    wanted = torch.randint(0, 2, (len(LENGTHS), 4)).float()
    expected = theirs(**inputs_of(batch), labels=wanted)
    sums = ours(**encoder_part(batch), labels=wanted)
    assert_agree(sums["loss"] / ours.counts(labels=wanted)["loss"], expected.loss)
    right = ((expected.logits > 0) == wanted.bool()).all(1).sum()
    assert sums["accuracy"].item() == right.item()


def test_tagging_agrees_with_transformers() -> None:
    torch.manual_seed(3)
    theirs = transformers.BertForTokenClassification(theirs_like(EXACT, num_labels=5))
    ours = like(BertForTagging(EXACT, 5), theirs)
    batch = packed(LENGTHS, EXACT)
    positions = torch.arange(0, len(batch["piece_ids"]), 3)
    wanted = torch.randint(0, 5, positions.shape)
    everywhere = torch.full_like(batch["piece_ids"], -100)
    everywhere[positions] = wanted
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    labels = torch.full(used.shape, -100)
    labels[used] = everywhere
    expected = theirs(**inputs, labels=labels)
    part = encoder_part(batch)
    assert_agree(ours.logits(**part), expected.logits[used])
    sums = ours(**part, label_positions=positions, labels=wanted)
    assert_agree(sums["loss"] / ours.counts(labels=wanted)["loss"], expected.loss)


def test_tags_and_intents_agree_with_transformers_part_by_part() -> None:
    torch.manual_seed(3)
    theirs = transformers.BertModel(theirs_like(EXACT))
    tags, intents = torch.nn.Linear(48, 5), torch.nn.Linear(48, 3)
    parts = {f"bert.{name}": part for name, part in theirs.state_dict().items()}
    for name, layer in (("classifier", tags), ("intent_classifier", intents)):
        parts |= {f"{name}.{end}": part for end, part in layer.state_dict().items()}
    ours = BertForTagging(EXACT, 5, num_intents=3)
    ours.load_state_dict(from_published(parts, ours.state_dict(), where="theirs"))
    batch = packed(LENGTHS, EXACT)
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    expected = theirs(**inputs)
    of_texts = intents(expected.pooler_output)
    logits = ours.logits(**encoder_part(batch))
    assert_agree(logits[:, :5], tags(expected.last_hidden_state)[used])
    assert_agree(logits[:, 5:], of_texts.repeat_interleave(torch.tensor(LENGTHS), dim=0))
    positions = torch.arange(0, len(batch["piece_ids"]), 3)
    labels = {
        "labels": torch.randint(0, 5, positions.shape),
        "intent_labels": torch.randint(0, 3, (len(LENGTHS),)),
    }
    sums = ours(**encoder_part(batch), label_positions=positions, **labels)
    counts = ours.counts(label_positions=positions, **labels)
    assert_agree(
        sums["intent_loss"] / counts["intent_loss"],
        F.cross_entropy(of_texts, labels["intent_labels"]),
    )
    of_tags = tags(expected.last_hidden_state)[used][positions]
    assert_agree(sums["loss"] / counts["loss"], F.cross_entropy(of_tags, labels["labels"]))
    right = (of_texts.argmax(1) == labels["intent_labels"]).sum()
    assert sums["intent_accuracy"].item() == right.item()


def test_answering_agrees_with_transformers() -> None:
    torch.manual_seed(3)
    theirs = transformers.BertForQuestionAnswering(theirs_like(EXACT))
    ours = like(BertForAnswering(EXACT), theirs)
    batch = packed(LENGTHS, EXACT)
    starts = torch.tensor([length // 2 for length in LENGTHS])
    ends = torch.tensor([length - 1 for length in LENGTHS])
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    part = encoder_part(batch)
    expected = theirs(**inputs)
    logits = ours.logits(**part)
    assert_agree(logits[:, 0], expected.start_logits[used])
    assert_agree(logits[:, 1], expected.end_logits[used])
    losses = [  # theirs lets padding take part in the softmax, so its own loss is another
        F.cross_entropy(found.masked_fill(~used, -torch.inf), wanted)
        for found, wanted in ((expected.start_logits, starts), (expected.end_logits, ends))
    ]
    loss = ours(**part, span_starts=starts, span_ends=ends)["loss"]
    assert_agree(loss / ours.counts(span_starts=starts)["loss"], torch.stack(losses).mean())
    loss.backward()
    assert ours.spans.weight.grad is not None and ours.spans.weight.grad.isfinite().all()


def test_choice_agrees_with_transformers() -> None:
    torch.manual_seed(3)
    theirs = transformers.BertForMultipleChoice(theirs_like(EXACT))
    ours = like(BertForChoice(EXACT), theirs)
    batch = packed(LENGTHS, EXACT)
    wanted = torch.randint(0, 4, (len(LENGTHS) // 4,))
    inputs = {name: part.unflatten(0, (-1, 4)) for name, part in inputs_of(batch).items()}
    expected = theirs(**inputs, labels=wanted)
    sums = ours(**encoder_part(batch), labels=wanted)
    assert_agree(ours.logits(**encoder_part(batch)).view(-1, 4), expected.logits)
    assert_agree(sums["loss"] / ours.counts(labels=wanted)["loss"], expected.loss)
