"""Tagging without fine-tuning: a BiLSTM learns from states of a frozen encoder.

The encoder reads every sentence once; the states of its layers wait on disk, for as many taggers as
are trained on them. `benchmarks/feature_based.py` trains one for each of the paper's six
combinations of layers.

Source: Devlin et al. 2019, section 5.3 and table 7: 96.1 F1 on the dev set of CoNLL-2003 with the
last four layers of BERT_BASE side by side, where fine-tuning has 96.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.config import FeatureTaggerConfig, FinetuneConfig, OptimizerConfig
from bertsmith.data.framing import group_by_length
from bertsmith.data.outputs import new_file
from bertsmith.errors import ConfigError
from bertsmith.model.bilstm import BiLstmTagger
from bertsmith.model.kinds import Encoder
from bertsmith.recipes.features import in_batches, states_of, write_array
from bertsmith.recipes.finetuning.rows import LabelledData, Rows, epoch_order
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.metrics import better
from bertsmith.tasks.pieces import TOKENS_PER_BATCH
from bertsmith.tasks.tag import Tag
from bertsmith.train.loop import Batch, Run, train
from bertsmith.train.optimizer import optimizer_of, schedule_of
from bertsmith.train.pace import Stopwatch, by_steps

# New weights alone are trained, so the rate is that of LSTMs and not of fine-tuning.
FEATURE_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, max_gradient_norm=5.0)


@dataclass(frozen=True)
class FrozenRows:
    """Labelled rows, and the states of all layers for their pieces, on disk."""

    rows: Rows
    states: NDArray[np.float32]  # a memory map [T, 1 + blocks, H]
    starts: NDArray[np.int64]  # where the pieces of each row begin, and the last end [rows + 1]

    @classmethod
    def compute(cls, path: Path, rows: Rows, encoder: Encoder) -> Self:
        """Lets the encoder read all rows once; `path` is an `.npy` that is written.

        Raises:
            StorageError: it cannot be written.
        """
        sizes = [row.num_tokens for row in rows.features]
        layers = range(encoder.config.num_hidden_layers + 1)
        shape = (sum(sizes), len(layers), encoder.config.hidden_size)
        sequences = (part for row in rows.features for part in row.sequences)
        with new_file(path, "wb") as file:
            blocks = (states_of(encoder, batch, layers) for batch in in_batches(sequences))
            write_array(file, "<f4", shape, blocks)
        states = np.load(path, mmap_mode="r")
        return cls(rows, states, np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))))

    def batch(self, task: Tag, places: Sequence[int], layers: Sequence[int]) -> dict[str, Tensor]:
        """Returns rows as one batch: the arguments of `BiLstmTagger.forward`, by name."""
        features = [self.rows.features[place] for place in places]
        targets = [self.rows.targets[place] for place in places]
        batch = task.collate(cast(Any, features), targets)
        kept = ("sequence_starts", "label_positions", "labels")
        parts = [
            self.states[self.starts[place] : self.starts[place + 1], list(layers)]
            for place in places
        ]
        states = torch.from_numpy(np.concatenate(parts))  # [T, L, H]
        return {"states": states} | {name: batch[name] for name in kept}


def train_feature_tagger(
    task: Tag,
    train_rows: FrozenRows,
    dev_rows: FrozenRows,
    config: FinetuneConfig,
    tagger: FeatureTaggerConfig,
    optimizer: OptimizerConfig = FEATURE_OPTIMIZER,
    *,
    say: Callable[[str], None],
) -> tuple[BiLstmTagger, dict[str, Any]]:
    """Trains a BiLSTM on frozen states; returns it as of its best epoch, and what came of it.

    That is `scores` of the dev rows, `best_epoch`, `seconds`, and `shares`: how much each layer
    counts, where layers are mixed.

    Args:
        task: with the tags of the training rows.
        train_rows, dev_rows: read by one encoder.
        config: of it `epochs`, `batch_size` and `seed` are used.
        tagger, optimizer: of what is trained.
        say: told of every epoch.

    Raises:
        ConfigError: the encoder does not have those layers, or the task asks for a CRF.
        NotFiniteError: the loss became NaN or infinite.
    """
    if task.options.crf:
        raise ConfigError(
            "crf is for fine-tuning; a tagger on frozen states has none: leave it out"
        )
    stopwatch = Stopwatch()
    layers = parse_layers(tagger.layers, train_rows.states.shape[1] - 1)
    torch.manual_seed(config.seed)
    model = BiLstmTagger(
        len(layers),
        train_rows.states.shape[2],
        len(task.labels),
        combine=tagger.combine,
        lstm_size=tagger.lstm_size,
        lstm_layers=tagger.lstm_layers,
        dropout=tagger.lstm_dropout,
    )
    steps_per_epoch = -(-len(train_rows.rows) // config.batch_size)
    best_epoch, best, weights = 0, dict[str, float](), model.state_dict()

    def after_step(run: Run, figures: dict[str, float]) -> None:
        nonlocal best_epoch, best, weights
        epoch, rest = divmod(run.step, steps_per_epoch)
        if rest:
            return
        scores = evaluate_tagger(model, task, dev_rows, layers)
        say(
            f"epoch {epoch}: loss {figures['loss']:.4g}, dev {task.chosen_by} "
            f"{scores[task.chosen_by]:.4f}"
        )
        if better(task.chosen_by, scores[task.chosen_by], best.get(task.chosen_by)):
            best_epoch, best = epoch, scores
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    train(
        Run(model, optimizer_of(model, optimizer, matrices={})),
        _steps(task, train_rows, layers, config),
        pace=by_steps(config.epochs * steps_per_epoch),
        schedule=schedule_of(optimizer),
        max_gradient_norm=optimizer.max_gradient_norm,
        seed=config.seed,
        after_step=after_step,
    )
    model.load_state_dict(weights)
    result: dict[str, Any] = {
        "scores": best,
        "best_epoch": best_epoch,
        "seconds": stopwatch.seconds(),
    }
    if model.mix is not None:
        shares = model.mix.shares().tolist()
        result["shares"] = dict(zip(layers, shares, strict=True))
    return model.eval(), result


def evaluate_tagger(
    model: BiLstmTagger, task: Tag, rows: FrozenRows, layers: Sequence[int]
) -> dict[str, float]:
    """Returns the scores of the rows, as the task has them; the model's mode is left as it was."""
    was_training = model.training
    model.eval()
    scorer = task.scorer()
    sizes = np.diff(rows.starts)  # [rows]
    budget = max(TOKENS_PER_BATCH, int(sizes.max(initial=0)))
    for group in group_by_length(sizes, tokens_per_batch=budget):
        places = group.tolist()
        batch = rows.batch(task, places, layers)
        with torch.inference_mode():
            logits = model.logits(batch["states"], batch["sequence_starts"])  # [T, C]
        outputs = iter(logits.split(batch["sequence_starts"].diff().tolist()))
        for place in places:
            example, features = rows.rows.examples[place], cast(Any, rows.rows.features[place])
            parts = [next(outputs) for _ in features.sequences]
            scorer.add(example, task.decode(example, features, parts))
    model.train(was_training)
    return scorer.scores()


def freeze(data: LabelledData, encoder: Encoder, folder: Path) -> tuple[FrozenRows, FrozenRows]:
    """Returns the training and dev rows with the states of their pieces, written to `folder`."""
    return (
        FrozenRows.compute(folder / "train.npy", data.train, encoder),
        FrozenRows.compute(folder / "dev.npy", data.dev, encoder),
    )


def _steps(
    task: Tag, rows: FrozenRows, layers: Sequence[int], config: FinetuneConfig
) -> Iterator[list[Batch]]:
    """Yields the batch of each step, epoch after epoch without end, each row once an epoch."""
    for epoch in itertools.count():
        order = epoch_order(len(rows.rows), config.seed, epoch)
        for first in range(0, len(order), config.batch_size):
            yield [rows.batch(task, order[first : first + config.batch_size], layers)]
