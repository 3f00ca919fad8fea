"""Tagging without fine-tuning: a BiLSTM learns from states of a frozen encoder.

The encoder reads every sentence once; the states of its layers wait on disk, for as many taggers as
are trained on them. `benchmarks/feature_based.py` trains one for each of the paper's six
combinations of layers; `finetuning/frozen.py` is the command.

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
from bertsmith.model.bilstm import BiLstmTagger, bilstm_of
from bertsmith.model.kinds import Encoder
from bertsmith.recipes.features import in_batches, states_of, write_array
from bertsmith.recipes.finetuning.rows import LabelledData, Rows, epoch_order
from bertsmith.recipes.finetuning.watch import Variety
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.metrics import better
from bertsmith.tasks.pieces import TOKENS_PER_BATCH
from bertsmith.tasks.tag import Tag
from bertsmith.train.loop import Batch, Run, train
from bertsmith.train.optimizer import optimizer_of, schedule_of
from bertsmith.train.pace import Stopwatch, by_steps

# New weights alone are trained, so the rate is that of LSTMs and not of fine-tuning.
FEATURE_OPTIMIZER = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, max_gradient_norm=5.0)
FEATURE_EPOCHS = 10  # it is new as a whole, and learns longer than what is fine-tuned


@dataclass(frozen=True)
class FrozenRows:
    """Labelled rows, and the states of chosen layers for their pieces, on disk."""

    rows: Rows
    layers: tuple[int, ...]  # those of which there are states
    num_blocks: int  # of the encoder
    states: NDArray[np.float32]  # a memory map [T, layers, H]
    starts: NDArray[np.int64]  # where the pieces of each row begin, and the last end [rows + 1]

    @classmethod
    def compute(
        cls, path: Path, rows: Rows, encoder: Encoder, layers: Sequence[int] | None = None
    ) -> Self:
        """Lets the encoder read all rows once; `path` is an `.npy` that is written.

        Without `layers` the states of all of them are kept.

        Raises:
            StorageError: it cannot be written.
        """
        sizes = [row.num_tokens for row in rows.features]
        num_blocks = encoder.config.num_hidden_layers
        layers = range(num_blocks + 1) if layers is None else layers
        shape = (sum(sizes), len(layers), encoder.config.hidden_size)
        sequences = (part for row in rows.features for part in row.sequences)
        with new_file(path, "wb") as file:
            blocks = (states_of(encoder, batch, layers) for batch in in_batches(sequences))
            write_array(file, "<f4", shape, blocks)
        states = np.load(path, mmap_mode="r")
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        return cls(rows, tuple(layers), num_blocks, states, starts)

    def batch(self, task: Tag, places: Sequence[int], layers: Sequence[int]) -> dict[str, Tensor]:
        """Returns rows as one batch: the arguments of `BiLstmTagger.forward`, by name."""
        columns = [self.layers.index(layer) for layer in layers]
        features = [self.rows.features[place] for place in places]
        targets = [self.rows.targets[place] for place in places]
        batch = task.collate(cast(Any, features), targets)
        kept = ("sequence_starts", "label_positions", "labels")
        parts = [
            self.states[self.starts[place] : self.starts[place + 1], columns] for place in places
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
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[BiLstmTagger, dict[str, Any]]:
    """Trains a BiLSTM on frozen states; returns it as of its best epoch, and what came of it.

    That is `scores` of the dev rows, whether it is `collapsed` (it has one answer to all words),
    `best_epoch`, `seconds`, and `shares`: how much each layer counts, where layers are mixed.

    Args:
        task: with the tags of the training rows.
        train_rows, dev_rows: read by one encoder.
        config: of it `epochs`, `batch_size` and `seed` are used.
        tagger, optimizer: of what is trained.
        say: told of every epoch.
        log: given the rows of the metrics: of every step the loss, of every epoch the dev scores.

    Raises:
        ConfigError: the encoder does not have those layers, or the task asks for a CRF.
        NotFiniteError: the loss became NaN or infinite.
    """
    if task.options.crf:
        raise ConfigError(
            "crf is for fine-tuning; a tagger on frozen states has none: leave it out"
        )
    stopwatch = Stopwatch()
    layers = parse_layers(tagger.layers, train_rows.num_blocks)
    torch.manual_seed(config.seed)
    model = bilstm_of(tagger, len(layers), train_rows.states.shape[2], len(task.labels))
    steps_per_epoch = -(-len(train_rows.rows) // config.batch_size)
    best_epoch, best, weights = 0, dict[str, float](), model.state_dict()
    is_collapsed = False

    def after_step(run: Run, figures: dict[str, float]) -> None:
        nonlocal best_epoch, best, weights, is_collapsed
        epoch, rest = divmod(run.step, steps_per_epoch)
        log({"step": run.step, "epoch": run.step / steps_per_epoch, **figures})
        if rest:
            return
        variety = Variety()
        scores = evaluate_tagger(model, task, dev_rows, layers, variety)
        log({"step": run.step, "epoch": epoch, "dev": scores})
        say(
            f"epoch {epoch}: loss {figures['loss']:.4g}, dev {task.chosen_by} "
            f"{scores[task.chosen_by]:.4f}"
        )
        if better(task.chosen_by, scores[task.chosen_by], best.get(task.chosen_by)):
            best_epoch, best, is_collapsed = epoch, scores, variety.is_lost
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
        "collapsed": is_collapsed,
        "best_epoch": best_epoch,
        "seconds": stopwatch.seconds(),
    }
    if model.mix is not None:
        shares = model.mix.shares().tolist()
        result["shares"] = dict(zip(layers, shares, strict=True))
    return model.eval(), result


def evaluate_tagger(
    model: BiLstmTagger,
    task: Tag,
    rows: FrozenRows,
    layers: Sequence[int],
    variety: Variety | None = None,
) -> dict[str, float]:
    """Returns the scores of the rows, as the task has them; the model's mode is left as it was.

    `variety` takes in what was said of each row.
    """
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
            found = task.decode(example, features, parts)
            scorer.add(example, found)
            if variety:
                variety.add(task.decisions(rows.rows.targets[place], found))
    model.train(was_training)
    return scorer.scores()


def freeze(
    data: LabelledData, encoder: Encoder, folder: Path, layers: Sequence[int] | None = None
) -> tuple[FrozenRows, FrozenRows]:
    """Returns the training and dev rows with the states of their pieces, written to `folder`.

    Without `layers` the states of all of them are kept.
    """
    return (
        FrozenRows.compute(folder / "train.npy", data.train, encoder, layers),
        FrozenRows.compute(folder / "dev.npy", data.dev, encoder, layers),
    )


def _steps(
    task: Tag, rows: FrozenRows, layers: Sequence[int], config: FinetuneConfig
) -> Iterator[list[Batch]]:
    """Yields the batch of each step, epoch after epoch without end, each row once an epoch."""
    for epoch in itertools.count():
        order = epoch_order(len(rows.rows), config.seed, epoch)
        for first in range(0, len(order), config.batch_size):
            yield [rows.batch(task, order[first : first + config.batch_size], layers)]
