"""The encoder on packed batches, against `transformers` on padded ones."""

from __future__ import annotations

import dataclasses
from typing import Literal

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

from bertsmith.config import BertConfig
from bertsmith.errors import ConfigError, DataError
from bertsmith.model.bert import Bert, Block, begin_directed, first_states


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_layer_agrees_with_transformers_on_a_ragged_batch(attention: str) -> None:
    ours, theirs = pair(TINY, attention)
    batch = packed(LENGTHS, TINY)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    used = inputs["attention_mask"].bool()
    with torch.no_grad():
        expected = theirs.eval().bert(**inputs, output_hidden_states=True)
        layers = ours.eval().encoder.layers(**encoder_part(batch))
        hidden = ours.encoder(**encoder_part(batch))
        pooled = ours.encoder.pool(first_states(hidden, batch["sequence_starts"]))
    assert len(layers) == len(expected.hidden_states) == TINY.num_hidden_layers + 1
    for layer, theirs_layer in zip(layers, expected.hidden_states, strict=True):
        assert_agree(layer, theirs_layer[used])
    torch.testing.assert_close(hidden, layers[-1], rtol=0, atol=0)
    assert_agree(pooled, expected.pooler_output)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_agree_with_transformers(
    activation: Literal["gelu_new", "relu"],
) -> None:
    config = dataclasses.replace(TINY, hidden_act=activation)
    ours, theirs = pair(config)
    batch = packed([5, 9], config)
    inputs = padded(batch)
    del inputs["labels"], inputs["next_sentence_label"]
    with torch.no_grad():
        expected = theirs.eval().bert(**inputs).last_hidden_state
        hidden = ours.eval().encoder(**encoder_part(batch))
    assert_agree(hidden, expected[inputs["attention_mask"].bool()])


def test_a_sequence_gives_the_same_states_alone_and_in_any_company() -> None:
    torch.manual_seed(0)
    encoder = Bert(TINY).eval()
    batch = encoder_part(packed(LENGTHS, TINY))
    starts = batch["sequence_starts"].tolist()
    with torch.no_grad():
        together = encoder(**batch)
        for start, end in zip(starts, starts[1:], strict=False):
            alone = {name: ids[start:end] for name, ids in batch.items()}
            alone["sequence_starts"] = torch.tensor([0, end - start], dtype=torch.int32)
            assert_agree(encoder(**alone), together[start:end])


def test_the_same_seed_gives_the_same_states_under_dropout_and_another_gives_others() -> None:
    torch.manual_seed(0)
    encoder = Bert(TINY).train()
    batch = encoder_part(packed(LENGTHS, TINY))
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(encoder(**batch))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_each_forward_pass_draws_its_own_masks() -> None:
    torch.manual_seed(0)
    encoder = Bert(TINY).train()
    batch = encoder_part(packed([9, 9], TINY))
    assert not torch.equal(encoder(**batch), encoder(**batch))
    assert torch.equal(encoder.eval()(**batch), encoder(**batch))


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    encoder = Bert(BertConfig(vocab_size=3000, hidden_size=128, num_attention_heads=2))
    pieces = encoder.embeddings.pieces.weight
    # A normal cut at two deviations keeps 0.8796 of its deviation.
    assert pieces.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)
    assert pieces.abs().max().item() <= 0.04
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name


