"""How far two models' answers lie apart, on sentences that every installation has."""

from __future__ import annotations

import torch
from torch import Tensor

from bertsmith.config import BertConfig
from bertsmith.data.packing import pack_texts
from bertsmith.folder import Loaded
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.kinds import Encoder
from bertsmith.model.modern_heads import ModernBertForPreTraining
from bertsmith.model.published import encoder_in
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import encode

# Long and short, single and paired, with marks, accents, digits and another script.
SENTENCES: tuple[tuple[str, str | None], ...] = (
    ("The quick brown fox jumps over the lazy dog.", None),
    ("Paris is the capital of [MASK].", None),
    ("She sat on the bank of the river.", "The bank raised its rates by 0.25% in May 2019."),
    ("Das Café in Zürich öffnet um 8 Uhr.", None),
    ("自然言語処理とは何か?", "Nobody knows."),
    ("No.", None),
    (
        "We hold these truths to be self-evident, that all men are created equal, that they are "
        "endowed by their Creator with certain unalienable Rights, that among these are Life, "
        "Liberty and the pursuit of Happiness.",
        None,
    ),
)


def max_abs_difference(one: Loaded, other: Loaded) -> float:
    """Returns the largest difference of any state or logit of two models on `SENTENCES`.

    Compared are the states of every layer, the pooled vectors, and the logits of every head, where
    each model cuts the sentences with its own tokenizer. Infinity where these differ in number.
    """
    largest = 0.0
    found, others = answers(one), answers(other)
    if [states.shape for states in found] != [states.shape for states in others]:
        return float("inf")
    for ours, theirs in zip(found, others, strict=True):
        largest = max(largest, float((ours - theirs).abs().max()))
    return largest


def answers(loaded: Loaded) -> list[Tensor]:
    """Returns every state and logit of a model on `SENTENCES`: each [T, H], [S, H] or [., C]."""
    config = loaded.config
    alone = isinstance(config, BertConfig) and config.type_vocab_size == 1  # no second segment
    examples = [Example("sentence", text, None if alone else pair) for text, pair in SENTENCES]
    longest = config.max_position_embeddings
    rows = [encode(one, loaded.tokenizer, longest, with_special=True) for one in examples]
    batch = pack_texts(rows)
    inputs = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    model = loaded.model
    with torch.inference_mode():
        encoder = encoder_in(model)
        found = encoder.layers(*inputs)  # [T, H] each
        if encoder.pooler is not None and not isinstance(model, ModernBertForPreTraining):
            found.append(encoder.of_texts(*inputs))  # [S, H]
        if isinstance(model, BertForPreTraining | ModernBertForPreTraining):
            found.append(model.logits(*inputs, torch.arange(len(batch.piece_ids))))  # [T, V]
            if isinstance(model, BertForPreTraining) and model.next is not None:
                found.append(model.next_logits(*inputs))  # [S, 2]
        elif not isinstance(model, Encoder):
            found.append(model.logits(*inputs))  # [., C]
    return [one.float() for one in found]
