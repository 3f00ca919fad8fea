"""The modern encoder on packed batches, against `transformers` on padded ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import transformers
from tests.model.modern_models import (
    CONFIGS,
    LENGTHS,
    TINY,
    batch_of,
    inputs_of,
    like,
    randomized,
    theirs_like,
)
from tests.model.published import assert_agree, encoder_part

from bertsmith.config import ModernBertConfig
from bertsmith.errors import ConfigError, DataError
from bertsmith.model.kinds import begin_silent
from bertsmith.model.modern import ModernBert, ModernBlock


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_agrees_with_transformers_on_a_ragged_batch(name: str, attention: str) -> None:
    config = CONFIGS[name]
    theirs = randomized(
        transformers.ModernBertModel(theirs_like(config, attn_implementation=attention))
    )
    ours = like(ModernBert(config, with_pooler=False), theirs).eval()
    batch = batch_of(LENGTHS, config)
    inputs = inputs_of(batch)
    with torch.no_grad():
        expected = theirs.eval()(**inputs, output_hidden_states=True)
        layers = ours.layers(**encoder_part(batch))
        hidden = ours(**encoder_part(batch))
    assert len(layers) == len(expected.hidden_states) == config.num_hidden_layers + 1
    for layer, theirs_layer in zip(layers, expected.hidden_states, strict=True):
        assert_agree(layer, theirs_layer[inputs["attention_mask"].bool()])
    torch.testing.assert_close(hidden, layers[-1], rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sequence_gives_the_same_states_alone_and_in_any_company(name: str) -> None:
    torch.manual_seed(0)
    encoder = ModernBert(CONFIGS[name]).eval()
    batch = encoder_part(batch_of(LENGTHS, CONFIGS[name]))
    starts = batch["sequence_starts"].tolist()
    with torch.no_grad():
        together = encoder(**batch)
        for start, end in zip(starts, starts[1:], strict=False):
            alone = {part: ids[start:end] for part, ids in batch.items()}
            alone["sequence_starts"] = torch.tensor([0, end - start], dtype=torch.int32)
            assert_agree(encoder(**alone), together[start:end])


def test_a_piece_beyond_the_reach_of_all_windows_changes_nothing() -> None:
    torch.manual_seed(0)
    # The first block sees all; what it reads is dropped, so that the two local ones are left.
    config = dataclasses.replace(TINY, num_hidden_layers=3)
    encoder = ModernBert(config).eval()
    with torch.no_grad():
        block = encoder.blocks[0]
        assert isinstance(block, ModernBlock)
        block.attention.output.weight.zero_()
    batch = encoder_part(batch_of([80], config))
    with torch.no_grad():
        before = encoder(**batch)
        batch["piece_ids"][40] = batch["piece_ids"][40] % 200 + 3
        changed = (encoder(**batch) - before).abs().amax(1) > 1e-7
    assert changed.nonzero().squeeze(1).tolist() == list(range(32, 49))  # four pieces, twice


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 4, [11]])
def test_chosen_states_and_their_gradients_are_those_among_all(
    name: str, lengths: list[int]
) -> None:
    torch.manual_seed(0)
    encoder = ModernBert(CONFIGS[name], with_pooler=False).train().double()
    batch = batch_of(lengths, CONFIGS[name])
    part, positions = encoder_part(batch), batch["masked_positions"]
    direction = torch.randn(len(positions), TINY.hidden_size, dtype=torch.float64)
    both = []
    for states in (encoder(**part)[positions], encoder.at(**part, positions=positions)):
        gradients = torch.autograd.grad((states * direction).sum(), list(encoder.parameters()))
        both.append([states, *gradients])
    for whole, alone in zip(*both, strict=True):
        torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vectors_of_texts_are_the_same_from_all_states(pooling: Any) -> None:
    torch.manual_seed(0)
    encoder = ModernBert(dataclasses.replace(TINY, classifier_pooling=pooling)).eval()
    part = encoder_part(batch_of(LENGTHS, TINY))
    with torch.no_grad():
        alone = encoder.of_texts(**part)
        among = encoder.of_texts_among(encoder(**part), part["sequence_starts"])
    assert_agree(alone, among)
    assert alone.shape == (len(LENGTHS), TINY.hidden_size)


@pytest.mark.parametrize("rate", ["embedding_dropout", "attention_dropout", "mlp_dropout"])
def test_every_rate_of_dropout_drops_in_training_by_the_seed_alone(rate: str) -> None:
    torch.manual_seed(0)
    encoder = ModernBert(dataclasses.replace(TINY, **{rate: 0.2})).train()  # type: ignore[arg-type]
    batch = encoder_part(batch_of(LENGTHS, TINY))
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(encoder(**batch))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert torch.equal(encoder.eval()(**batch), encoder(**batch))


def test_weights_start_as_in_transformers() -> None:
    config = ModernBertConfig(vocab_size=3000, hidden_size=128, num_attention_heads=2)
    torch.manual_seed(0)
    encoder = ModernBert(config)
    theirs = transformers.ModernBertForMaskedLM(theirs_like(config))
    block = encoder.blocks[1]
    assert isinstance(block, ModernBlock) and encoder.pooler is not None
    for ours, expected in (
        (encoder.embeddings.pieces.weight[1:], theirs.model.embeddings.tok_embeddings.weight[1:]),
        (block.attention.qkv.weight, theirs.model.layers[1].attn.Wqkv.weight),
        (block.attention.output.weight, theirs.model.layers[1].attn.Wo.weight),
        (block.intermediate.weight, theirs.model.layers[1].mlp.Wi.weight),
        (block.output.weight, theirs.model.layers[1].mlp.Wo.weight),
        (encoder.pooler.dense.weight, theirs.head.dense.weight),
    ):
        # The deviation of n numbers is known to about 1 / sqrt(2 n); three of these of both.
        tolerance = 3 * math.sqrt(2) / math.sqrt(2 * ours.numel())
        assert ours.std().item() == pytest.approx(expected.std().item(), rel=tolerance)
        assert ours.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.02)


def test_an_encoder_that_begins_silent_gives_its_embeddings() -> None:
    torch.manual_seed(0)
    encoder = ModernBert(TINY).eval()
    begin_silent(encoder)
    batch = encoder_part(batch_of(LENGTHS, TINY))
    with torch.no_grad():
        layers = encoder.layers(**batch)
    assert all(torch.equal(layer, layers[0]) for layer in layers[1:-1])
    changed = {name for name, part in encoder.named_parameters() if not part.any()}
    assert changed == {
        f"blocks.{n}.{part}output.weight" for n in range(5) for part in ("", "attention.")
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("piece_ids", 211, r"piece id 211; this model knows 0 to 210 \(vocab_size is 211\)"),
        ("position_ids", 80, r"position 80; this model knows 0 to 79 \(max_position_embeddings"),
    ],
)
def test_an_id_that_the_model_does_not_know_is_named(name: str, value: int, message: str) -> None:
    batch = encoder_part(batch_of([4, 6], TINY))
    batch[name][3] = value
    with pytest.raises(DataError, match=message):
        ModernBert(TINY)(**batch)


def test_a_model_that_does_not_fit_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(ConfigError, match="this machine has"):
        ModernBert(ModernBertConfig(vocab_size=10**7, hidden_size=65536, num_attention_heads=1))


def test_the_encoder_runs_in_bfloat16_where_asked() -> None:
    torch.manual_seed(0)
    encoder = ModernBert(TINY).train()
    batch = encoder_part(batch_of(LENGTHS, TINY))
    exact = encoder(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(**batch)
    rough.float().square().sum().backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)  # 8 bits of fraction
