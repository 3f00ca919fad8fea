"""Encoders of random weights that are small enough for tests, with a vocabulary of a few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import BertConfig, CasingConfig
from bertsmith.folder import save_model
from bertsmith.model.bert import Bert
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary


def tiny_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Returns a tokenizer that knows these pieces and the special ones before them."""
    return Tokenizer(Vocabulary([*SPECIAL_PIECES, *words]), CasingConfig())


def write_tiny_encoder(
    folder: Path, words: Sequence[str], *, seed: int = 0, with_pooler: bool = True, **shape: Any
) -> Path:
    """Writes the folder of a random encoder that knows these pieces; returns the folder."""
    tokenizer = tiny_tokenizer(words)
    config = BertConfig(
        **{
            "vocab_size": len(tokenizer.vocabulary),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        }
        | shape
    )
    torch.manual_seed(seed)
    save_model(folder, Bert(config, with_pooler=with_pooler), tokenizer, {})
    return folder
