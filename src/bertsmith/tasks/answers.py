"""A task model's answers to any number of rows, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bertsmith.data.framing import Framed
from bertsmith.model.task_heads import TaskModel
from bertsmith.tasks.forms import Features, Prediction
from bertsmith.tasks.pieces import TOKENS_PER_BATCH, encoded_ahead
from bertsmith.tasks.sequences import batches, distinct
from bertsmith.tasks.task import Task
from bertsmith.text.wordpiece import Tokenizer

# Pieces whose outputs are there at a time where each has its own: enough batches for their rows to
# be of like length in each, and some 5 MB for a tagger of 20 labels.
TOKENS_HELD = 16 * TOKENS_PER_BATCH


def answer(
    task: Task,
    model: TaskModel,
    tokenizer: Tokenizer,
    examples: Iterable[Any],
    max_length: int,
) -> Iterator[tuple[Any, Prediction]]:
    """Yields each row with its prediction, in their order; their number takes no memory."""
    task = task.with_weights_of(model)
    encoded = encoded_ahead(
        examples,
        tokenizer,
        lambda example, prepared: task.features(example, prepared, max_length),
    )
    for window, features in encoded:
        for example, row, outputs in results_of(model, window, features):
            yield example, task.decode(example, row, outputs)


def results_of(
    model: TaskModel, examples: Sequence[Any], features: Sequence[Features]
) -> Iterator[tuple[Any, Any, list[Tensor]]]:
    """Yields each row with the model's outputs for its sequences, as `Task.decode` takes them.

    Outputs per token are computed, and held, for as many rows at a time as have `TOKENS_HELD`
    pieces; those per sequence, which are small, for all rows at once.
    """
    limit = TOKENS_HELD if model.per_token else None
    place = 0
    for group in _groups(features, limit):
        outputs = iter(logits_of(model, [part for row in group for part in row.sequences]))
        for row in group:
            yield examples[place], row, [next(outputs) for _ in row.sequences]
            place += 1


def _groups(features: Sequence[Features], limit: int | None) -> Iterator[Sequence[Features]]:
    """Yields neighbouring rows of together up to `limit` pieces, or a longer one alone."""
    if limit is None:
        yield features
        return
    first = held = 0
    for place, row in enumerate(features):
        if held and held + row.num_tokens > limit:
            yield features[first:place]
            first, held = place, 0
        held += row.num_tokens
    yield features[first:]


def logits_of(model: TaskModel, sequences: Sequence[Framed]) -> list[Tensor]:
    """Returns the model's outputs for all sequences, in their order and without dropout.

    Each is [C], or [T, C] where the model has them per token; all are on the CPU. Equal sequences
    are computed once, those of like length together; the model is left in the mode it was in.
    """
    was_training = model.training
    if was_training:
        model.eval()
    device = next(model.parameters()).device
    once, numbers = distinct(sequences)
    found: list[Tensor] = [torch.empty(0)] * len(once)
    with torch.inference_mode():
        for group, batch in batches(once, device):
            outputs = model.logits(  # [S, C] or [T, C]
                batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts
            )
            outputs = outputs.float().cpu()
            lengths = batch.sequence_starts.diff().tolist()
            parts = outputs.split(lengths) if model.per_token else outputs.unbind()
            for place, part in zip(group, parts, strict=True):
                found[place] = part
    if was_training:
        model.train()
    return [found[number] for number in numbers]
