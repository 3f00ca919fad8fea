"""The likeliest pieces behind each [MASK] of any number of texts.

Shapes:  M masked pieces   V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from bertsmith.data.framing import Framed
from bertsmith.data.packing import PackedBatch
from bertsmith.errors import ConfigError, DataError
from bertsmith.model.kinds import PretrainingModel
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import encode, encoded_ahead
from bertsmith.tasks.sequences import batches, distinct
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

_SCORED_AT_ONCE = 256  # masked pieces: their scores take 30 MB with the published vocabulary

Filling = list[dict[str, Any]]  # for one [MASK] the likeliest pieces: `piece`, `probability`


def fill(
    model: PretrainingModel,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    max_length: int,
    top: int,
) -> Iterator[list[Filling]]:
    """Yields for each text, in their order, what each of its masks stands for.

    Raises:
        ConfigError: there are not `top` pieces.
        DataError: a text has no [MASK], or has one beyond the longest length.
    """
    vocabulary = tokenizer.vocabulary
    if not 1 <= top <= len(vocabulary.pieces):
        raise ConfigError(f"top is {top}; expected 1 to {len(vocabulary.pieces)}")

    def framed(example: Example, prepared: Tokenizer) -> Framed:
        row = encode(example, prepared, max_length, with_special=True)
        _check_masks(example, row, vocabulary.mask_id, max_length)
        return row

    device = model.encoder.embeddings.pieces.weight.device
    for _, rows in encoded_ahead(examples, tokenizer, framed):
        once, numbers = distinct(rows)
        found: list[list[Filling]] = [[] for _ in once]
        for group, batch in batches(once, device):
            places = np.flatnonzero(batch.piece_ids.cpu().numpy() == vocabulary.mask_id)  # [M]
            fillings = iter(_fillings(model, batch, places, vocabulary, top))
            owners = np.searchsorted(batch.sequence_starts.numpy(), places, side="right") - 1
            for owner in owners.tolist():
                found[group[owner]].append(next(fillings))
        for number in numbers:
            yield found[number]


def _check_masks(example: Example, row: Framed, mask_id: int, max_length: int) -> None:
    masks = int((row.piece_ids == mask_id).sum())
    if masks < max(1, example.text.count("[MASK]")):
        found = f"has no [MASK] in its first {max_length} pieces"
        if masks:
            found = f"has a [MASK] after its first {max_length} pieces"
        raise DataError(f"{example.where} {found}; expected one or more there")


def _fillings(
    model: PretrainingModel,
    batch: PackedBatch,
    places: np.ndarray,
    vocabulary: Vocabulary,
    top: int,
) -> Iterator[Filling]:
    """Yields the likeliest pieces at each of the batch's places. [M]"""
    inputs = (batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)
    for part in torch.from_numpy(places).to(batch.piece_ids.device).split(_SCORED_AT_ONCE):
        with torch.inference_mode():
            logits = model.logits(*inputs, part).float()  # [M, V]
            best = logits[:, : len(vocabulary.pieces)].softmax(dim=1).topk(top)  # [M, top] twice
        for shares, pieces in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            yield [
                {"piece": vocabulary.pieces[piece], "probability": share}
                for share, piece in zip(shares, pieces, strict=True)
            ]
