"""A task model's answers to any number of rows, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from bertsmith.data.batches import pack_texts
from bertsmith.data.framing import Framed, group_by_length
from bertsmith.tasks.labelled import Example, Prediction
from bertsmith.tasks.pieces import TOKENS_PER_BATCH, encode, windows
from bertsmith.tasks.task import Task, TaskModel
from bertsmith.text.wordpiece import Tokenizer


def answer(
    task: Task,
    model: TaskModel,
    tokenizer: Tokenizer,
    examples: Iterable[Example],
    max_length: int,
) -> Iterator[tuple[Example, Prediction]]:
    """Yields each row with its prediction, in their order; their number takes no memory."""
    for window in windows(examples):
        rows = [encode(example, tokenizer, max_length) for example in window]
        yield from zip(window, task.decode(logits_of(model, rows)), strict=True)


def logits_of(model: TaskModel, rows: Sequence[Framed]) -> Tensor:
    """Returns the model's outputs for all rows, in their order and without dropout. [N, C]

    Rows of like length go through the model together; the model is left in the mode it was in.
    """
    was_training = model.training
    model.eval()
    device = model.classifier.weight.device
    logits = torch.empty(len(rows), model.classifier.out_features)  # [N, C]
    budget = max([TOKENS_PER_BATCH, *map(len, rows)])
    with torch.inference_mode():
        for group in group_by_length([len(row) for row in rows], tokens_per_batch=budget):
            batch = pack_texts([rows[place] for place in group]).to(device)
            outputs = model.logits(  # [S, C]
                batch.piece_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts
            )
            logits[group] = outputs.float().cpu()
    model.train(was_training)
    return logits
