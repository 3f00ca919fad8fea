"""Real tokens a second of whole pre-training steps, beside a plain `transformers` loop.

Both sides have the same weights, examples, optimizer (fused AdamW), clipping and dropout rate;
theirs pads every sequence to 128 and labels what is not masked with -100. Each runs in a process of
its own, and they take turns (A B A B ...). First both run without dropout, to show their losses
equal. The matrix-product peak is measured between turns; shares of it count only what real tokens
need.

    python benchmarks/pretraining.py [--corpus PREPARED] [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import Side  # type: ignore[import-not-found]

from bertsmith.config import BertConfig, ExamplesConfig, bert_of_size
from bertsmith.model.accounting import flops_per_token
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.memory import keep_freed_memory
from bertsmith.model.names import from_published

LENGTH = 128
BATCHES = 8  # that are gone round
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    name: str
    size: str
    half: bool = False  # sentences of natural length: half of the peer's batch is padding
    target: float = 0.0


CASES = (
    Case("L4-H256, paper", "L4-H256", target=1.6),
    Case("L6-H384, paper", "L6-H384", target=1.6),
    Case("L4-H256, half padding", "L4-H256", half=True, target=3.5),
    Case("BERT_BASE, half padding", "base", half=True, target=2.9),
)


# ---------------------------------------------------------------------------------- examples


def lengths_of(case: Case, sequences: int, rng: torch.Generator) -> list[int]:
    """Returns lengths as in the published data (90% full, the rest shorter) or natural ones."""
    if case.half:  # of 128, with a long tail: 48% on average
        draws = torch.randn(sequences, generator=rng).mul(0.55).add(4.0).exp()
        return draws.long().clamp(6, LENGTH).tolist()
    short = torch.rand(sequences, generator=rng) < 0.1
    uniform = torch.randint(5, LENGTH, (sequences,), generator=rng)
    return torch.where(short, uniform, LENGTH).tolist()


def synthetic(case: Case, config: BertConfig, sequences: int, number: int) -> Batch:
    """Returns a packed batch of random pieces, 15% of each sequence masked, as published."""
    rng = torch.Generator().manual_seed(number)
    lengths = lengths_of(case, sequences, rng)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    masked = [
        start + torch.randperm(length, generator=rng)[: min(20, max(1, round(length * 0.15)))]
        for start, length in zip(starts.tolist(), lengths, strict=False)
    ]
    positions = torch.cat(masked).sort().values
    tokens = int(starts[-1])
    # Pieces by Zipf's law, as in text: common rows of the embeddings are hit again and again.
    pieces = (torch.rand(tokens, generator=rng) * 10.3).exp().long() % (config.vocab_size - 1)
    return {
        "piece_ids": pieces + 1,
        "segment_ids": torch.randint(0, 2, (tokens,), generator=rng),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "sequence_starts": starts.to(torch.int32),
        "masked_positions": positions,
        "masked_labels": pieces[positions] + 1,
        "next_labels": torch.randint(0, 2, (sequences,), generator=rng),
    }


def real(corpus: Path, sequences: int, number: int) -> Batch:
    """Returns a packed batch of examples from a folder that `bertsmith prepare` wrote."""
    from bertsmith.data.examples import PretrainingExamples
    from bertsmith.data.packing import pack
    from bertsmith.data.shards import open_corpus

    opened = open_corpus(corpus)
    vocabulary = opened.read_tokenizer().vocabulary
    examples = PretrainingExamples(opened, vocabulary, ExamplesConfig(), seed=0)
    first = number * sequences
    return pack([examples.example(0, first + place) for place in range(sequences)]).tensors()


def padded(batch: Batch) -> Batch:
    """Returns the same examples as `transformers` takes them."""
    used = torch.arange(LENGTH) < batch["sequence_starts"].long().diff()[:, None]  # [S, 128]
    labels = torch.full_like(batch["piece_ids"], -100)
    labels[batch["masked_positions"]] = batch["masked_labels"]

    def spread(values: Tensor, filling: int) -> Tensor:
        return torch.full(used.shape, filling).masked_scatter(used, values)

    return {
        "input_ids": spread(batch["piece_ids"], 0),
        "token_type_ids": spread(batch["segment_ids"], 0),
        "attention_mask": used.long(),
        "labels": spread(labels, -100),
        "next_sentence_label": batch["next_labels"],
    }


# ---------------------------------------------------------------------------------- two sides


def published(config: BertConfig) -> Any:
    """Returns their model with random weights that a seed decides."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.BertConfig(**config.to_mapping(), attn_implementation="sdpa")
    return transformers.BertForPreTraining(settings)


