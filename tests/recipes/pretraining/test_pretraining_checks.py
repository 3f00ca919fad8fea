"""The checks before the first step pass what is sound, and see each fault that they are for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.model.published import TINY, packed
from tests.recipes.toy_runs import SETTINGS, metrics_of, settings_with, weights_of
from torch import Tensor

from bertsmith.config import BertConfig, ExamplesConfig
from bertsmith.data.packing import PackedBatch
from bertsmith.data.shards import open_corpus
from bertsmith.errors import DataError, SelfCheckError
from bertsmith.model.bert import begin_directed
from bertsmith.model.heads import BertForPreTraining
from bertsmith.recipes.pretraining import pretrain as recipe
from bertsmith.recipes.pretraining.checks import (
    check_gradients,
    check_loss,
    check_packing,
    check_pairs,
    check_start,
    first_sequences,
    joined,
    loss_of_new_weights,
)
from bertsmith.recipes.pretraining.data import StepStream, StreamState

EXAMPLES = ExamplesConfig(sequence_length=32)


def batch_of(lengths: list[int], config: BertConfig = TINY) -> PackedBatch:
    return PackedBatch(**packed(lengths, config))


def new_model(config: BertConfig = TINY, next_sentence: bool = True) -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(config, next_sentence)


def paired(labels: list[int]) -> PackedBatch:
    batch = batch_of([5] * len(labels))
    return replace(batch, next_labels=torch.tensor(labels))


# -------------------------------------------------------------------------------- what passes


@pytest.mark.parametrize("next_sentence", [True, False])
@pytest.mark.parametrize("is_directed", [True, False])
def test_new_weights_pass(next_sentence: bool, is_directed: bool) -> None:
    model = new_model(next_sentence=next_sentence)
    if is_directed:
        begin_directed(model.encoder)
    batch = batch_of([9, 32, 17, 4, 32, 21])
    if not next_sentence:
        batch = replace(batch, next_labels=None)
    found = check_start(model, [batch], EXAMPLES)
    assert found["examples"] == 6
    assert ("random_next" in found) == next_sentence
    assert abs(found["new_loss"] - math.log(TINY.vocab_size)) < 0.5
    assert 0 <= found["packed_difference"] < 1e-5
    assert 0 <= found["gradient_difference"] < 1e-5


@pytest.mark.parametrize(
    ("vocab_size", "hidden_size"), [(30, 16), (200, 64), (8192, 128), (2000, 1024)]
)
def test_the_expected_loss_is_that_of_new_weights(vocab_size: int, hidden_size: int) -> None:
    """It holds for narrow and wide, for small and large; with half the margin, in ten draws."""
    config = replace(
        TINY,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    batch = batch_of([32] * 12, config).tensors()
    kinds = len(batch["masked_labels"].unique())
    expected, margin = loss_of_new_weights(config, kinds)
    assert expected >= math.log(vocab_size)
    for seed in range(10):
        torch.manual_seed(seed)
        model = BertForPreTraining(config).eval()
        with torch.no_grad():
            found = float(model(**batch)["mlm_loss"]) / len(batch["masked_labels"])
        assert abs(found - expected) < margin / 2 + 0.05


def test_nothing_is_changed_and_no_number_is_drawn() -> None:
    model = new_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_start(model, [batch_of([9, 32, 17])], EXAMPLES)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_run_ends_with_the_weights_of_one_without_checks(
    tmp_path: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.pretrain([str(toy_corpus)], tmp_path / "with", settings_with(steps=4))
    monkeypatch.setattr(recipe, "check_start", lambda *_, **__: {})
    recipe.pretrain([str(toy_corpus)], tmp_path / "without", settings_with(steps=4))
    assert weights_of(tmp_path / "with", 4) == weights_of(tmp_path / "without", 4)
    first = metrics_of(tmp_path / "with")[0]
    assert (first["step"], first["split"]) == (0, "start")
    assert first["expected_loss"] == pytest.approx(first["new_loss"], abs=0.3)


def test_looking_at_steps_leaves_them_in_their_place(toy_corpus: Path) -> None:
    corpus = open_corpus(toy_corpus)

    def stream() -> StepStream:
        return StepStream(
            corpus,
            corpus.read_tokenizer().vocabulary,
            SETTINGS.run,
            SETTINGS.examples,
            phase=lambda: 0,
            state=StreamState(),
            device=torch.device("cpu"),
        )

    with stream() as plain, stream() as looked_at:
        seen = looked_at.peek(3)
        assert looked_at.state == StreamState()
        assert looked_at.peek(2) == seen[:2]
        for number in range(5):
            expected, found = next(plain)[0], next(looked_at)[0]
            assert all(torch.equal(expected[name], found[name]) for name in expected)
            assert plain.state == looked_at.state
            if number < 3:
                assert torch.equal(seen[number].piece_ids, found["piece_ids"])


# ------------------------------------------------------------------------------ what is refused


def test_weights_of_another_size_are_refused() -> None:
    model = new_model()
    with torch.no_grad():
        model.encoder.embeddings.pieces.weight.mul_(40)
    with pytest.raises(SelfCheckError, match=r"loss of new weights on masked pieces is \d.*ln 211"):
        check_loss(model, [batch_of([32] * 8)])


def test_pieces_that_can_be_seen_are_refused() -> None:
    """A bias towards the right pieces, as where labels leak into what is read."""
    batch = batch_of([32] * 8)
    model = new_model()
    with torch.no_grad():
        model.masked.bias[batch.tensors()["masked_labels"]] = 3.0
    with pytest.raises(SelfCheckError, match="or what is to be predicted can be seen"):
        check_loss(model, [batch])


class Leaking(BertForPreTraining):
    """Lets every sequence of a batch see a little of the first."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        inner: Callable[..., Tensor] = self.encoder.forward

        def forward(*parts: Tensor) -> Tensor:
            hidden = inner(*parts)
            return hidden + 0.001 * hidden[0]

        self.encoder.forward = forward  # type: ignore[assignment, method-assign]


