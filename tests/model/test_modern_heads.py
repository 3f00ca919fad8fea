"""Heads on the modern encoder: logits, losses and gradients against `transformers`."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.model.modern_models import (
    CONFIGS,
    FULL,
    LENGTHS,
    TINY,
    batch_of,
    inputs_of,
    like,
    randomized,
    theirs_like,
)
from tests.model.published import assert_agree, encoder_part, padded
from torch import nn
from torch.nn import functional as F

from bertsmith.config import ModernBertConfig
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.modern_names import MODERN
from bertsmith.model.names import to_published
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForChoice,
    BertForClassification,
    BertForRegression,
    BertForTagging,
)

each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def assert_gradients_agree(ours: nn.Module, theirs: nn.Module) -> None:
    gradients = {name: part.grad for name, part in ours.named_parameters() if part.grad is not None}
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    expected = {name: part.grad for name, part in theirs.named_parameters()}
    for name, gradient in to_published(gradients, MODERN).items():
        wanted = expected[name]
        assert wanted is not None
        if name.endswith("Wqkv.bias"):  # a key's bias shifts all scores alike: rounding alone
            gradient, wanted = (
                torch.cat([part.chunk(3)[0], part.chunk(3)[2]]) for part in (gradient, wanted)
            )
        assert (gradient - wanted).norm() / wanted.norm() < 1e-5, name


@each_config
@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 4, [11]])
def test_loss_and_gradients_agree_with_transformers(
    config: ModernBertConfig, lengths: list[int]
) -> None:
    theirs = randomized(transformers.ModernBertForMaskedLM(theirs_like(config)))
    ours = like(ModernBertForPreTraining(config), theirs).train()
    batch = batch_of(lengths, config)
    loss = theirs.train()(**inputs_of(batch), labels=padded(batch)["labels"]).loss
    loss.backward()
    sums, counts = ours(**batch), ours.counts(**batch)
    (sums["mlm_loss"] / counts["mlm_loss"]).backward()
    assert_agree(sums["mlm_loss"] / counts["mlm_loss"], loss)
    assert_gradients_agree(ours, theirs)


@each_config
def test_scores_of_pieces_agree_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(transformers.ModernBertForMaskedLM(theirs_like(config)))
    ours = like(ModernBertForPreTraining(config), theirs).eval()
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    positions = batch["masked_positions"]
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits[inputs["attention_mask"].bool()]
        logits = ours.logits(**encoder_part(batch), positions=positions)
        sums = ours(**batch)
    assert_agree(logits, expected[positions])
    right = (expected[positions].argmax(1) == batch["masked_labels"]).sum()
    assert sums["mlm_accuracy"].item() == right.item()


@each_config
def test_classification_agrees_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(
        transformers.ModernBertForSequenceClassification(theirs_like(config, num_labels=3))
    )
    ours = like(BertForClassification(config, 3), theirs).train()
    batch, wanted = batch_of(LENGTHS, config), torch.arange(len(LENGTHS)) % 3
    expected = theirs.train()(**inputs_of(batch), labels=wanted)
    expected.loss.backward()
    sums = ours(**encoder_part(batch), labels=wanted)
    loss = sums["loss"] / ours.counts(labels=wanted)["loss"]
    loss.backward()
    assert_agree(ours.logits(**encoder_part(batch)), expected.logits)
    assert_agree(loss, expected.loss)
    assert_gradients_agree(ours, theirs)


@each_config
def test_regression_agrees_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(
        transformers.ModernBertForSequenceClassification(theirs_like(config, num_labels=1))
    )
    ours = like(BertForRegression(config), theirs)
    batch, wanted = batch_of(LENGTHS, config), torch.linspace(-1, 2, len(LENGTHS))
    expected = theirs(**inputs_of(batch), labels=wanted)
    assert_agree(ours.logits(**encoder_part(batch)), expected.logits)
    loss = ours(**encoder_part(batch), labels=wanted)["loss"] / len(LENGTHS)
    assert_agree(loss, expected.loss)


@each_config
def test_tagging_agrees_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(
        transformers.ModernBertForTokenClassification(theirs_like(config, num_labels=5))
    )
    ours = like(BertForTagging(config, 5), theirs).train()
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    positions = torch.arange(0, len(batch["piece_ids"]), 3)
    wanted = positions % 5
    everywhere = torch.full_like(batch["piece_ids"], -100)
    everywhere[positions] = wanted
    labels = torch.full(used.shape, -100).masked_scatter(used, everywhere)
    expected = theirs.train()(**inputs, labels=labels)
    expected.loss.backward()
    sums = ours(**encoder_part(batch), label_positions=positions, labels=wanted)
    loss = sums["loss"] / ours.counts(labels=wanted)["loss"]
    loss.backward()
    assert_agree(ours.logits(**encoder_part(batch)), expected.logits[used])
    assert_agree(loss, expected.loss)
    assert_gradients_agree(ours, theirs)


@pytest.mark.parametrize("config", [TINY, FULL])
def test_intents_stand_on_what_classification_stands_on(config: ModernBertConfig) -> None:
    torch.manual_seed(0)
    tagger = BertForTagging(config, 5, num_intents=3).eval()
    classifier = BertForClassification(config, 3).eval()
    assert tagger.intents is not None
    classifier.encoder, classifier.classifier = tagger.encoder, tagger.intents
    part = encoder_part(batch_of(LENGTHS, config))
    with torch.no_grad():
        expected = classifier.logits(**part).repeat_interleave(torch.tensor(LENGTHS), dim=0)
        assert_agree(tagger.logits(**part)[:, 5:], expected)


@each_config
def test_answering_agrees_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(transformers.ModernBertForQuestionAnswering(theirs_like(config)))
    ours = like(BertForAnswering(config), theirs)
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    used = inputs["attention_mask"].bool()
    expected = theirs(**inputs)
    logits = ours.logits(**encoder_part(batch))
    assert_agree(logits[:, 0], expected.start_logits[used])
    assert_agree(logits[:, 1], expected.end_logits[used])


@each_config
def test_choice_agrees_with_transformers(config: ModernBertConfig) -> None:
    theirs = randomized(transformers.ModernBertForMultipleChoice(theirs_like(config)))
    ours = like(BertForChoice(config), theirs)
    lengths = LENGTHS[:16]
    batch, wanted = batch_of(lengths, config), torch.tensor([0, 3, 1, 2])
    inputs = {name: part.unflatten(0, (-1, 4)) for name, part in inputs_of(batch).items()}
    expected = theirs(**inputs, labels=wanted)
    sums = ours(**encoder_part(batch), labels=wanted)
    assert_agree(ours.logits(**encoder_part(batch)).view(-1, 4), expected.logits)
    assert_agree(sums["loss"] / 4, expected.loss)


def test_one_batch_is_learnt_to_nearly_no_loss() -> None:
    torch.manual_seed(0)
    model = ModernBertForPreTraining(TINY)
    batch = batch_of([20, 12, 30], TINY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = model(**batch)["mlm_loss"] / len(batch["masked_labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05


def test_no_masked_piece_gives_no_loss() -> None:
    model = ModernBertForPreTraining(TINY)
    batch = batch_of([9, 6], TINY)
    batch["masked_positions"] = batch["masked_labels"] = torch.empty(0, dtype=torch.int64)
    assert {name: total.item() for name, total in model(**batch).items()} == {
        "mlm_loss": 0,
        "mlm_accuracy": 0,
    }


def test_a_new_layer_begins_with_scores_of_about_one() -> None:
    torch.manual_seed(0)
    logits = BertForClassification(TINY, 200).eval().logits(**encoder_part(batch_of(LENGTHS, TINY)))
    # What it reads is normalised and its deviation is H ** -0.5, cut at two: 0.88 of that is left.
    assert logits.std().item() == pytest.approx(0.88, abs=0.06)
    assert F.cross_entropy(logits, torch.zeros(len(LENGTHS), dtype=torch.int64)).isfinite()
