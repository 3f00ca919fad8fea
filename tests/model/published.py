"""The same weights in `transformers`, and the same ragged batch, packed and padded."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.names import from_published

TINY = BertConfig(
    vocab_size=211,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=40,
)
EXACT = dataclasses.replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
# Equal ones (a crowd of eight and a pair), near ones, far ones, the longest and the shortest.
LENGTHS = [7, 40, 12, 12, 12, 1, 12, 12, 12, 12, 12, 33, 7, 31, 2, 20]


def assert_agree(ours: Tensor, theirs: Tensor) -> None:
    """Holds two results equal but for the rounding of fp32 sums taken in another order."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def theirs_like(config: BertConfig, attention: str = "sdpa", **changes: Any) -> Any:
    """Returns the settings of a `transformers` model of the same shape."""
    return transformers.BertConfig(**(config.to_mapping() | changes), attn_implementation=attention)


def pair(config: BertConfig, attention: str = "sdpa") -> tuple[BertForPreTraining, Any]:
    """Returns our model and theirs with the same random weights, biases and norms too."""
    torch.manual_seed(1)
    theirs = transformers.BertForPreTraining(theirs_like(config, attention))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    ours = BertForPreTraining(config)
    ours.load_state_dict(
        from_published(theirs.state_dict(), ours.state_dict(), where="transformers")
    )
    return ours, theirs


def packed(lengths: list[int], config: BertConfig, seed: int = 2) -> dict[str, Tensor]:
    """Returns a random packed batch for pre-training with sequences of these lengths."""
    rng = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    masked = torch.randperm(tokens, generator=rng)[: tokens // 5].sort().values
    return {
        # From 1: piece 0 is [PAD], to which theirs passes no gradient and which no text holds.
        "piece_ids": torch.randint(1, config.vocab_size, (tokens,), generator=rng),
        "segment_ids": torch.randint(0, config.type_vocab_size, (tokens,), generator=rng),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "sequence_starts": starts.to(torch.int32),
        "masked_positions": masked,
        "masked_labels": torch.randint(0, config.vocab_size, masked.shape, generator=rng),
        "next_labels": torch.randint(0, 2, (len(lengths),), generator=rng),
    }


def encoder_part(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns what the encoder itself reads of a batch."""
    names = ("piece_ids", "segment_ids", "position_ids", "sequence_starts")
    return {name: batch[name] for name in names}


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a packed batch as `transformers` takes it, labels of -100 where nothing is masked."""
    starts = batch["sequence_starts"].long()
    lengths = starts.diff()
    used = torch.arange(int(lengths.max())) < lengths[:, None]
    labels = torch.full_like(batch["piece_ids"], -100)
    if "masked_positions" in batch:
        labels[batch["masked_positions"]] = batch["masked_labels"]
    result = {"attention_mask": used.long()}
    for name, values, filling in (
        ("input_ids", batch["piece_ids"], 0),
        ("token_type_ids", batch["segment_ids"], 0),
        ("labels", labels, -100),
    ):
        result[name] = torch.full(used.shape, filling).masked_scatter(used, values)
    if "next_labels" in batch:
        result["next_sentence_label"] = batch["next_labels"]
    return result
