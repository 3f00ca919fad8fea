"""The tagger on frozen features reads each sequence alone, in both directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bertsmith.model.bilstm import BiLstmTagger, Combination, ScalarMix


def tagger(combine: Combination, dropout: float = 0.0) -> BiLstmTagger:
    torch.manual_seed(0)
    return BiLstmTagger(3, 8, 5, combine=combine, lstm_size=6, dropout=dropout)


def starts_of(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def test_a_mix_is_elmos_equation() -> None:
    mix = ScalarMix(3)
    states = torch.randn(7, 3, 4)
    assert torch.allclose(mix(states), states.mean(1), atol=1e-6)  # as it begins
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
        mix.gamma.fill_(3.0)
        shares = torch.exp(mix.weights) / torch.exp(mix.weights).sum()
        wanted = torch.stack([3 * shares[layer] * states[:, layer] for layer in range(3)]).sum(0)
        assert torch.allclose(mix(states), wanted, atol=1e-6)
        assert float(mix.shares().sum()) == pytest.approx(1)


@pytest.mark.parametrize("combine", ["mix", "concat"])
def test_each_sequence_is_read_alone_and_in_its_place(combine: Combination) -> None:
    model = tagger(combine)
    states = torch.randn(11, 3, 8)
    together = model.logits(states, starts_of(2, 5, 1, 3))
    assert together.shape == (11, 5)
    for start, end in ((0, 2), (2, 7), (7, 8), (8, 11)):
        alone = model.logits(states[start:end], starts_of(end - start))
        assert torch.allclose(together[start:end], alone, atol=1e-6)


def test_it_is_two_bilstms_and_a_layer() -> None:
    model = tagger("concat")
    states = torch.randn(4, 3, 8)
    hidden, _ = model.lstm(states.flatten(1)[:, None])
    wanted = model.classifier(hidden[:, 0])
    assert torch.allclose(model.logits(states, starts_of(4)), wanted, atol=1e-6)
    assert (model.lstm.num_layers, model.lstm.bidirectional) == (2, True)
    changed = states.clone()
    changed[3] += 1  # what stands behind is read too
    assert not torch.allclose(model.logits(changed, starts_of(4))[0], wanted[0])


def test_the_loss_is_that_of_torch_over_labelled_tokens_alone() -> None:
    model = tagger("mix")
    states, starts = torch.randn(6, 3, 8), starts_of(4, 2)
    places, labels = torch.tensor([1, 2, 5]), torch.tensor([0, 4, 2])
    batch = {"states": states, "sequence_starts": starts}
    sums = model(**batch, label_positions=places, labels=labels)
    logits = model.logits(states, starts)[places]
    assert torch.allclose(sums["loss"], nn.functional.cross_entropy(logits, labels) * 3)
    assert int(sums["accuracy"]) == int((logits.argmax(1) == labels).sum())
    assert model.counts(**batch, label_positions=places, labels=labels) == {
        "loss": 3,
        "accuracy": 3,
    }


def test_dropout_is_for_training_alone() -> None:
    model = tagger("mix", dropout=0.5)
    states, starts = torch.randn(6, 3, 8), starts_of(6)
    assert not torch.equal(model.logits(states, starts), model.logits(states, starts))
    model.eval()
    assert torch.equal(model.logits(states, starts), model.logits(states, starts))
