"""Attention within a window, against the formula with everything else masked."""

from __future__ import annotations

import pytest
import torch
from tests.model.modern_models import LENGTHS
from torch import Tensor

from bertsmith.model.attention import Layout
from bertsmith.model.dropout import Noise
from bertsmith.model.local_attention import LocalLayout, attend_near

HEADS, HIDDEN = 3, 12


def layout_of(lengths: list[int], window: int) -> LocalLayout:
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return LocalLayout.of(Layout.of(starts, torch.device("cpu")), window)


def plain(qkv: Tensor, layout: LocalLayout) -> Tensor:
    """Attends sequence by sequence, by the formula, on rows in the layout's order."""
    rows = layout.whole.restore(qkv)
    starts = layout.whole.starts.tolist()
    read = []
    for start, end in zip(starts, starts[1:], strict=False):
        query, key, value = rows[start:end].unflatten(-1, (3, HEADS, -1)).permute(1, 2, 0, 3)
        places = torch.arange(end - start)
        far = (places[:, None] - places).abs() > layout.window
        scores = (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(far, -torch.inf)
        read.append((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    return layout.whole.arrange(torch.cat(read))


@pytest.mark.parametrize("window", [1, 2, 5, 11, 12, 40, 100])
@pytest.mark.parametrize("lengths", [LENGTHS, [24] * 9, [31], [3]])
def test_states_and_gradients_are_those_of_the_formula(lengths: list[int], window: int) -> None:
    layout = layout_of(lengths, window)
    qkv = torch.randn(
        sum(lengths), 3 * HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    ours, theirs = attend_near(qkv, layout, HEADS, 0.0, None), plain(qkv, layout)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad(read, qkv, direction)[0] for read in (ours, theirs))
    )


@pytest.mark.parametrize("window", [2, 5])
def test_attention_under_dropout_is_right_on_average(window: int) -> None:
    layout = layout_of([13, 20, 4], window)
    qkv = torch.randn(37, 3 * HIDDEN, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([attend_near(qkv, layout, HEADS, 0.2, Noise(seed)) for seed in range(1000)])
    errors = draws.std(0) / len(draws) ** 0.5
    # Of 444 means, none should be as far out as five standard errors (p = 3e-4).
    assert ((draws.mean(0) - plain(qkv, layout)).abs() < 5 * errors).all()


def test_gradients_under_dropout_are_finite_where_sequences_are_padded() -> None:
    layout = layout_of(LENGTHS, 4)
    qkv = torch.randn(sum(LENGTHS), 3 * HIDDEN).requires_grad_()
    attend_near(qkv, layout, HEADS, 0.3, Noise(1)).sum().backward()
    assert qkv.grad is not None and qkv.grad.isfinite().all()


def test_long_sequences_are_cut_into_chunks_and_short_ones_are_not() -> None:
    layout = layout_of([100] * 9 + [30] * 9, 10)
    assert [chunks.group.longest for chunks in layout.chunks] == [100]
    assert layout.chunks[0].bias.shape == (90, 1, 10, 30)
    assert layout.rest is not None
    assert [group.longest for group in layout.rest.groups] == [30]
    assert layout.rest.groups[0].first == 0
