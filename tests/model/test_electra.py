"""Replaced-token detection: both halves against `transformers`, what is drawn, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tests.model.published import LENGTHS, TINY, assert_agree, encoder_part, packed, padded
from torch import Tensor
from torch.nn import functional as F

from bertsmith.config import bert_of_size
from bertsmith.model.bert import Block
from bertsmith.model.electra import ForReplacedTokens, narrowed
from bertsmith.model.names import to_published


@pytest.fixture
def model() -> ForReplacedTokens:
    torch.manual_seed(0)
    made = ForReplacedTokens(TINY, 0.5)
    with torch.no_grad():
        made.generator.bias.normal_()
        made.score.weight.mul_(20)  # so that its answers differ
    return made.eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return packed(LENGTHS, TINY)


def electra_config(hidden_size: int) -> transformers.ElectraConfig:
    narrow = narrowed(TINY, hidden_size / TINY.hidden_size)
    assert narrow.hidden_size == hidden_size
    shared = {"embedding_size": TINY.hidden_size, "attn_implementation": "eager"}
    return transformers.ElectraConfig(**(narrow.to_mapping() | shared))


def published_encoder(model: ForReplacedTokens) -> dict[str, Tensor]:
    named = to_published({f"encoder.{name}": x for name, x in model.encoder.state_dict().items()})
    return {name.replace("bert.", "electra.", 1): tensor for name, tensor in named.items()}


def filled(theirs: Any, weights: dict[str, Tensor]) -> Any:
    missing, odd = theirs.load_state_dict(weights, strict=False)
    assert not missing and not odd
    return theirs.eval()


def theirs_reads(theirs: Any, batch: dict[str, Tensor]) -> Tensor:
    """Returns the logits of every real token."""
    inputs = padded(batch)
    names = ("input_ids", "token_type_ids", "attention_mask")
    with torch.no_grad():
        found = theirs(**{name: inputs[name] for name in names}).logits
    return found[inputs["attention_mask"].bool()]


def test_what_is_detected_agrees_with_transformers(
    model: ForReplacedTokens, batch: dict[str, Tensor]
) -> None:
    weights = published_encoder(model) | {
        "discriminator_predictions.dense.weight": model.dense.weight,
        "discriminator_predictions.dense.bias": model.dense.bias,
        "discriminator_predictions.dense_prediction.weight": model.score.weight,
        "discriminator_predictions.dense_prediction.bias": model.score.bias,
    }
    theirs = filled(transformers.ElectraForPreTraining(electra_config(TINY.hidden_size)), weights)
    expected = theirs_reads(theirs, batch)
    with torch.no_grad():
        assert_agree(model.detect(**encoder_part(batch)), expected)


def test_the_generators_loss_agrees_with_transformers(
    model: ForReplacedTokens, batch: dict[str, Tensor]
) -> None:
    generator = model.generator
    embeddings = {
        name: tensor for name, tensor in published_encoder(model).items() if ".embeddings." in name
    }
    blocks = to_published(
        {f"encoder.blocks.{name}": x for name, x in generator.blocks.state_dict().items()}
    )
    vectors = model.encoder.embeddings.pieces.weight
    weights = {
        **embeddings,
        **{name.replace("bert.", "electra.", 1): tensor for name, tensor in blocks.items()},
        "electra.embeddings_project.weight": generator.project.weight,
        "electra.embeddings_project.bias": generator.project.bias,
        "generator_predictions.dense.weight": generator.widen.weight,
        "generator_predictions.dense.bias": generator.widen.bias,
        "generator_predictions.LayerNorm.weight": generator.norm.weight,
        "generator_predictions.LayerNorm.bias": generator.norm.bias,
        "generator_lm_head.weight": vectors,
        "generator_lm_head.bias": generator.bias,
    }
    theirs = filled(transformers.ElectraForMaskedLM(electra_config(24)), weights)
    logits = theirs_reads(theirs, batch)[batch["masked_positions"]]
    with torch.no_grad():
        sums = model(**batch)
    assert_agree(sums["mlm_loss"], F.cross_entropy(logits, batch["masked_labels"], reduction="sum"))
    assert sums["mlm_accuracy"] == (logits.argmax(1) == batch["masked_labels"]).sum()


def test_what_is_put_in_is_drawn_as_the_generator_says(
    model: ForReplacedTokens, monkeypatch: pytest.MonkeyPatch, batch: dict[str, Tensor]
) -> None:
    """Hidden pieces alone are replaced; one drawn right is not called replaced."""
    seen: list[Tensor] = []
    detect = model.detect

    def spied(piece_ids: Tensor, **places: Tensor) -> Tensor:
        seen.append(piece_ids)
        return detect(piece_ids, **places)

    monkeypatch.setattr(model, "detect", spied)
    with torch.no_grad():
        model.generator.bias.fill_(-30)
        model.generator.bias[7] = 30  # what it says everywhere
        batch["masked_labels"].clamp_(min=8)
        batch["masked_labels"][0::2] = 7
        sums = model(**batch)
    hidden = batch["masked_positions"]
    untouched = torch.ones(len(seen[0]), dtype=torch.bool).index_fill(0, hidden, False)
    assert (seen[0][hidden] == 7).all()
    assert (seen[0][untouched] == batch["piece_ids"][untouched]).all()
    with torch.no_grad():
        logits = detect(**(encoder_part(batch) | {"piece_ids": seen[0]}))
    is_replaced = torch.zeros(len(logits)).index_fill(0, hidden[1::2], 1.0)
    expected = F.binary_cross_entropy_with_logits(logits, is_replaced, reduction="sum")
    assert_agree(sums["rtd_loss"], expected)


def test_pieces_are_drawn_with_their_probabilities(model: ForReplacedTokens) -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(20_000, 4)
    torch.manual_seed(3)
    drawn = model.train().drawn(logits)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (shares - torch.tensor([0.1, 0.2, 0.3, 0.4])).abs().max() < 3 * (0.25 / 20_000) ** 0.5


def test_evaluation_draws_the_same_every_time(
    model: ForReplacedTokens, batch: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        first, second = model(**batch), model(**batch)
    assert all(first[name] == second[name] for name in first)


def test_both_halves_learn_the_shared_vectors_and_no_gradient_goes_through_the_draws(
    model: ForReplacedTokens, batch: dict[str, Tensor]
) -> None:
    sums = model(**batch)
    sums["rtd_loss"].backward()
    assert all(part.grad is None for part in model.generator.parameters())
    assert model.encoder.embeddings.pieces.weight.grad is not None
    assert set(model.counts(**batch)) == set(sums)
    assert model.loss_weights == {"rtd_loss": 50.0}


def test_a_directed_generator_begins_as_a_directed_encoder_of_its_width() -> None:
    """What it reads keeps its size, like states read one another, and values go on at full size."""
    torch.manual_seed(0)
    generator = ForReplacedTokens(bert_of_size("L2-H256-A4", vocab_size=50), 0.5).generator
    generator.begin_directed()
    states = generator.project(torch.randn(500, 256)).detach()
    assert states.std() == pytest.approx(1.0, abs=0.05)
    for block in generator.blocks:
        assert isinstance(block, Block)
        queries, keys, values = block.attention.qkv.weight.split(128)
        assert torch.equal(queries[:64], keys[:64])
        assert not torch.equal(queries[64:], keys[64:])
        for weight in (values, block.attention.output.weight):
            assert weight.detach().std() == pytest.approx(128**-0.5, rel=0.05)


def test_a_generator_is_narrower_by_whole_heads() -> None:
    narrow = narrowed(bert_of_size("small"), 0.25)
    assert (narrow.hidden_size, narrow.num_attention_heads) == (128, 2)
    assert (narrow.intermediate_size, narrow.num_hidden_layers) == (512, 4)
    assert narrowed(bert_of_size("tiny"), 0.25).hidden_size == 64
