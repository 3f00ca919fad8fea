"""How the sequences of one optimizer step are dealt to the ranks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from bertsmith.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """Which rank of how many a process is."""

    rank: int = 0
    ranks: int = 1


WHOLE = Share()


def deal(lengths: Sequence[int], hands: int) -> list[list[int]]:
    """Returns for each hand the numbers of the sequences dealt to it, rising; none is empty.

    The longest sequence goes first, each to the hand that has the fewest pieces so far (of equal
    ones the first): no hand has more than one sequence's length above another.

    Raises:
        ConfigError: there are fewer sequences than hands.
    """
    if len(lengths) < hands:
        raise ConfigError(
            f"a step of {len(lengths)} sequences cannot be dealt to {hands} (ranks times "
            f"accumulate); raise tokens_per_batch, or lower accumulate or the number of ranks"
        )
    dealt: list[list[int]] = [[] for _ in range(hands)]
    loads = [(0, hand) for hand in range(hands)]
    heapify(loads)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        load, hand = loads[0]
        dealt[hand].append(number)
        heapreplace(loads, (load + lengths[number], hand))
    return [sorted(hand) for hand in dealt]


def check_share(share: Share, accumulate: int, tokens_per_batch: int, longest: int) -> None:
    """Checks that steps of `tokens_per_batch` have a sequence for every part of every rank.

    Raises:
        ConfigError: those of the `longest` sequences have not.
    """
    needed = share.ranks * accumulate
    if share.ranks > 1 and tokens_per_batch < needed * longest:
        raise ConfigError(
            f"a step takes in {tokens_per_batch} pieces; expected at least {needed * longest} for "
            f"{share.ranks} ranks, accumulate {accumulate} and sequences of {longest} pieces"
        )


def numbers_of_share(lengths: Sequence[int], share: Share, accumulate: int) -> list[list[int]]:
    """Returns the numbers of the sequences of one step that are this rank's, in `accumulate` parts.

    Over all ranks they are the sequences of the step, each once. Every part holds one or more.

    Raises:
        ConfigError: the step has too few sequences.
    """
    hands = deal(lengths, share.ranks * accumulate)
    return hands[share.rank * accumulate : (share.rank + 1) * accumulate]
