"""Rotary positions and the gate, against `transformers` and against torch's own gradients."""

from __future__ import annotations

import pytest
import torch
from tests.model.modern_models import TINY, theirs_like
from torch.nn import functional as F
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertRotaryEmbedding,
    apply_rotary_pos_emb,
)

from bertsmith.model.gating import gated
from bertsmith.model.rotary import turn, turns

HEADS, SIZE = 3, 8


def test_angles_are_those_of_transformers() -> None:
    theirs = ModernBertRotaryEmbedding(theirs_like(TINY))
    positions = torch.tensor([0, 5, 79, 5, 1])
    cosines, sines = theirs(torch.zeros(1), positions[None], "full_attention")
    found = turns(positions, TINY.hidden_size // TINY.num_attention_heads, TINY.global_rope_theta)
    torch.testing.assert_close(torch.cat([found[0]] * 2, 1), cosines[0], rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([found[1]] * 2, 1), sines[0], rtol=0, atol=0)


def test_queries_and_keys_are_turned_as_in_transformers_and_values_are_not() -> None:
    torch.manual_seed(0)
    states = torch.randn(7, 3 * HEADS * SIZE)
    cosines, sines = turns(torch.arange(7) * 3, SIZE, 100.0)
    query, key, value = states.view(7, 3, HEADS, SIZE).permute(1, 2, 0, 3)[:, None]
    expected = apply_rotary_pos_emb(
        query, key, torch.cat([cosines] * 2, 1)[None], torch.cat([sines] * 2, 1)[None]
    )
    found = turn(states, cosines, sines, 2 * HEADS * SIZE)
    found = found.view(7, 3, HEADS, SIZE).permute(1, 2, 0, 3)[:, None]
    for ours, theirs in zip(found, (*expected, value), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_a_turn_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    states = torch.randn(4, 3 * 2 * 4, dtype=torch.float64, requires_grad=True)
    cosines, sines = turns(torch.arange(4), 4, 10.0)
    assert torch.autograd.gradcheck(lambda rows: turn(rows, cosines, sines, 16), states)


def test_turned_scores_tell_distances_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, SIZE)
    scores = []
    for first, second in ((3, 10), (20, 27)):
        turned = [
            turn(states, *turns(torch.tensor([place]), SIZE, 50.0), SIZE)
            for states, place in ((query, first), (key, second))
        ]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_gate_is_the_formula_and_so_is_its_gradient(activation: str) -> None:
    torch.manual_seed(0)
    states = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    value, gate = states.chunk(2, 1)
    active = {
        "gelu": F.gelu(value),
        "gelu_new": F.gelu(value, approximate="tanh"),
        "relu": F.relu(value),
    }
    torch.testing.assert_close(gated(states, activation), active[activation] * gate)
    assert torch.autograd.gradcheck(lambda rows: gated(rows, activation), states)
