"""The masks of dropout: their rate, their scale, their seed."""

from __future__ import annotations

import pytest
import torch

from bertsmith.model.dropout import Noise, drop, drop_and_add


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_mask_drops_its_rate_and_keeps_the_mean(rate: float) -> None:
    mask = Noise(3).keep((1001, 999), rate, torch.empty(0))
    size = mask.numel()
    dropped = (mask == 0).sum().item() / size
    error = (rate * (1 - rate) / size) ** 0.5
    assert abs(dropped - rate) < 4 * error + 1 / 131072  # rates are rounded to 1/65536
    assert set(mask.unique().tolist()) == {0.0, mask.max().item()}
    assert mask.max().item() == pytest.approx(1 / (1 - rate), rel=1e-4)


def test_places_of_a_mask_do_not_depend_on_one_another() -> None:
    mask = (Noise(4).keep((1 << 20,), 0.1, torch.empty(0)) == 0).double()
    for distance in (1, 2, 3, 4, 7, 64, 128, 256):
        both = (mask[distance:] * mask[:-distance]).mean().item()
        assert abs(both - 0.01) < 4 * (0.01 * 0.99 / len(mask)) ** 0.5


def test_masks_follow_from_the_seed_and_one_another() -> None:
    first, second = Noise(5), Noise(5)
    shape = (7, 3)
    like = torch.empty(0)
    assert torch.equal(first.keep(shape, 0.5, like), second.keep(shape, 0.5, like))
    assert not torch.equal(first.keep(shape, 0.5, like), Noise(6).keep(shape, 0.5, like))


def test_a_draw_is_decided_by_torch_and_takes_one_number() -> None:
    torch.manual_seed(8)
    mask = Noise.draw().keep((50,), 0.5, torch.empty(0))
    state = torch.get_rng_state()
    torch.manual_seed(8)
    assert torch.equal(Noise.draw().keep((5000,), 0.5, torch.empty(0))[:50], mask)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_noise_or_rate_nothing_is_dropped() -> None:
    states, residual = torch.randn(4, 5), torch.randn(4, 5)
    assert drop(states, 0.5, None) is states
    assert drop(states, 0.0, Noise(0)) is states
    assert torch.equal(drop_and_add(states, 0.5, None, residual), residual + states)


def test_adding_after_dropout_is_dropout_and_a_sum() -> None:
    states, residual = torch.randn(4, 5), torch.randn(4, 5)
    expected = drop(states, 0.5, Noise(9)) + residual
    torch.testing.assert_close(drop_and_add(states, 0.5, Noise(9), residual), expected)
