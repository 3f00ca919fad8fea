"""How much memory training takes: sizes and batches, measured and by the formula of `inspect`.

    python benchmarks/memory.py

Each figure is of a process of its own, which trains three steps of synthetic examples with dropout
0.1 and fused AdamW: its greatest resident memory, less what it had before the model was made.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from multiprocessing.connection import Connection

import torch
from pretraining import Case, synthetic  # type: ignore[import-not-found]

from bertsmith.config import OptimizerConfig, bert_of_size
from bertsmith.model.accounting import memory_bytes
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.memory import keep_freed_memory
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps

LENGTH = 128
STEPS = 3


def train_once(size: str, tokens: int, pipe: Connection) -> None:
    """Sends the bytes that training takes at its fullest."""
    keep_freed_memory()
    torch.set_num_threads(1)
    config = bert_of_size(size)
    batch = synthetic(Case("", size), config, tokens // LENGTH, 0)
    optimizer = OptimizerConfig(learning_rate=1e-4)
    before = peak_bytes()
    model = BertForPreTraining(config)
    train(
        Run(model, adamw(model, optimizer)),
        iter([[batch]] * STEPS),
        pace=by_steps(STEPS),
        schedule=warmup_then_decay(optimizer),
        max_gradient_norm=1.0,
        seed=0,
        after_step=lambda run, figures: None,
    )
    pipe.send(peak_bytes() - before)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: str, tokens: int) -> int:
    ours, other = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=train_once, args=(size, tokens, other), daemon=True)
    process.start()
    other.close()
    taken: int = ours.recv()
    process.join()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["mini", "small", "medium", "base"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384])
    options = parser.parse_args()
    print(f"{'size':8} {'tokens':>7} {'measured MB':>12} {'formula MB':>11}")
    for size in options.sizes:
        for tokens in options.tokens:
            taken = measure(size, tokens)
            with torch.device("meta"):
                model = BertForPreTraining(bert_of_size(size))
            formula = memory_bytes(model, sequence_length=LENGTH, tokens_per_batch=tokens)
            shown = formula["training"] / 1e6
            print(f"{size:8} {tokens:7,} {taken / 1e6:12,.0f} {shown:11,.0f}", flush=True)


if __name__ == "__main__":
    main()
