"""Small encoders of random weights, and engines that must answer as `transformers` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers
from tests.model.published import TINY, packed, padded
from torch import Tensor

from bertsmith.model.bert import Bert
from bertsmith.model.names import BERT, from_published

CONFIG = dataclasses.replace(TINY, hidden_size=64, intermediate_size=128)
LENGTHS = [7, 40, 12, 12, 12, 1, 12, 12, 33, 7, 31, 2, 20]


def encoder_and_theirs(**changes: object) -> tuple[Bert, transformers.BertModel]:
    """Returns an encoder and that of `transformers` with the same random weights."""
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    torch.manual_seed(3)
    settings = transformers.BertConfig(**config.to_mapping(), attn_implementation="eager")
    theirs = transformers.BertModel(settings).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = Bert(config).eval()
    state = from_published(theirs.state_dict(), ours.state_dict(), where="theirs", table=BERT)
    ours.load_state_dict(state)
    return ours, theirs


def packed_inputs(lengths: list[int], seed: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns a random packed batch with two kinds of segment."""
    batch = packed(lengths, CONFIG, seed)
    return (
        batch["piece_ids"],
        batch["segment_ids"],
        batch["position_ids"],
        batch["sequence_starts"],
    )


def states_of_theirs(theirs: transformers.BertModel, lengths: list[int], seed: int = 2) -> Tensor:
    """Returns what `transformers` makes of the same batch, packed. [T, H]"""
    inputs = padded(packed(lengths, CONFIG, seed))
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.inference_mode():
        states = theirs(**{name: inputs[name] for name in names}).last_hidden_state
    return states[inputs["attention_mask"].bool()]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder in which engines keep what they convert, empty at first."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BERTSMITH_CACHE", str(folder))
    return folder
