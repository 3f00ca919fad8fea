"""Attention over packed sequences, with and without dropout, and where its sequences lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.published import LENGTHS
from torch import Tensor

from bertsmith.model.attention import Layout, _DroppedAttention, attend
from bertsmith.model.dropout import Noise

HEADS, HIDDEN = 3, 12


def layout_of(lengths: list[int]) -> Layout:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout.of(starts, torch.device("cpu"))


def plain_attention(qkv: Tensor, layout: Layout) -> Tensor:
    """Attends sequence by sequence, by the formula, on rows in the layout's order."""
    rows = layout.restore(qkv)
    starts = layout.starts.tolist()
    read = []
    for start, end in zip(starts, starts[1:], strict=False):
        query, key, value = rows[start:end].unflatten(-1, (3, HEADS, -1)).permute(1, 2, 0, 3)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        read.append((weights @ value).transpose(0, 1).flatten(1))
    return layout.arrange(torch.cat(read))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_layout_holds_every_token_once_and_gives_the_batch_back(lengths: list[int]) -> None:
    layout = layout_of(lengths)
    tokens = torch.arange(sum(lengths))
    assert torch.equal(layout.restore(layout.arrange(tokens)), tokens)
    assert [group.first for group in layout.groups[1:]] == [
        group.last for group in layout.groups[:-1]
    ]
    assert layout.groups[0].first == 0 and layout.groups[-1].last == len(tokens)
    assert sum(group.sequences for group in layout.groups) == len(lengths)
    for group in layout.groups:
        if group.padded is not None and group.packed is not None:
            places = group.padded[group.packed]
            assert torch.equal(places, torch.arange(group.last - group.first))


def test_a_batch_of_one_length_is_one_group_in_its_own_order() -> None:
    layout = layout_of([16] * 20)
    assert len(layout.groups) == 1
    assert layout.groups[0].padded is None and layout.order is None


def test_a_crowd_of_equal_lengths_is_not_padded_for_the_sake_of_a_few() -> None:
    layout = layout_of([128] * 20 + [126, 101, 30])
    assert [group.sequences for group in layout.groups] == [20, 2, 1]
    assert layout.groups[0].padded is None


@pytest.mark.parametrize("lengths", [LENGTHS, [5] * 9, [3]])
def test_attention_without_dropout_is_that_of_the_formula(lengths: list[int]) -> None:
    layout = layout_of(lengths)
    qkv = torch.randn(sum(lengths), 3 * HIDDEN, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        attend(qkv, layout, HEADS, 0.0, None), plain_attention(qkv, layout), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lengths", [LENGTHS, [5] * 9, [3]])
def test_the_function_with_dropout_is_the_formula_when_nothing_is_dropped(
    lengths: list[int],
) -> None:
    layout = layout_of(lengths)
    qkv = torch.randn(
        sum(lengths), 3 * HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    ours = _DroppedAttention.apply(qkv, layout, HEADS, 0.0, Noise(0))
    theirs = plain_attention(qkv, layout)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    for result, expected in zip(
        torch.autograd.grad(ours, qkv, weights),
        torch.autograd.grad(theirs, qkv, weights),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)


def test_the_gradient_under_dropout_is_that_of_finite_differences() -> None:
    lengths = [4, 2, 4, 3, 1]
    layout = layout_of(lengths)
    qkv = torch.randn(
        sum(lengths), 3 * HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: attend(rows, layout, HEADS, 0.3, Noise(7)), qkv)


def test_attention_under_dropout_is_right_on_average() -> None:
    layout = layout_of([6, 5])
    qkv = torch.randn(11, 3 * HIDDEN, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([attend(qkv, layout, HEADS, 0.2, Noise(seed)) for seed in range(3000)])
    expected = attend(qkv, layout, HEADS, 0.0, None)
    errors = draws.std(0) / np.sqrt(len(draws))
    # Of 132 means, none should be as far out as five standard errors (p = 8e-5).
    assert ((draws.mean(0) - expected).abs() < 5 * errors).all()
