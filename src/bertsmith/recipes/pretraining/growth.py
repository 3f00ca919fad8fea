"""What changes from step to step of a run: how much a step takes in, and how much of it it hides.

Both are functions of the share of the run that is done when the step begins. By steps that share is
a function of the step's number, so that a resumed run takes what the unbroken one would have taken;
by the clock it is the share done when the step is read, some steps before it is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from bertsmith.config import ExamplesConfig, PretrainConfig
from bertsmith.data.batches import StepSize
from bertsmith.train.pace import Pace

_SAMPLES = 1000  # shares of a run that a mean is taken over


def tokens_at(config: PretrainConfig, sequence_length: int, done: float) -> int:
    """Returns the most pieces that a step takes in when `done` of the run, 0 to 1, is done.

    Grown batches are whole numbers of full sequences, one or more. Twofold growth keeps each size
    for an equal share of the run, the last one being `tokens_per_batch`.
    """
    first, last = config.first_tokens_per_batch, config.tokens_per_batch
    if first is None or first == last or done >= 1:
        return last
    if config.batch_growth == "linear":
        grown = first + (last - first) * done
    else:
        doublings = (-(-last // first) - 1).bit_length()  # the fewest that reach the last size
        grown = min(last, first << int(done * (doublings + 1)))
    return min(last, max(1, int(grown) // sequence_length) * sequence_length)


def masked_share_at(examples: ExamplesConfig, done: float) -> float | None:
    """Returns the share of pieces to predict when `done` of the run is done; None: as it began."""
    first, last = examples.masked_lm_prob, examples.final_masked_lm_prob
    return None if last is None else first + (last - first) * min(done, 1.0)


def step_sizes(
    config: PretrainConfig, examples: ExamplesConfig, pace: Pace, first_step: int
) -> Iterator[StepSize]:
    """Yields the size of step `first_step` and of all after it, each when it is asked for."""
    for step in count(first_step):
        done = pace(step)
        yield StepSize(
            tokens_at(config, examples.sequence_length, done), masked_share_at(examples, done)
        )


def mean_tokens(config: PretrainConfig, examples: ExamplesConfig) -> float:
    """Returns the mean over a run of the most pieces that a step takes in."""
    sizes = [
        tokens_at(config, examples.sequence_length, sample / _SAMPLES) for sample in range(_SAMPLES)
    ]
    return sum(sizes) / _SAMPLES
