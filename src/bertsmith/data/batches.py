"""The batches of pre-training, step by step: which examples a step holds, and in how many parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from threading import Condition, Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np

from bertsmith.data.examples import Example
from bertsmith.data.framing import check_budget
from bertsmith.data.mixture import Examples
from bertsmith.data.packing import PackedBatch, pack
from bertsmith.data.sharing import WHOLE, Share, numbers_of_share
from bertsmith.errors import DataError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Position:
    """The example that comes next; all that a checkpoint must hold of the data."""

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class Step:
    """The batches of one optimizer step, and where the next step goes on."""

    parts: list[PackedBatch]  # of this rank
    position: Position
    num_tokens: int  # of all ranks


@dataclass(frozen=True)
class StepSize:
    """How much one step takes in."""

    tokens: int  # at most
    masked_share: float | None = None  # of pieces to predict; None: as the examples' settings say


def read_steps(
    examples: Examples,
    start: Position,
    *,
    tokens_per_batch: int,
    accumulate: int = 1,
    share: Share = WHOLE,
) -> Iterator[Step]:
    """Yields the steps from `start` on, epoch after epoch without end.

    A step takes examples in order while they stay within `tokens_per_batch`, in up to `accumulate`
    parts of about equal size. What comes depends on `start` alone: resumed equals unbroken. Of
    several ranks each gets its `share` of the same step, in `accumulate` parts.

    Raises:
        ConfigError: an example alone is longer than the budget, or the ranks outnumber the examples
            of a step.
    """
    sizes = repeat(StepSize(tokens_per_batch))
    return read_sized_steps(examples, start, sizes, accumulate=accumulate, share=share)


def read_sized_steps(
    examples: Examples,
    start: Position,
    sizes: Iterable[StepSize],
    *,
    accumulate: int = 1,
    share: Share = WHOLE,
) -> Iterator[Step]:
    """Yields a step for each of `sizes`, as `read_steps` does; a size is asked for as it is needed.

    Raises:
        ConfigError: an example alone is longer than a step may be.
        DataError: an epoch has no example at all.
    """
    position = start
    ahead: int | None = None  # pieces of the example at `position`, where they have been counted
    for size in sizes:
        taken: list[Position] = []
        lengths: list[int] = []
        while True:
            if ahead is None:
                ahead, position = _next(examples, position)
            check_budget(ahead, size.tokens)
            if sum(lengths) + ahead > size.tokens:
                break
            taken.append(position)
            lengths.append(ahead)
            ahead, position = None, replace(position, index=position.index + 1)
        parts = [
            pack(
                [
                    examples.example(taken[number].epoch, taken[number].index, size.masked_share)
                    for number in numbers
                ]
            )
            for numbers in _parts(lengths, accumulate, share)
        ]
        yield Step(parts, position, sum(lengths))


def read_epoch(
    examples: Examples, epoch: int = 0, *, tokens_per_batch: int
) -> Iterator[PackedBatch]:
    """Yields all examples of one epoch, in order, in batches within `tokens_per_batch`.

    Raises:
        ConfigError: an example alone is longer than the budget.
    """
    taken: list[Example] = []
    total = 0
    for index in range(examples.count(epoch)):
        example = examples.example(epoch, index)
        check_budget(len(example), tokens_per_batch)
        if total + len(example) > tokens_per_batch:
            yield pack(taken)
            taken, total = [], 0
        taken.append(example)
        total += len(example)
    if taken:
        yield pack(taken)


def _next(examples: Examples, position: Position) -> tuple[int, Position]:
    """Returns how long the example at `position` is, or the first of the next epoch, and where."""
    try:
        return examples.length(position.epoch, position.index), position
    except IndexError:  # an epoch's end is found when reached: counting would plan all of it
        if position.index == 0:
            raise DataError(
                f"epoch {position.epoch} holds no example: no document of the corpus has a pair "
                f"of texts; expected documents of two pieces or more"
            ) from None
        following = Position(position.epoch + 1, 0)
        return examples.length(following.epoch, 0), following


def _parts(lengths: list[int], accumulate: int, share: Share) -> Iterable[Sequence[int]]:
    """Returns the numbers of the examples of each part of this rank's share of a step."""
    if share.ranks == 1:
        return _split(lengths, accumulate)
    return numbers_of_share(lengths, share, accumulate)


def _split(lengths: list[int], parts: int) -> Iterator[range]:
    """Yields the numbers of `lengths` in up to `parts` runs of about as much; none is empty."""
    ends = np.cumsum(lengths)
    borders = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts, side="right")
    start = 0
    for border in [*borders.tolist(), len(lengths)]:
        if border > start:
            yield range(start, border)
            start = border


class Prefetched(Generic[Item]):
    """Iterates over `items` in a thread of its own, up to `depth` items ahead of its reader.

    An error of the thread is raised where the item was to come. Use it as a context manager, or
    call `close`; the thread also ends with the process.
    """

    def __init__(self, items: Iterator[Item], *, depth: int = 8) -> None:
        self._items = items
        self._depth = depth
        self._ready: deque[Item] = deque()
        self._changed = Condition()
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                    if self._closed:
                        return
        except BaseException as raised:  # handed to the reader, whatever it is
            error = raised
        finally:
            with self._changed:
                self._error = error
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended or self._closed)
            if self._ready and not self._closed:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None and not self._closed:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Ends the thread and waits until it has ended."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
