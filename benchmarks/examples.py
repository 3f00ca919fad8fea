"""Rates and lengths of 100,000 pre-training examples against the paper's, and their speed.

    python benchmarks/examples.py --text ../shared/data/pretrain-en/wikipedia

Where the paper describes a draw, the rate is taken among the examples in which it was drawn. A
chunk of one sentence always has a random next, so NSP's half is one of chunks of two or more
sentences, and the share among all examples lies above it by half the share of single sentences. A
shorter target is drawn from 2 to 125 with 10%; one in 124 of those is 125 after all. 15% is rounded
in each example (19 in 128), so masks are counted exactly and not as a rate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from bertsmith.config import CasingConfig, CorpusConfig, ExamplesConfig, PrepareConfig
from bertsmith.data.batches import Position, read_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.pairs import Pairs, plan_pairs
from bertsmith.data.randomness import Purpose, word_by_word
from bertsmith.data.shards import Corpus, open_corpus
from bertsmith.recipes.prepare import prepare
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PAPER = ExamplesConfig()
LONGEST = PAPER.sequence_length - 3


@dataclass(frozen=True)
class Rate:
    """Something counted or averaged, what it should be, and its standard error."""

    name: str
    found: float
    expected: float
    error: float

    @property
    def holds(self) -> bool:
        """Tells whether the two lie within three standard errors."""
        return abs(self.found - self.expected) <= 3 * self.error


def share(name: str, count: int, total: int, expected: float) -> Rate:
    """Returns the rate of a thing that happens with probability `expected`."""
    return Rate(name, count / total, expected, (expected * (1 - expected) / total) ** 0.5)


def measure_rates(corpus: Corpus, vocabulary: Vocabulary, count: int, *, seed: int) -> list[Rate]:
    """Returns the rates of the plans of epoch 0 and of its first `count` examples."""
    examples = PretrainingExamples(corpus, vocabulary, PAPER, seed=seed)
    plans = [
        plan_pairs(
            corpus.open_shard("train", shard),
            PAPER,
            word_by_word(seed, Purpose.PAIRS, 0, shard),
        )
        for shard in range(len(corpus.shards("train")))
    ]
    return [*_pair_rates(plans), *_mask_rates(examples, vocabulary, count)]


def _pair_rates(plans: list[Pairs]) -> list[Rate]:
    is_random = np.concatenate([plan.next_labels for plan in plans]) == 1
    targets = np.concatenate([plan.targets for plan in plans])
    several = np.concatenate([plan.num_sentences for plan in plans]) > 1
    short = targets[targets < LONGEST]
    single = float((~several).mean())
    spread = (LONGEST - 1) / 12**0.5  # of a uniform draw from 2 to 125
    return [
        share("random next, several sentences", is_random[several].sum(), several.sum(), 0.5),
        share("random next, single sentence", is_random[~several].sum(), (~several).sum(), 1.0),
        share("random next, all", is_random.sum(), len(is_random), 0.5 + 0.5 * single),
        share("shorter target", len(short), len(targets), 0.1 * (LONGEST - 2) / (LONGEST - 1)),
        Rate(
            "mean shorter target",
            float(short.mean()),
            (1 + LONGEST) / 2,
            spread / len(short) ** 0.5,
        ),
    ]


def _mask_rates(examples: PretrainingExamples, vocabulary: Vocabulary, count: int) -> list[Rate]:
    total: Counter[str] = Counter()
    drawn: list[int] = []
    position = variance = 0.0
    for index in range(count):
        example = examples.example(index // examples.count(0), index % examples.count(0))
        length, masked = len(example), len(example.masked_positions)
        seen = example.piece_ids[example.masked_positions]
        hidden = seen == vocabulary.mask_id
        kept = (seen == example.masked_labels) & ~hidden
        drawn += seen[~hidden & ~kept].tolist()
        total["hidden"] += int(hidden.sum())
        total["kept"] += int(kept.sum())
        total["masked"] += masked
        known = int((example.piece_ids != vocabulary.unk_id).sum()) - 3
        total["expected"] += min(20, max(1, round(0.15 * length)), known)
        total["off by over half a piece"] += abs(masked - min(known, 0.15 * length)) > 0.5
        total["special"] += int(np.isin(example.masked_labels, [*vocabulary.special_ids]).sum())
        position += float(example.masked_positions.sum()) - masked * (length - 1) / 2
        variance += masked * length**2 / 12
    size = len(vocabulary)
    return [
        Rate("masked pieces in an example", total["masked"] / count, total["expected"] / count, 0),
        Rate("examples not 15% to half a piece", total["off by over half a piece"], 0, 0),
        Rate(
            "mean place of masks from the middle",
            position / total["masked"],
            0,
            variance**0.5 / total["masked"],
        ),
        # a random piece is the right one, or [MASK] itself, once in the vocabulary's size
        share("masked as [MASK]", total["hidden"], total["masked"], 0.8 + 0.1 / size),
        share("masked but kept", total["kept"], total["masked"], 0.1 + 0.1 / size),
        share("masked as another", len(drawn), total["masked"], 0.1 * (1 - 2 / size)),
        Rate(
            "mean id of others",
            float(np.mean(drawn)),
            (size - 1) / 2,
            size / (12 * len(drawn)) ** 0.5,
        ),
        Rate("special pieces masked", total["special"], 0, 0),
    ]


def measure_speed(corpus: Corpus, vocabulary: Vocabulary, count: int) -> dict[str, float]:
    """Returns the microseconds of one example, and the tokens a second in batches of 4,096."""
    examples = PretrainingExamples(corpus, vocabulary, PAPER, seed=1)
    begun = time.process_time()  # of this one thread: other processes do not blur it
    examples.count(0)
    planned = time.process_time()
    for index in range(count):
        examples.example(0, index)
    made = time.process_time()
    steps = islice(read_steps(examples, Position(), tokens_per_batch=4096), count // 35)
    tokens = sum(part.num_tokens for step in steps for part in step.parts)
    packed = time.process_time()
    return {
        "examples_in_epoch": examples.count(0),
        "planning_seconds": round(planned - begun, 3),
        "microseconds_per_example": round(1e6 * (made - planned) / count, 1),
        "packed_tokens_per_second": round(tokens / (packed - made)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text", default=str(SHARED / "pretrain-en" / "wikipedia"))
    vocabulary_path = SHARED / "bert-vocab" / "bert-base-uncased-vocab.txt"
    parser.add_argument("--vocab", type=Path, default=vocabulary_path)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = Tokenizer(Vocabulary.read(given.vocab), CasingConfig())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "corpus"
        prepare([given.text], tokenizer, out, CorpusConfig(), PrepareConfig())
        corpus = open_corpus(out)
        rates = measure_rates(corpus, tokenizer.vocabulary, given.examples, seed=given.seed)
        speed = measure_speed(corpus, tokenizer.vocabulary, min(given.examples, 20_000))
    print(f"{'':38}{'found':>12}{'expected':>12}{'error':>10}")
    for rate in rates:
        mark = "" if rate.holds else "  more than three errors off"
        print(f"{rate.name:38}{rate.found:12.5f}{rate.expected:12.5f}{rate.error:10.5f}{mark}")
    rows = [asdict(rate) | {"holds": rate.holds} for rate in rates]
    print(json.dumps({"rates": rows, "speed": speed}, default=float))


if __name__ == "__main__":
    main()
