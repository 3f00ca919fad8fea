"""Labelled files as fine-tuning reads them: rows, pieces, targets, and the batches of each step."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bertsmith.config import ColumnsConfig, FinetuneConfig, TaskConfig
from bertsmith.data.glue import find_glue, glue_files
from bertsmith.errors import ConfigError, DataError
from bertsmith.tasks.forms import Features
from bertsmith.tasks.glue import as_official
from bertsmith.tasks.labelled import split_off
from bertsmith.tasks.task import Task
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.loop import Batch

TOKENS_PER_PART = 8192  # a step of more pieces goes through the model in parts, to bound memory


@dataclass(frozen=True)
class Rows:
    """Labelled rows as they were read, as the model reads them, and as what it is to answer."""

    examples: list[Any]
    features: list[Features]
    targets: list[Any]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def num_tokens(self) -> int:
        """Returns the pieces in all rows, special ones included."""
        return sum(row.num_tokens for row in self.features)

    @property
    def num_cut(self) -> int:
        """Returns how many rows lost pieces to the greatest length."""
        return sum(row.was_cut for row in self.features)


@dataclass(frozen=True)
class Fold:
    """One of several parts of the training rows, each of which is the dev set once."""

    number: int  # from 0
    of: int
    by_group: bool = False  # rows of one `id` stay together


@dataclass(frozen=True)
class LabelledData:
    """All that a fine-tuning run reads: the task with its labels, and the rows.

    `facts` are those of the training file, handed to `Task.read` of later files.
    """

    task: Task
    facts: dict[str, Any]
    train: Rows
    dev: Rows

    def sha256(self) -> str:
        """Returns a fingerprint of all pieces and targets in their order."""
        digest = hashlib.sha256()
        for rows in (self.train, self.dev):
            for row, target in zip(rows.features, rows.targets, strict=True):
                for part in row.sequences:
                    digest.update(np.int64(len(part)).tobytes())
                    digest.update(part.piece_ids.tobytes() + part.segment_ids.tobytes())
                digest.update(repr(target).encode())
        return digest.hexdigest()


def read_labelled(
    kind: type[Task],
    train: Path,
    dev: Path | None,
    tokenizer: Tokenizer,
    config: FinetuneConfig,
    options: TaskConfig,
    columns: ColumnsConfig,
    say: Callable[[str], None],
    fold: Fold | None = None,
) -> LabelledData:
    """Returns the rows of a training file and of a dev file, or of a share split off for that.

    The labels are those of the training rows. With `columns.glue`, `train` is the folder of a GLUE
    task, whose own dev file is read and whose official metric tells the best epoch. What was
    guessed and found is told through `say`.

    Raises:
        DataError: a file or a label is not as the task needs it; file and line are named.
        MissingInputError: a file or a column is not there.
        ConfigError: an option is for another task.
    """
    if options.crf and kind.name != "tag":
        raise ConfigError(f"crf is for the task tag; {kind.name} has no rows of tags: leave it out")
    glue = find_glue(columns.glue, kind.name) if columns.glue else None
    if glue and fold is None and dev is None:
        folder = train if train.is_dir() else train.parent
        dev = glue_files(folder, glue, "dev")[0]
    source = kind.read(train, columns, None, labelled=True)
    examples = list(source.examples)
    say(f"{train}: {len(examples):,} rows; {source.said}")
    dev_examples = None
    if dev is not None:
        dev_source = kind.read(dev, columns, source.facts, labelled=True)
        dev_examples = list(dev_source.examples)
        say(f"{dev}: {len(dev_examples):,} rows; {dev_source.said}")
        if not dev_examples:
            raise DataError(f"{dev}: holds no rows; expected labelled rows to choose an epoch by")
    task = kind.learn(examples, options)
    if glue:
        task = as_official(task, glue)
    if fold is not None:
        examples, dev_examples = split_fold(task, examples, fold, config.split_seed)
    return label_rows(task, source.facts, examples, dev_examples, tokenizer, config, say)


def split_fold(
    task: Task, examples: list[Any], fold: Fold, seed: int
) -> tuple[list[Any], list[Any]]:
    """Returns the rows outside and inside a fold, in file order.

    Every row is in one fold; a seed makes the same folds each time. Each fold has its share of
    every label, as nearly as groups allow.

    Raises:
        DataError: there are fewer rows, or groups, than folds.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    strata = [task.stratum(example) or "" for example in examples]
    groups = [example.id for example in examples] if fold.by_group else None
    found = len(set(groups)) if groups else len(examples)
    if found < fold.of:
        raise DataError(
            f"{found} {'groups' if groups else 'rows'} cannot be split into {fold.of} folds; "
            f"expected one for each at least: give fewer --folds"
        )
    stratified = min(Counter(strata).values()) >= fold.of and len(set(strata)) > 1
    if groups:
        kind = StratifiedGroupKFold if stratified else GroupKFold
    else:
        kind = StratifiedKFold if stratified else KFold
    splitter = kind(n_splits=fold.of, shuffle=True, random_state=seed)
    splits = list(splitter.split(examples, strata, groups))
    rest, inside = splits[fold.number]
    return [examples[place] for place in rest], [examples[place] for place in inside]


