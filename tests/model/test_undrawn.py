"""Modules that are made without drawing have the shapes of others, and no numbers."""

from __future__ import annotations

import pytest
import torch
from tests.model import modern_models
from tests.model.published import TINY

from bertsmith.config import EncoderConfig
from bertsmith.model.kinds import pretraining_model_of
from bertsmith.model.undrawn import undrawn


@pytest.mark.parametrize("config", [TINY, modern_models.TINY])
def test_they_have_shapes_alone_and_no_random_number_is_drawn(config: EncoderConfig) -> None:
    expected = {
        name: part.shape for name, part in pretraining_model_of(config).state_dict().items()
    }
    before = torch.get_rng_state()
    with undrawn():
        found = pretraining_model_of(config).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: part.shape for name, part in found.items()} == expected
    assert all(part.is_meta for part in found.values())
