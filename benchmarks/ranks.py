"""Two ranks against one: how much faster the same steps are trained.

Each of three runs trains synthetic steps of as many pieces: one process of one thread, two ranks of
one thread each, and one process of two threads. Two ranks are compared with the first (what a
second device would bring) and with the last (what ranks cost on one machine). The runs take turns
(A B C A B C ...), each in processes of its own; a run's time is the median of its steps after the
first few. Gradients are summed through gloo on the loopback device.

    python benchmarks/ranks.py [--size L4-H256] [--tokens 4096] [--rounds 3] [--steps 10]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from bertsmith.config import OptimizerConfig, bert_of_size
from bertsmith.data.sharing import deal
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.memory import keep_freed_memory
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps
from bertsmith.train.place import place_of_this_process
from bertsmith.train.ranks import join_ranks

LENGTH = 128
WARM = 2  # steps that are not counted


def batch(vocab_size: int, sequences: int, number: int) -> dict[str, Tensor]:
    """Returns sequences of 128 random pieces, 20 of them to be predicted in each."""
    rng = torch.Generator().manual_seed(number)
    starts = torch.arange(sequences + 1) * LENGTH
    places = torch.stack([torch.randperm(LENGTH, generator=rng)[:20] for _ in range(sequences)])
    positions = (places.sort(1).values + starts[:-1, None]).flatten()
    pieces = torch.randint(1, vocab_size, (sequences * LENGTH,), generator=rng)
    return {
        "piece_ids": pieces,
        "segment_ids": torch.zeros_like(pieces),
        "position_ids": torch.arange(LENGTH).repeat(sequences),
        "sequence_starts": starts.to(torch.int32),
        "masked_positions": positions,
        "masked_labels": pieces[positions],
        "next_labels": torch.randint(0, 2, (sequences,), generator=rng),
    }


def train_steps(size: str, tokens: int, steps: int, threads: int) -> list[float]:
    """Returns the seconds of each step of this process's share."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    config = bert_of_size(size)
    with join_ranks(place_of_this_process(), 120) as ranks:
        torch.manual_seed(0)
        model = BertForPreTraining(config)
        optimizer_config = OptimizerConfig(learning_rate=1e-4)
        hands = deal([LENGTH] * (tokens // LENGTH), ranks.count)
        mine = len(hands[ranks.rank])
        batches = [[batch(config.vocab_size, mine, number)] for number in range(WARM + steps)]
        ends = [time.perf_counter()]
        train(
            Run(model, adamw(model, optimizer_config)),
            iter(batches),
            pace=by_steps(WARM + steps),
            schedule=warmup_then_decay(optimizer_config),
            max_gradient_norm=1.0,
            seed=0,
            after_step=lambda run, figures: ends.append(time.perf_counter()),
            ranks=ranks,
        )
    return [end - start for start, end in zip(ends[WARM:-1], ends[WARM + 1 :], strict=True)]


def timed(options: argparse.Namespace, *, ranks: int, threads: int) -> float:
    """Returns the median seconds of a step of `ranks` processes of `threads` threads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--size", options.size, "--tokens", str(options.tokens)]
    command += ["--steps", str(options.steps), "--as-rank", str(threads)]
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if ranks > 1:
            environment |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            environment |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            environment |= {"MASTER_PORT": str(port)}
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return statistics.median(json.loads(outputs[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="L4-H256")
    parser.add_argument("--tokens", type=int, default=4096, help="pieces in a step, of all ranks")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as-rank", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        print(json.dumps(train_steps(options.size, options.tokens, options.steps, options.as_rank)))
        return
    seconds: dict[str, list[float]] = {"one": [], "two ranks": [], "two threads": []}
    for _ in range(options.rounds):
        seconds["one"].append(timed(options, ranks=1, threads=1))
        seconds["two ranks"].append(timed(options, ranks=2, threads=1))
        seconds["two threads"].append(timed(options, ranks=1, threads=2))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    speeds = {name: round(options.tokens / taken) for name, taken in medians.items()}
    result = {
        "size": options.size,
        "tokens_per_step": options.tokens,
        "tokens_per_second": speeds,
        "two_ranks_over_one": round(medians["one"] / medians["two ranks"], 2),
        "two_threads_over_one": round(medians["one"] / medians["two threads"], 2),
        "efficiency_of_two_ranks": round(medians["one"] / medians["two ranks"] / 2, 3),
        "seconds_per_step": {
            name: [round(each, 4) for each in taken] for name, taken in seconds.items()
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
