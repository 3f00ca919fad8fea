"""Our names and the published ones, in both directions."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.model.published import TINY, theirs_like
from torch import Tensor

from bertsmith.errors import CheckpointError
from bertsmith.model.bert import Bert
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.names import COPIES, from_published, to_published
from bertsmith.model.task_heads import BertForClassification


def theirs() -> dict[str, Tensor]:
    return dict(transformers.BertForPreTraining(theirs_like(TINY)).state_dict())


def ours() -> dict[str, Tensor]:
    return BertForPreTraining(TINY).state_dict()


def test_import_undoes_export_bit_for_bit() -> None:
    state = ours()
    back = from_published(to_published(state), state, where="here")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_export_undoes_import_bit_for_bit() -> None:
    tensors = theirs()
    back = to_published(from_published(tensors, ours(), where="here"))
    assert all(torch.equal(back[name], tensors[name]) for name in back)
    assert tensors.keys() - back.keys() == {copy for copy, _ in COPIES}


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (BertForPreTraining(TINY), transformers.BertForPreTraining),
        (BertForPreTraining(TINY, next_sentence=False), transformers.BertForMaskedLM),
        (BertForClassification(TINY, 2), transformers.BertForSequenceClassification),
        (Bert(TINY), transformers.BertModel),
    ],
)
def test_names_and_shapes_are_those_of_transformers(
    model: torch.nn.Module, published: type
) -> None:
    tensors = to_published(model.state_dict())
    expected = published(theirs_like(TINY)).state_dict()
    for copy, _ in COPIES:
        expected.pop(copy, None)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }


def test_the_oldest_names_and_position_counters_are_read() -> None:
    tensors = theirs()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(TINY.max_position_embeddings)[None]
    state = ours()
    expected = from_published(tensors, state, where="here")
    back = from_published(old, state, where="here")
    assert all(torch.equal(back[name], expected[name]) for name in state)


def test_half_precision_is_read_as_single() -> None:
    state = ours()
    halves = {name: tensor.half() for name, tensor in to_published(state).items()}
    assert all(t.dtype == torch.float32 for t in from_published(halves, state, where="").values())


def test_the_encoder_of_a_model_is_taken_by_name_with_or_without_prefix() -> None:
    tensors = theirs()
    encoder = Bert(TINY)
    state = encoder.state_dict()
    taken = from_published(tensors, state, where="here", without_heads=True)
    bare = {
        name.removeprefix("bert."): tensor
        for name, tensor in tensors.items()
        if name.startswith("bert.")
    }
    again = from_published(bare, state, where="here")
    assert taken.keys() == again.keys() == state.keys()
    assert all(torch.equal(taken[name], again[name]) for name in state)


def test_missing_and_left_over_tensors_are_named() -> None:
    tensors = theirs()
    del tensors["bert.encoder.layer.1.attention.self.key.weight"]
    tensors["bert.encoder.layer.9.output.dense.bias"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError,
        match=r"here: bert.encoder.layer.1.attention.self.key.weight is missing and "
        r"bert.encoder.layer.9.output.dense.bias is left over",
    ):
        from_published(tensors, ours(), where="here")


def test_heads_are_left_over_unless_the_encoder_alone_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias.* are left over"):
        from_published(theirs(), Bert(TINY).state_dict(), where="here")


def test_another_shape_is_named_with_both_shapes() -> None:
    tensors = theirs()
    tensors["bert.pooler.dense.weight"] = torch.zeros(3, 5)
    with pytest.raises(CheckpointError, match=r"pooler.dense.weight has the shape \[3, 5\]; exp"):
        from_published(tensors, ours(), where="here")


def test_an_untied_decoder_is_refused() -> None:
    tensors = theirs()
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    with pytest.raises(CheckpointError, match="decoder.weight differs from"):
        from_published(tensors, ours(), where="here")
