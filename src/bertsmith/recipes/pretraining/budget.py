"""What a budget is best spent on: sizes are tried for a second or two each, and one is chosen.

The rule: of each size the speed is measured on the run's own examples, which tells how many pieces
it could read in what is left of the budget; a small law tells the held-out loss to expect of that,
and the size with the lowest is taken. Examples are of 128 pieces, or of 64 where documents are
shorter than that on average. A batch is the smallest of which the optimizer takes a fifth of the
time or less, since more steps are worth more than larger ones; where that leaves fewer than 1,000
steps, it is smaller.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import bert_of_size, seconds_of
from bertsmith.data.mixture import Mixture
from bertsmith.data.shards import Corpus
from bertsmith.errors import TooLargeError
from bertsmith.model.kinds import matrices_of_blocks
from bertsmith.progress import ProgressLine
from bertsmith.recipes.pretraining.data import StepStream, StreamState
from bertsmith.recipes.pretraining.model import new_model
from bertsmith.recipes.pretraining.out_of_memory import is_lack_of_memory
from bertsmith.recipes.pretraining.settings import PretrainSettings
from bertsmith.storage import read_json, replace_file
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.loop import accumulate
from bertsmith.train.optimizer import optimizer_of
from bertsmith.train.pace import Stopwatch

CHOICE = "choice.json"  # in the run folder: what was measured and chosen
SIZES = ("L2-H128", "L2-H256", "L4-H256", "L4-H512", "L8-H512", "L12-H768")
LENGTHS = (64, 128)
BATCHES = (1024, 2048, 4096, 8192)
OPTIMIZER_SHARE = 0.2  # of a step's time that the optimizer may take
FEWEST_STEPS = 1000
MEASURED_STEPS = 2  # after one that is not counted
MOST_MEASURING = 0.02  # share of the budget that one size may take to be measured

Setting = int | str


@dataclass(frozen=True)
class Law:
    """Held-out loss: `rest + of_weights / weights ** 0.34 + of_tokens / tokens ** 0.28`.

    Weights are those of the blocks, tokens those that a run has read. Form and exponents are
    those of Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.3; with its factors it goes
    through `RUNS`.
    """

    rest: float
    of_weights: float
    of_tokens: float

    def loss(self, weights: float, tokens: float) -> float:
        """Returns the loss to expect, in nats."""
        return self.rest + self.of_weights * weights**-0.34 + self.of_tokens * tokens**-0.28


# Weights of the blocks, tokens, held-out loss: whole runs on two cores, Wikipedia, 8,192 pieces,
# post-norm (docs/results.md, 'Learning'): L2-H128, and L2-H256 twice.
RUNS = (
    (393_216, 31_100_000, 4.743),
    (1_572_864, 16_000_000, 4.766),
    (1_572_864, 27_600_000, 4.585),
)
LAW = Law(rest=3.166, of_weights=41.17, of_tokens=132.95)


@dataclass(frozen=True)
class Choices:
    """The settings that are to be chosen, and how the others follow from them."""

    names: Collection[str]  # of `size`, `sequence_length`, `tokens_per_batch`: those not given
    given: PretrainSettings
    resolve: Callable[[Mapping[str, Any]], PretrainSettings]  # chosen settings -> all of a run's


@dataclass(frozen=True)
class Trial:
    """What one size was measured to do, and what may be expected of it."""

    size: str
    tokens_per_batch: int
    tokens_per_second: float
    tokens: float  # that it could read in what is left
    expected_loss: float


def choose(
    corpus: Corpus | Mixture,
    tokenizer: Tokenizer,
    choices: Choices,
    run: Path,
    stopwatch: Stopwatch,
    progress: ProgressLine,
    num_ranks: int = 1,
) -> dict[str, Setting]:
    """Returns the chosen settings by name; a run that has chosen before keeps to its choice.

    Of several ranks the first measures, and the passes of all are taken to be as many times faster;
    what their gradients take to travel is not counted.

    Args:
        corpus: of the run.
        tokenizer: of the corpus.
        choices: what is open.
        run: its folder, where the choice is kept.
        stopwatch: of the budget.
        progress: where it is told what was measured and chosen, and why.
        num_ranks: that share each step.
    """
    path = run / CHOICE
    if path.is_file():
        kept: dict[str, Setting] = read_json(path)["chosen"]
        progress.say(f"keeps to what was chosen: {_listed(kept)}")
        return kept
    budget = seconds_of(choices.given.run.budget or "")
    fixed: dict[str, Setting] = {}
    if "sequence_length" in choices.names:
        fixed["sequence_length"] = _length(corpus)
    trials: list[Trial] = []
    for size in SIZES:
        started = stopwatch.seconds()
        try:
            chosen = {**fixed, "size": size}
            trial = _try(corpus, tokenizer, choices, chosen, budget, stopwatch, num_ranks)
        except (TooLargeError, RuntimeError, MemoryError) as error:
            if not trials or not is_lack_of_memory(error):
                raise
            progress.say(f"{size}: does not fit into the memory of this machine")
            break
        trials.append(trial)
        progress.say(
            f"{size}: {trial.tokens_per_second:,.0f} tokens/s, {trial.tokens / 1e6:,.1f} million "
            f"tokens in what is left, expected loss {trial.expected_loss:.2f}"
        )
        # Larger ones are slower, and would end worse still, or take too long to be measured.
        spent = stopwatch.seconds() - started
        best = min(trials, key=lambda one: one.expected_loss)
        if best is not trial or 3 * spent > budget * MOST_MEASURING:
            break
    chosen = {**fixed, "size": best.size}
    if "tokens_per_batch" in choices.names:
        chosen["tokens_per_batch"] = best.tokens_per_batch
    table = {"chosen": chosen, "budget_seconds": budget, "measured": [vars(one) for one in trials]}
    replace_file(path, (json.dumps(table, indent=1) + "\n").encode())
    progress.say(
        f"chosen after {stopwatch.seconds():.0f} s: {_listed(chosen)}: the lowest expected "
        f"held-out loss of what was measured, {best.expected_loss:.2f} (a rough estimate, from "
        f"{len(RUNS)} runs on Wikipedia with 8,192 pieces; --size chooses otherwise)"
    )
    return chosen


def _try(
    corpus: Corpus | Mixture,
    tokenizer: Tokenizer,
    choices: Choices,
    chosen: Mapping[str, Setting],
    budget: float,
    stopwatch: Stopwatch,
    num_ranks: int,
) -> Trial:
    """Returns what a size does with the batch that suits it, and what may be expected of it."""
    settings = choices.resolve(chosen)
    is_open = "tokens_per_batch" in choices.names
    if is_open:
        smallest = {"tokens_per_batch": max(settings.longest, BATCHES[0])}
        settings = choices.resolve({**chosen, **smallest})
    pass_seconds, optimizer_seconds = measure(corpus, tokenizer, settings)
    pass_seconds /= num_ranks
    left = max(0.0, budget - stopwatch.seconds())
    batch = num_ranks * settings.run.tokens_per_batch if is_open else settings.run.tokens_per_batch
    if is_open:
        sizes = [batch, *(num_ranks * each for each in BATCHES if num_ranks * each > batch)]
        batch = suitable_batch(sizes, pass_seconds, optimizer_seconds, left)
    speed = batch / (batch * pass_seconds + optimizer_seconds)
    tokens = max(1.0, speed * left)
    loss = LAW.loss(_weights(settings), tokens)
    return Trial(settings.run.size, batch, speed, tokens, loss)


def measure(
    corpus: Corpus | Mixture, tokenizer: Tokenizer, settings: PretrainSettings
) -> tuple[float, float]:
    """Returns the seconds of the passes for one token, and those of the optimizer for one step.

    A new model is trained on the run's own first examples and thrown away.
    """
    model = new_model(corpus, settings)
    model.train()
    optimizer = optimizer_of(model, settings.optimizer, matrices=matrices_of_blocks(model))
    device = next(model.parameters()).device
    best_pass = best_step = float("inf")
    stream = StepStream(
        corpus,
        tokenizer.vocabulary,
        settings.run,
        settings.examples,
        phase=lambda: 0,
        state=StreamState(),
        device=device,
        pace=lambda step: 1.0,  # batches that grow are measured at their last size
    )
    with stream:
        for number in range(1 + MEASURED_STEPS):
            before = stream.state.tokens
            parts = next(stream)
            started = time.perf_counter()
            accumulate(model, parts)
            _wait(device)
            passed = time.perf_counter()
            optimizer.step()
            _wait(device)
            moved = time.perf_counter()
            optimizer.zero_grad()
            if number:  # the first one makes room in memory
                best_pass = min(best_pass, (passed - started) / (stream.state.tokens - before))
                best_step = min(best_step, moved - passed)
    return best_pass, best_step


def suitable_batch(
    sizes: Sequence[int], pass_seconds: float, optimizer_seconds: float, left: float
) -> int:
    """Returns the smallest size of which the optimizer takes little enough, or the largest.

    It is smaller where fewer than `FEWEST_STEPS` would fit into the seconds that are `left`, and
    never smaller than the first.

    Args:
        sizes: to choose from, in rising order.
        pass_seconds: of the passes for one token.
        optimizer_seconds: for one step.
        left: seconds for all steps.
    """
    chosen = sizes[0]
    for size in sizes:
        step = size * pass_seconds + optimizer_seconds
        if size > chosen and FEWEST_STEPS * step > left:
            break
        chosen = size
        if optimizer_seconds <= OPTIMIZER_SHARE * step:
            break
    return chosen


def _length(corpus: Corpus | Mixture) -> int:
    total = corpus.total("train")
    return next(
        (length for length in LENGTHS if total.pieces < length * total.documents), LENGTHS[-1]
    )


def _weights(settings: PretrainSettings) -> int:
    """Returns the weights of the blocks; both architectures have about as many at a size."""
    shape = bert_of_size(settings.run.size)
    return shape.num_hidden_layers * shape.block_weights


def _listed(settings: Mapping[str, Setting]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