@pytest.mark.parametrize(("hidden", "heads"), [(128, 2), (256, 4), (66, 3)])
def test_half_of_the_heads_begin_directed_at_the_neighbours(hidden: int, heads: int) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=3000, hidden_size=hidden, num_attention_heads=heads, num_hidden_layers=1
    )
    length = 64
    shares = {}
    for start in ("published", "directed"):
        encoder = Bert(config).eval()
        if start == "directed":
            begin_directed(encoder)
        states = encoder.embeddings(
            torch.randint(5, 3000, (length,)),
            torch.zeros(length, dtype=torch.int64),
            torch.arange(length),
            None,
        )
        block = encoder.blocks[0]
        assert isinstance(block, Block)
        queries, keys, _ = block.attention.qkv(states).split(hidden, dim=1)
        by_head = [part.reshape(length, heads, -1).transpose(0, 1) for part in (queries, keys)]
        scores = by_head[0] @ by_head[1].transpose(1, 2) / (hidden // heads) ** 0.5  # [N, L, L]
        distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        scores = scores.masked_fill(distance == 0, -torch.inf)  # what a piece says of itself aside
        shares[start] = (scores.softmax(-1) * (distance <= 4)).sum(-1).mean(-1).tolist()
    assert max(shares["published"]) < 0.15  # 8 of 63
    nearby = (heads + 1) // 2
    assert min(shares["directed"][:nearby]) > 0.5
    assert max(shares["directed"][nearby:]) < 0.2


def test_directed_attention_leaves_everything_else_as_published() -> None:
    config = BertConfig(vocab_size=300, hidden_size=64, num_attention_heads=2, num_hidden_layers=2)
    torch.manual_seed(0)
    before = Bert(config).state_dict()
    torch.manual_seed(0)
    encoder = Bert(config)
    begin_directed(encoder)
    changed = {
        name
        for name, weight in encoder.state_dict().items()
        if not torch.equal(weight, before[name])
    }
    assert changed == {
        "embeddings.positions.weight",
        *(f"blocks.{n}.attention.{part}.weight" for n in range(2) for part in ("qkv", "output")),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("piece_ids", 211, r"piece id 211; this model knows 0 to 210 \(vocab_size is 211\)"),
        ("piece_ids", -1, r"piece id -1; this model knows 0 to 210"),
        ("segment_ids", 2, r"segment 2; this model knows 0 to 1 \(type_vocab_size is 2\)"),
        ("position_ids", 40, r"position 40; this model knows 0 to 39 \(max_position_embeddings"),
    ],
)
def test_an_id_that_the_model_does_not_know_is_named(name: str, value: int, message: str) -> None:
    batch = encoder_part(packed([4, 6], TINY))
    batch[name][3] = value
    with pytest.raises(DataError, match=message):
        Bert(TINY)(**batch)


def test_a_model_that_does_not_fit_is_refused_before_memory_is_taken() -> None:
    huge = BertConfig(vocab_size=10**7, hidden_size=65536, num_attention_heads=1)
    with pytest.raises(ConfigError, match=r"take 3,466 GB; this machine has"):
        Bert(huge)


@pytest.mark.parametrize("starts", [[0], [0, 4, 4, 9]])
def test_an_empty_sequence_is_refused(starts: list[int]) -> None:
    batch = encoder_part(packed([9], TINY))
    batch["sequence_starts"] = torch.tensor(starts, dtype=torch.int32)
    with pytest.raises(DataError, match="at least one token"):
        Bert(TINY)(**batch)


def test_the_encoder_runs_in_bfloat16_where_asked() -> None:
    torch.manual_seed(0)
    encoder = Bert(EXACT).train()
    batch = encoder_part(packed(LENGTHS, EXACT))
    exact = encoder(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(**batch)
    rough.float().square().sum().backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)  # 8 bits of fraction


@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 4, [11], [3, 9, 3]])
def test_first_tokens_alone_have_the_states_and_gradients_that_they_have_among_all(
    lengths: list[int],
) -> None:
    torch.manual_seed(0)
    encoder = Bert(EXACT).train().double()
    part = encoder_part(packed(lengths, EXACT))
    direction = torch.randn(len(lengths), EXACT.hidden_size, dtype=torch.float64)
    gradients = []
    for states in (
        first_states(encoder(**part), part["sequence_starts"]),
        encoder.firsts(**part),
    ):
        gradients.append(
            [states, *torch.autograd.grad((states * direction).sum(), weights(encoder))]
        )
    for whole, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)


def weights(encoder: Bert) -> list[torch.Tensor]:
    return [part for name, part in encoder.named_parameters() if not name.startswith("pooler")]
