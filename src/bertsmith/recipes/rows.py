"""Labelled files to rows that a model can be trained on, and those to optimizer steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from bertsmith.config import ColumnsConfig, FinetuneConfig
from bertsmith.data.batches import pack_texts
from bertsmith.data.columns import Columns, choose_columns
from bertsmith.data.framing import Framed
from bertsmith.data.tables import open_table
from bertsmith.errors import DataError
from bertsmith.tasks.labelled import Example, read_examples, split_off
from bertsmith.tasks.pieces import encode
from bertsmith.tasks.task import Task
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.loop import Batch

TOKENS_PER_PART = 8192  # a step of more pieces goes through the model in parts, to bound memory


@dataclass(frozen=True)
class Rows:
    """Labelled rows as they were read, as pieces, and as what the model is trained to answer."""

    examples: list[Example]
    framed: list[Framed]
    targets: Tensor  # int64 classes or float32 numbers [N]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def num_tokens(self) -> int:
        """Returns the pieces in all rows, special ones included."""
        return sum(len(row) for row in self.framed)

    @property
    def num_cut(self) -> int:
        """Returns how many rows lost pieces to the greatest length."""
        return sum(row.was_cut for row in self.framed)


@dataclass(frozen=True)
class LabelledData:
    """All that a fine-tuning run reads: the task with its labels, the columns and the rows."""

    task: Task
    columns: Columns
    train: Rows
    dev: Rows

    def sha256(self) -> str:
        """Returns a fingerprint of all pieces and targets in their order."""
        digest = hashlib.sha256()
        for rows in (self.train, self.dev):
            for row in rows.framed:
                digest.update(np.int64(len(row)).tobytes())
                digest.update(row.piece_ids.tobytes() + row.segment_ids.tobytes())
            digest.update(rows.targets.numpy().tobytes())
        return digest.hexdigest()


def read_labelled(
    kind: type[Task],
    train: Path,
    dev: Path | None,
    tokenizer: Tokenizer,
    config: FinetuneConfig,
    columns: ColumnsConfig,
    say: Callable[[str], None],
) -> LabelledData:
    """Returns the rows of a training file and of a dev file, or of a share split off for that.

    The labels are those of the training rows. What was guessed and found is told through `say`.

    Raises:
        DataError: a file or a label is not as the task needs it; file and line are named.
        MissingInputError: a file or a column is not there.
    """
    examples, chosen = _read_file(kind, train, columns, None)
    say(f"{train}: {len(examples):,} rows; {chosen.said()}")
    if dev is not None:
        dev_examples, dev_chosen = _read_file(kind, dev, columns, chosen)
        say(f"{dev}: {len(dev_examples):,} rows; {dev_chosen.said()}")
        if not dev_examples:
            raise DataError(f"{dev}: holds no rows; expected labelled rows to choose an epoch by")
        if (chosen.pair is None) != (dev_chosen.pair is None):
            raise DataError(
                f"{dev}: {dev_chosen.said()}; expected as in training, {chosen.said()}: "
                f"name the columns by flags"
            )
        task = kind.learn(examples)
    else:
        task = kind.learn(examples)
        examples, dev_examples = split_off(
            examples, config.dev_share, stratify=kind.stratify, rng=Random(config.seed)
        )
        say(f"no dev file: {len(dev_examples):,} of these rows are split off to choose the epoch")
    say(task.said(examples))
    rows = [_encoded(task, part, tokenizer, config.max_length) for part in (examples, dev_examples)]
    found = LabelledData(task, chosen, *rows)
    if found.train.num_cut:
        say(
            f"{found.train.num_cut:,} of {len(found.train):,} training rows are longer than "
            f"max_length {config.max_length} and lose their end"
        )
    return found


def read_steps(rows: Rows, batch_size: int, seed: int, step: int) -> Iterator[list[Batch]]:
    """Yields the parts of each optimizer step from `step` on, epoch after epoch without end.

    Every epoch holds each row once, in an order that depends on nothing but seed and epoch.
    """
    steps_per_epoch = -(-len(rows) // batch_size)
    epoch, first = divmod(step, steps_per_epoch)
    while True:
        order = _order(len(rows), seed, epoch)
        for place in range(first, steps_per_epoch):
            yield list(_parts(rows, order[place * batch_size : (place + 1) * batch_size]))
        epoch, first = epoch + 1, 0


def _read_file(
    kind: type[Task], path: Path, config: ColumnsConfig, known: Columns | None
) -> tuple[list[Example], Columns]:
    table = open_table(path, config)
    columns = choose_columns(table, config, label_names=kind.label_names, known=known)
    columns = replace(columns, id=None)  # ids are not read here, and a wrong guess does no harm
    return list(read_examples(table, columns)), columns


def _encoded(task: Task, examples: list[Example], tokenizer: Tokenizer, max_length: int) -> Rows:
    targets = [task.encode(example) for example in examples]
    framed = [encode(example, tokenizer, max_length) for example in examples]
    return Rows(examples, framed, torch.tensor(targets))


def _order(count: int, seed: int, epoch: int) -> list[int]:
    """Returns the numbers below `count` in random order.

    Only raw words are drawn, which numpy promises never to change.
    """
    words = np.random.Philox(key=seed, counter=[0, 0, 0, epoch]).random_raw(count)
    return np.argsort(words, kind="stable").tolist()


def _parts(rows: Rows, places: Sequence[int]) -> Iterator[Batch]:
    part: list[int] = []
    tokens = 0
    for place in places:
        length = len(rows.framed[place])
        if part and tokens + length > TOKENS_PER_PART:
            yield _batch(rows, part)
            part, tokens = [], 0
        part.append(place)
        tokens += length
    yield _batch(rows, part)


def _batch(rows: Rows, places: Sequence[int]) -> Batch:
    return pack_texts([rows.framed[place] for place in places], rows.targets[places]).tensors()
