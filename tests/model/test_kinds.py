"""What all kinds of encoder have in common: their blocks' matrices, and a silent beginning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bertsmith.config import EncoderConfig, bert_of_size, modern_of_size
from bertsmith.model.kinds import begin_silent, matrices_of_blocks, pretraining_model_of
from bertsmith.model.modern import ModernBert

BERT = bert_of_size("L2-H32-A2", vocab_size=50)
MODERN = modern_of_size("L2-H32-A2", vocab_size=50)


@pytest.mark.parametrize("config", [BERT, MODERN], ids=["bert", "modern"])
def test_every_weight_of_every_block_is_named_and_no_other(config: EncoderConfig) -> None:
    model = pretraining_model_of(config)
    expected = {
        name
        for name, part in model.named_parameters()
        if name.startswith("encoder.blocks.") and part.ndim == 2
    }
    assert matrices_of_blocks(model).keys() == expected


@pytest.mark.parametrize(("config", "inner"), [(BERT, 1), (MODERN, 2)], ids=["bert", "modern"])
def test_weights_that_hold_several_matrices_say_so(config: EncoderConfig, inner: int) -> None:
    found = matrices_of_blocks(pretraining_model_of(config))
    assert found["encoder.blocks.1.attention.qkv.weight"] == 3
    assert found["encoder.blocks.1.intermediate.weight"] == inner
    assert found["encoder.blocks.1.output.weight"] == 1


def test_a_silent_bert_gives_its_embeddings_normalised_again() -> None:
    torch.manual_seed(0)
    encoder = pretraining_model_of(BERT).encoder.eval()
    begin_silent(encoder)
    pieces = torch.randint(0, 50, (7,))
    with torch.no_grad():
        layers = encoder.layers(
            piece_ids=pieces,
            segment_ids=torch.zeros_like(pieces),
            position_ids=torch.arange(7),
            sequence_starts=torch.tensor([0, 7], dtype=torch.int32),
        )
    for layer in layers[1:]:  # what is normalised already stays so, but for rounding
        torch.testing.assert_close(layer, layers[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [BERT, MODERN], ids=["bert", "modern"])
def test_its_own_blocks_over_its_embeddings_are_the_encoder(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder = pretraining_model_of(config).encoder.eval()
    pieces = torch.randint(0, 50, (9,))
    batch = {
        "piece_ids": pieces,
        "segment_ids": torch.zeros_like(pieces),
        "position_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]),
        "sequence_starts": torch.tensor([0, 4, 9], dtype=torch.int32),
    }
    last = encoder.norm if isinstance(encoder, ModernBert) else nn.Identity()
    with torch.no_grad():
        found = last(encoder.through(nn.Identity(), encoder.blocks, **batch))
        assert torch.equal(found, encoder(**batch))