def their_side(config: BertConfig, batches: list[Batch]) -> tuple[Any, list[Batch], Any]:
    model = published(config).train()
    return model, [padded(batch) for batch in batches], lambda batch: model(**batch).loss


def our_side(config: BertConfig, batches: list[Batch]) -> tuple[Any, list[Batch], Any]:
    keep_freed_memory()
    model = BertForPreTraining(config).train()
    weights = published(config).state_dict()
    model.load_state_dict(from_published(weights, model.state_dict(), where="transformers"))

    def loss(batch: Batch) -> Tensor:
        sums, counts = model(**batch), model.counts(**batch)
        return sums["mlm_loss"] / counts["mlm_loss"] + sums["nsp_loss"] / counts["nsp_loss"]

    return model, batches, loss


def serve(
    side: Callable[..., Any],
    config: BertConfig,
    batches: list[Batch],
    threads: int,
    pipe: Connection,
) -> None:
    """Trains for as many steps as each message asks, and answers with losses and seconds."""
    torch.set_num_threads(threads)
    model, inputs, loss_of = side(config, batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    step = 0
    while steps := pipe.recv():
        losses, started = [], time.perf_counter()
        for _ in range(steps):
            loss = loss_of(inputs[step % len(inputs)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
        pipe.send((losses, time.perf_counter() - started))


# -------------------------------------------------------------------------------- measuring


def peak_flops() -> float:
    """Returns the operations a second of a large fp32 matrix product."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


def needed_flops(config: BertConfig, batch: Batch) -> float:
    """Returns the operations that the real tokens of a batch need, forward and backward."""
    model = BertForPreTraining(config)
    tokens = len(batch["piece_ids"])
    share = len(batch["masked_positions"]) / tokens
    count = partial(flops_per_token, model, masked_share=share)
    return sum(
        length * count(sequence_length=length)["training"]
        for length in batch["sequence_starts"].diff().tolist()
    )


def measure(case: Case, rounds: int, sequences: int, corpus: Path | None) -> dict[str, Any]:
    config = bert_of_size(case.size)
    batches = [
        real(corpus, sequences, number)
        if corpus and not case.half
        else synthetic(case, config, sequences, number)
        for number in range(BATCHES)
    ]
    tokens = statistics.mean(len(batch["piece_ids"]) for batch in batches)
    exact = bert_of_size(case.size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.device("meta"):
        flops = statistics.mean(needed_flops(config, batch) for batch in batches)
    threads = torch.get_num_threads()
    sides = [Side(serve, side, exact, batches, threads) for side in (their_side, our_side)]
    losses = [side.run(3)[0] for side in sides]
    for side in sides:
        side.stop()
    sides = [Side(serve, side, config, batches, threads) for side in (their_side, our_side)]
    for side in sides:
        side.run(2)  # warms up
    seconds: list[list[float]] = [[], []]
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_flops())
        for side, taken in zip(sides, seconds, strict=True):
            taken.append(side.run(BATCHES // 2)[1] / (BATCHES // 2))
    for side in sides:
        side.stop()
    theirs, ours = (statistics.median(taken) for taken in seconds)
    ratios = [their / our for their, our in zip(*seconds, strict=True)]
    return {
        "case": case.name,
        "padding": round(1 - tokens / (sequences * LENGTH), 3),
        "theirs_tokens_per_second": round(tokens / theirs),
        "ours_tokens_per_second": round(tokens / ours),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "target": case.target,
        "share_of_peak": round(flops / ours / statistics.median(peaks), 3),
        "peak_gflops": round(statistics.median(peaks) / 1e9),
        "losses_without_dropout": {"theirs": losses[0], "ours": losses[1]},
        "largest_relative_difference": max(
            abs(our - their) / their for their, our in zip(*losses, strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequences", type=int, default=32, help="in a step")
    parser.add_argument("--corpus", type=Path, help="folder that `bertsmith prepare` wrote")
    parser.add_argument("--cases", type=int, nargs="*", default=range(3), help="numbers from 0")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    for number in options.cases:
        result = measure(CASES[number], options.rounds, options.sequences, options.corpus)
        results.append(result)
        print(
            f"{result['case']:26} theirs {result['theirs_tokens_per_second']:6} tokens/s, "
            f"ours {result['ours_tokens_per_second']:6}, {result['ratio']:.2f} times "
            f"(target {result['target']}), {result['share_of_peak']:.0%} of the peak, "
            f"losses differ by {result['largest_relative_difference']:.1e}",
            flush=True,
        )
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
