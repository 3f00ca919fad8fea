"""The same modern encoder here and in `transformers`, and ragged batches for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from tests.model.published import packed, padded
from torch import Tensor, nn

from bertsmith.config import BertConfig, ModernBertConfig
from bertsmith.model.modern_names import MODERN
from bertsmith.model.names import from_published
from bertsmith.model.rope_settings import rope_settings

# The window reaches four pieces to either side: texts are shorter and far longer than it.
TINY = ModernBertConfig(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=80,
    local_attention=8,
    global_rope_theta=300.0,
    local_rope_theta=20.0,
)
GLOBAL = dataclasses.replace(TINY, global_attn_every_n_layers=1)
FULL = dataclasses.replace(  # every option other than by default
    TINY,
    global_attn_every_n_layers=2,
    local_attention=31,
    attention_bias=True,
    mlp_bias=True,
    norm_bias=True,
    classifier_bias=True,
    decoder_bias=False,
    classifier_pooling="mean",
    hidden_activation="gelu_new",
    classifier_activation="relu",
    norm_eps=1e-3,
)
CONFIGS = {"local": TINY, "global": GLOBAL, "full": FULL}
# Equal ones (a crowd of eight and a pair), near ones, far ones, the longest and the shortest.
LENGTHS = [7, 80, 12, 12, 12, 1, 12, 12, 12, 12, 12, 33, 7, 31, 2, 60, 13, 24, 25]


def batch_of(lengths: list[int], config: ModernBertConfig) -> dict[str, Tensor]:
    """Returns a random packed batch with sequences of these lengths."""
    return packed(lengths, BertConfig(vocab_size=config.vocab_size))


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a batch as the modern classes of `transformers` take it, without labels."""
    both = padded(batch)
    return {name: both[name] for name in ("input_ids", "attention_mask")}


def theirs_like(config: ModernBertConfig, **changes: Any) -> Any:
    """Returns the settings of a `transformers` model of the same shape."""
    names = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
    known = config.to_mapping() | rope_settings(config) | dict.fromkeys(names, 0)
    return transformers.ModernBertConfig(**(known | changes))


def randomized(theirs: Any) -> Any:
    """Moves every weight, so that biases and norms count too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def like(ours: nn.Module, theirs: Any) -> Any:
    """Gives ours the weights of theirs and returns it."""
    state = from_published(theirs.state_dict(), ours.state_dict(), where="theirs", table=MODERN)
    ours.load_state_dict(state)
    return ours