def test_sequences_that_see_each_other_are_refused() -> None:
    torch.manual_seed(0)
    few = first_sequences([batch_of([9, 32, 17])], 512)
    assert check_packing(new_model().eval(), few) < 1e-5
    with pytest.raises(SelfCheckError, match="states of 3 packed sequences differ by up to"):
        check_packing(Leaking(TINY).eval(), few)


class Averaging(BertForPreTraining):
    """Returns the mean over a batch where a sum is asked for: parts would weigh by their number."""

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        sums = super().forward(**batch)
        counts = self.counts(**batch)
        return {name: value / counts[name] for name, value in sums.items()}


def test_parts_that_weigh_otherwise_are_refused() -> None:
    torch.manual_seed(0)
    few = first_sequences([batch_of([9, 32, 17, 30])], 512)
    assert check_gradients(new_model().eval(), few) < 1e-5
    with pytest.raises(SelfCheckError, match="gradient of a batch in two parts differs"):
        check_gradients(Averaging(TINY).eval(), few)


# -------------------------------------------------------------------------------------- pairs


def test_pairs_that_are_never_true_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"first 100 examples 0\.0% have a true second half; expected up to 50\.0%"
    ):
        check_pairs([paired([1] * 100)], EXAMPLES)
    assert check_pairs([paired([1] * 100)], replace(EXAMPLES, random_next_prob=1.0)) == {
        "examples": 100,
        "random_next": 1.0,
    }
    assert check_pairs([paired([1] * 10)], EXAMPLES)["random_next"] == 1.0  # too few to tell


def test_chance_is_allowed_and_no_more() -> None:
    """Of 400 fair coins 150 heads are five deviations below the mean."""
    for heads in (151, 200, 330):
        check_pairs([paired([1] * heads + [0] * (400 - heads))], EXAMPLES)
    with pytest.raises(DataError, match=r"37\.\d% have a random second half; expected 50\.0% or"):
        check_pairs([paired([1] * 149 + [0] * 251)], EXAMPLES)


def test_a_corpus_of_lone_sentences_is_refused_before_training(
    tmp_path: Path, toy_vocabulary: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(["The cat sees a bird by the river."] * 200))
    settings = settings_with(steps=2)
    with pytest.raises(DataError, match="next sentences cannot be learnt"):
        recipe.pretrain([str(text)], tmp_path / "run", settings, vocab=toy_vocabulary)
    assert not (tmp_path / "run/model").exists()


# ---------------------------------------------------------------------------------- sequences


def test_sequences_taken_apart_and_joined_are_the_batch() -> None:
    batch = batch_of([9, 32, 17])
    again = joined(first_sequences([batch], 10**6)).tensors()
    assert again.keys() == batch.tensors().keys()
    assert all(torch.equal(again[name], value) for name, value in batch.tensors().items())
    assert again["sequence_starts"].dtype == batch.sequence_starts.dtype


def test_as_few_sequences_are_taken_as_were_asked_for() -> None:
    batch = batch_of([9, 32, 17])
    assert [one.num_tokens for one in first_sequences([batch], 41)] == [9, 32]
    assert [one.num_tokens for one in first_sequences([batch, batch], 1)] == [9, 32]