def label_rows(
    task: Task,
    facts: dict[str, Any],
    examples: list[Any],
    dev_examples: list[Any] | None,
    tokenizer: Tokenizer,
    config: FinetuneConfig,
    say: Callable[[str], None],
) -> LabelledData:
    """Returns rows from wherever they came as the model reads them; without dev rows, splits.

    Raises:
        DataError: a label is not one that the task knows; or there are too few rows to split.
    """
    if dev_examples is None:
        examples, dev_examples = split_off(
            examples, config.dev_share, stratum=task.stratum, rng=Random(config.split_seed)
        )
        say(f"no dev file: {len(dev_examples):,} of these rows are split off to choose the epoch")
    say(task.said(examples))
    rows = [_encoded(task, part, tokenizer, config.max_length) for part in (examples, dev_examples)]
    found = LabelledData(task, facts, *rows)
    if found.train.num_cut:
        say(
            f"{found.train.num_cut:,} of {len(found.train):,} training rows are longer than "
            f"max_length {config.max_length} and lose their end"
        )
    return found


def read_steps(
    task: Task, rows: Rows, batch_size: int, seed: int, step: int
) -> Iterator[list[Batch]]:
    """Yields the parts of each optimizer step from `step` on, epoch after epoch without end.

    Every epoch holds each row once, in an order that depends on nothing but seed and epoch.
    """
    steps_per_epoch = -(-len(rows) // batch_size)
    epoch, first = divmod(step, steps_per_epoch)
    while True:
        order = epoch_order(len(rows), seed, epoch)
        for place in range(first, steps_per_epoch):
            yield list(_parts(task, rows, order[place * batch_size : (place + 1) * batch_size]))
        epoch, first = epoch + 1, 0


def _encoded(task: Task, examples: list[Any], tokenizer: Tokenizer, max_length: int) -> Rows:
    features = [task.features(example, tokenizer, max_length) for example in examples]
    targets = [task.target(example, row) for example, row in zip(examples, features, strict=True)]
    return Rows(examples, features, targets)


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Returns the numbers below `count` in an order drawn from seed and epoch.

    Only raw words are drawn, which numpy promises never to change.
    """
    words = np.random.Philox(key=seed, counter=[0, 0, 0, epoch]).random_raw(count)
    return np.argsort(words, kind="stable").tolist()


def _parts(task: Task, rows: Rows, places: Sequence[int]) -> Iterator[Batch]:
    part: list[int] = []
    tokens = 0
    for place in places:
        length = rows.features[place].num_tokens
        if part and tokens + length > TOKENS_PER_PART:
            yield _batch(task, rows, part)
            part, tokens = [], 0
        part.append(place)
        tokens += length
    yield _batch(task, rows, part)


def _batch(task: Task, rows: Rows, places: Sequence[int]) -> Batch:
    return task.collate(
        [rows.features[place] for place in places], [rows.targets[place] for place in places]
    )
