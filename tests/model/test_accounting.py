"""Parameters, operations and memory, against published counts and against what torch counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.model import modern_models
from tests.model.published import TINY, packed
from torch.utils.flop_counter import FlopCounterMode

from bertsmith.config import BertConfig, EncoderConfig, bert_of_size
from bertsmith.model.accounting import (
    count_parameters,
    flops_per_token,
    memory_bytes,
    on_paper,
    parameters_by_formula,
)
from bertsmith.model.bert import Bert
from bertsmith.model.electra import ForReplacedTokens
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.task_heads import BertForClassification


@pytest.mark.parametrize(
    ("config", "encoder", "total"),
    [
        (bert_of_size("base"), 109_482_240, 110_106_428),
        (bert_of_size("large"), 335_141_888, 336_226_108),
        (bert_of_size("base", vocab_size=21128), 102_267_648, 102_882_442),
    ],
)
def test_published_sizes_have_their_published_counts(
    config: BertConfig, encoder: int, total: int
) -> None:
    counts = count_parameters(on_paper(config))
    assert (counts["encoder"], counts["total"]) == (encoder, total)
    assert counts["heads"] == total - encoder


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, intermediate_size=100, type_vocab_size=5),
        *map(bert_of_size, ("tiny", "mini", "small", "medium", "base", "large", "L6-H384-A12")),
    ],
)
def test_the_formula_is_the_count(config: BertConfig) -> None:
    formula = parameters_by_formula(config)
    assert formula["encoder"] == count_parameters(on_paper(config))["encoder"]
    assert formula["pieces_VH"] == config.vocab_size * config.hidden_size
    assert formula["blocks_12LHH"] == 12 * config.num_hidden_layers * config.hidden_size**2


def test_the_parts_are_the_whole() -> None:
    for model in (Bert(TINY, with_pooler=False), BertForPreTraining(TINY)):
        counts = count_parameters(model)
        whole = counts.pop("total")
        parts = sum(count for name, count in counts.items() if name != "encoder")
        assert parts == whole == sum(p.numel() for p in model.parameters())


def test_operations_are_those_that_torch_counts() -> None:
    lengths = [32] * 10
    batch = packed(lengths, TINY)
    share = len(batch["masked_positions"]) / sum(lengths)
    model = BertForPreTraining(TINY).train()  # with dropout, all products are torch's plain ones
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    next_head = 2 * 2 * TINY.hidden_size * len(lengths)  # too small to be in the formula
    expected = flops_per_token(model, sequence_length=32, masked_share=share)
    counted = (counter.get_total_flops() - next_head) / sum(lengths)
    assert counted == pytest.approx(expected["inference"], rel=1e-9)
    assert expected["training"] == 3 * expected["inference"]


# With dropout, since torch does not count what its fused attention does on a CPU.
MODERN = dataclasses.replace(modern_models.GLOBAL, attention_dropout=0.1)


@pytest.mark.parametrize("config", [TINY, MODERN], ids=["bert", "modern"])
def test_operations_of_both_halves_are_those_that_torch_counts(config: EncoderConfig) -> None:
    lengths = [32] * 10
    batch = packed(lengths, TINY)
    batch["piece_ids"] %= config.vocab_size
    batch["masked_labels"] %= config.vocab_size
    masked = len(batch["masked_positions"])
    model = ForReplacedTokens(config, 0.5).train()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    scored_again = 2 * masked * config.hidden_size * config.vocab_size  # to draw, and not trained
    expected = flops_per_token(model, sequence_length=32, masked_share=masked / sum(lengths))
    counted = (counter.get_total_flops() - scored_again) / sum(lengths)
    assert counted == pytest.approx(expected["training"] / 3, rel=1e-9)
    assert expected["inference"] < expected["training"] / 3


def test_a_generator_takes_memory_in_training() -> None:
    alone, beside = BertForPreTraining(TINY, next_sentence=False), ForReplacedTokens(TINY, 0.5)
    without, with_generator = (
        memory_bytes(model, sequence_length=128) for model in (alone, beside)
    )
    more = count_parameters(beside)["total"] - count_parameters(alone)["total"]
    assert with_generator["training"] - without["training"] > 4 * 4 * more > 0


def test_training_takes_four_times_the_weights_and_more() -> None:
    model = BertForClassification(TINY, 2)
    weights = 4 * count_parameters(model)["total"]
    memory = memory_bytes(model, sequence_length=128)
    assert weights < memory["inference"] < memory["training"]
    assert memory["training"] > 4 * weights


def test_left_to_right_every_token_is_scored() -> None:
    model = BertForPreTraining(dataclasses.replace(TINY, is_decoder=True), next_sentence=False)
    assert flops_per_token(model, sequence_length=16) == flops_per_token(
        model, sequence_length=16, masked_share=1.0
    )
