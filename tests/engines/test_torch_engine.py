"""The torch engine answers as the encoder that it is made of, whatever it is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
import torch
from tests.model import modern_models
from tests.model.published import TINY, encoder_part, packed, padded, pair
from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.engines.torch_engine import TorchEngine, with_engine
from bertsmith.errors import DataError
from bertsmith.model.bert import Bert, Block
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.modern import ModernBert
from bertsmith.model.task_heads import (
    BertForAnswering,
    BertForClassification,
    BertForTagging,
    TaskModel,
)

RAGGED = [3, 9, 24, 2, 30, 9, 21, 1]  # short and long ones, equal ones, in no order
EXACT = 1e-5  # of the largest number: what rounding in 32 bits leaves


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wild(config: BertConfig = TINY) -> Bert:
    """Returns an encoder of which every number matters: biases and norms are drawn too."""
    torch.manual_seed(3)
    encoder = Bert(dataclasses.replace(config, initializer_range=0.3)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return encoder


def inputs(lengths: list[int], config: BertConfig = TINY) -> dict[str, Tensor]:
    return encoder_part(packed(lengths, config))


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("lengths", [RAGGED, [7], [1], [25, 25, 25], [9, 9, 9]])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_every_state_is_that_of_the_encoder(
    lengths: list[int], activation: Literal["gelu", "gelu_new", "relu"], is_decoder: bool
) -> None:
    config = dataclasses.replace(TINY, hidden_act=activation, is_decoder=is_decoder)
    encoder, batch = wild(config), inputs(lengths)
    positions = torch.tensor([sum(lengths) - 1, 0])
    with torch.no_grad():
        layers, last = encoder.layers(**batch), encoder(**batch)
        firsts, at = encoder.firsts(**batch), encoder.at(**batch, positions=positions)
    engine = TorchEngine(encoder)
    for found, expected in zip(engine.layers(**batch), layers, strict=True):
        assert_same(found, expected)
    assert_same(engine(**batch), last)
    assert_same(engine.firsts(**batch), firsts)
    assert_same(engine.at(**batch, positions=positions), at)


def test_states_are_those_of_transformers() -> None:
    ours, theirs = pair(TINY)
    batch = packed(RAGGED, TINY)
    arguments = padded(batch)
    del arguments["labels"], arguments["next_sentence_label"]
    with torch.no_grad():
        expected = theirs.eval().bert(**arguments).last_hidden_state
    found = TorchEngine(ours.encoder)(**encoder_part(batch))
    assert_same(found, expected[arguments["attention_mask"].bool()])


def test_prepacked_weights_give_the_same_states() -> None:
    encoder = wild()
    batch = inputs([5, 3])
    with torch.no_grad():
        expected = encoder(**batch)
    engine = TorchEngine(encoder)
    found = [engine(**batch) for _ in range(40)]
    assert engine._steps[0].qkv.packed is not None
    for states in found:
        assert_same(states, expected)


def test_the_encoder_still_gives_its_own_states_and_weights() -> None:
    encoder, batch = wild(), inputs(RAGGED)
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        expected = encoder(**batch)
        TorchEngine(encoder)(**batch)
        assert_same(encoder(**batch), expected)
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


def test_matrices_are_held_once() -> None:
    encoder = wild()
    engine = TorchEngine(encoder)
    for step, block in zip(engine._steps, encoder.blocks, strict=True):
        assert isinstance(block, Block)
        assert step.inner.weight.data_ptr() == block.intermediate.weight.data_ptr()


def test_threads_that_ask_at_once_get_the_same_states() -> None:
    encoder = wild()
    engine = TorchEngine(encoder)
    batches = [inputs([length, 30 - length, 11]) for length in range(1, 29)]
    expected = [engine(**batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, wanted in zip(
                pool.map(lambda batch: engine(**batch), batches), expected, strict=True
            ):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_states_stay_when_the_engine_is_asked_again() -> None:
    engine = TorchEngine(wild())
    first = engine(**inputs(RAGGED))
    kept = first.clone()
    engine(**inputs([30, 30]))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_what_stands_on_the_encoder_answers_as_before() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, initializer_range=0.3)
    batch = inputs(RAGGED)
    models: list[TaskModel] = [
        BertForClassification(config, 3),
        BertForTagging(config, 4, num_intents=2),
        BertForAnswering(config),
    ]
    for model in models:
        model.eval()
        with torch.inference_mode():
            expected = model.logits(**batch)
            twin = with_engine(model)
            assert not isinstance(model.encoder, TorchEngine)
            assert isinstance(twin.encoder, TorchEngine)
            assert_same(twin.logits(**batch), expected)


def test_masked_pieces_are_scored_as_before() -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(dataclasses.replace(TINY, initializer_range=0.3)).eval()
    batch, places = inputs(RAGGED), torch.tensor([2, 40, 7])
    with torch.inference_mode():
        expected = model.logits(**batch, positions=places)
        found = with_engine(model).logits(**batch, positions=places)
    assert_same(found, expected)


def test_other_kinds_and_types_stay_as_they_are() -> None:
    modern = ModernBert(modern_models.TINY)
    assert with_engine(modern) is modern
    half = wild().to(torch.bfloat16)
    assert with_engine(half) is half


def test_pieces_beyond_the_vocabulary_are_refused() -> None:
    batch = inputs([4])
    batch["piece_ids"][1] = TINY.vocab_size
    with pytest.raises(DataError, match=f"holds piece id {TINY.vocab_size}"):
        TorchEngine(wild())(**batch)
