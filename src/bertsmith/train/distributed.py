"""Several ranks: they meet, sum, and agree; what fails on one ends all, with its reason.

Weights and gradients travel by NCCL between GPUs and by gloo between CPUs; everything small
(counts, figures, what the first rank decides) is on the CPU and travels by gloo everywhere. A rank
that fails writes its reason into the store at which the ranks met, before it closes its
connections; those that lose it find it there.

Gradients are summed once a step, in buckets that are laid out once and for all. torch's own
DistributedDataParallel averages, where the objective is a total over a count; and it lays out its
buckets anew after the first step, so that over three ranks or more a resumed run would add in
another order than the unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from bertsmith.errors import BertsmithError, RanksError
from bertsmith.train.place import Place

Item = TypeVar("Item")

BUCKET_NUMBERS = 1 << 22  # gradients that are summed at once: 16 MiB of fp32
_MESSAGE_BYTES = 4096
_POLL_SECONDS = 0.25
_STORE_SECONDS = 10.0  # a store that answers does so at once
_LINGER_SECONDS = 5.0  # of the first rank, where the store ends with it
_FAILURE, _ENDED = "failure", "ended"


class Group:
    """The ranks of a run, as one of them sees them; a context manager.

    `at` is where the run stands, for messages. An error that leaves the block is that of all ranks:
    the others raise it too, as one that is said already.
    """

    def __init__(self, place: Place, timeout_seconds: float) -> None:
        self.rank, self.count = place.rank, place.count
        self.at = "before the first step"
        self._place = place
        self._timeout = timedelta(seconds=timeout_seconds)
        self._on_gpu = torch.cuda.is_available()

    def __enter__(self) -> Self:
        if self._on_gpu:
            torch.cuda.set_device(self._place.local_rank)
        try:
            store, _, _ = next(rendezvous("env://", timeout=self._timeout))
            self._store = PrefixStore(self._agreed_name(store), store)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if self._on_gpu else "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.count,
                timeout=self._timeout,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise RanksError(
                f"{self._me()}: the ranks did not all meet within "
                f"{self._timeout.total_seconds():g} s ({_first_line(error)}); see that each can "
                f"reach MASTER_ADDR, and what the others said"
            ) from error
        self._store.set_timeout(timedelta(seconds=_STORE_SECONDS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raised = error
        if error is not None:
            raised = self._reason(error) if _is_of_connection(error) else error
            is_first = self._claim(raised)
            if isinstance(raised, BertsmithError):
                raised.is_said = not is_first
            self._linger()
        if error is None or not self._on_gpu:  # NCCL would wait for those that are gone
            with suppress(RuntimeError):
                dist.destroy_process_group()
        if raised is not error:
            assert raised is not None
            raise raised from error

    # -------------------------------------------------------------------------- arithmetic

    def add_up(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the sum over the ranks of each value, in fp64; all ranks give the same names."""
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers)
        return dict(zip(values, numbers.tolist(), strict=True))

    def highest(self, values: Sequence[float]) -> list[float]:
        """Returns for each place the highest value that any rank has there."""
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return numbers.tolist()

    def add_gradients(self, model: nn.Module) -> None:
        """Puts the sum over the ranks in the place of each rank's gradients.

        Those of sharded weights are summed already, as they are made.
        """
        parameters = [part for part in model.parameters() if part.requires_grad]
        if any(isinstance(part, DTensor) for part in parameters):
            return
        for part in parameters:
            if part.grad is None:  # not used in this rank's share of the step
                part.grad = torch.zeros_like(part)
        gradients = [part.grad for part in parameters if part.grad is not None]
        sums = []
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            sums.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in sums:
            assert work is not None
            work.wait()
            parts = flat.split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(
                bucket, [part.view_as(like) for part, like in zip(parts, bucket, strict=True)]
            )

    def whole(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that may be sharded as it is without shards; every rank must ask."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def shares(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yields every `count`-th item from the `rank`-th on, each with whether it counts.

        Every rank gets as many: where they do not come out even, the last item is added as one
        that does not count.
        """
        held: list[Item] = []
        for item in items:
            held.append(item)
            if len(held) == self.count:
                yield held[self.rank], True
                held = []
        if held:
            yield held[min(self.rank, len(held) - 1)], self.rank < len(held)

    # -------------------------------------------------------------------------- agreement

    def of_first(self, name: str, work: Callable[[], Any] | None = None) -> Any:
        """Returns what the first rank's `work` gives, as JSON holds it, however long it takes.

        The others wait without a limit, for as long as nobody fails.

        Raises:
            BertsmithError: the first rank's, or that of whichever rank has failed meanwhile.
        """
        if self.rank == 0:
            assert work is not None
            self._store.set(name, json.dumps(work()))
        while not self._store.check([name]):
            failure = self._failure()
            if failure is not None:
                raise failure
            time.sleep(_POLL_SECONDS)
        return json.loads(self._store.get(name))

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Puts the first rank's values into the tensors of all."""
        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def tell(self, order: Mapping[str, Any]) -> None:
        """Tells the other ranks, which `hear` it, what the first has decided."""
        content = json.dumps(order).encode()
        assert len(content) <= _MESSAGE_BYTES
        padded = content.ljust(_MESSAGE_BYTES)
        dist.broadcast(torch.frombuffer(bytearray(padded), dtype=torch.uint8), 0)

    def tell_failure(self, error: BaseException) -> None:
        """Tells the other ranks that the first has failed, as far as they can still be told."""
        with suppress(RuntimeError):
            self.tell({_FAILURE: self._failure_of(error)})

    def hear(self) -> dict[str, Any]:
        """Returns what the first rank tells.

        Raises:
            BertsmithError: it has failed; this is its error.
        """
        content = torch.empty(_MESSAGE_BYTES, dtype=torch.uint8)
        dist.broadcast(content, 0)
        order: dict[str, Any] = json.loads(bytes(content.tolist()))
        if _FAILURE in order:
            raise _told(order[_FAILURE])
        return order

    def _agreed_name(self, store: Store) -> str:
        """Returns a name that only the ranks now living agree on.

        torchrun keeps its store when it starts the ranks again, and does not number the starts
        alike on all machines: what the dead have left in the store must not be taken for news. So
        each rank leaves a name of its own, and all are agreed once all have seen the same ones.
        """
        store.set(f"name/{self.rank}", uuid.uuid4().hex)
        deadline = time.monotonic() + self._timeout.total_seconds()
        while time.monotonic() < deadline:
            names = store.multi_get([f"name/{rank}" for rank in range(self.count)])
            agreed = hashlib.sha256(b" ".join(names)).hexdigest()
            store.set(f"seen/{self.rank}", agreed)
            seen = store.multi_get([f"seen/{rank}" for rank in range(self.count)])
            if set(seen) == {agreed.encode()}:
                return agreed
            time.sleep(_POLL_SECONDS)
        raise TimeoutError("some ranks have not come, or have not come again")

    # -------------------------------------------------------------------------- failure

    def _me(self) -> str:
        return f"rank {self.rank} of {self.count}"

    def _claim(self, error: BaseException) -> bool:
        """Writes the reason for which this rank ends; returns whether it is the first to do so."""
        if isinstance(error, BertsmithError) and error.is_said:
            return False
        mine = json.dumps(self._failure_of(error))
        try:
            return self._store.compare_set(_FAILURE, "", mine) == mine.encode()
        except RuntimeError:  # the store has gone with its host
            return True

    def _linger(self) -> None:
        """Lets the others read the reason, where they read it from this process."""
        with suppress(RuntimeError):
            ended = self._store.add(_ENDED, 1)
            if self.rank == 0 and not dist.is_torchelastic_launched():
                deadline = time.monotonic() + _LINGER_SECONDS
                while ended < self.count and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    ended = self._store.add(_ENDED, 0)

    def _failure_of(self, error: BaseException) -> dict[str, Any]:
        message = str(error)[: _MESSAGE_BYTES // 8]  # a letter may take six bytes
        return {"rank": self.rank, "class": type(error).__name__, "message": message}

    def _failure(self) -> BertsmithError | None:
        """Returns what another rank has failed of, if it could say so."""
        with suppress(RuntimeError):
            if self._store.check([_FAILURE]):
                return _told(json.loads(self._store.get(_FAILURE)))
        return None

    def _reason(self, error: BaseException) -> BertsmithError:
        """Returns why a connection broke: what another rank said, or that it said nothing."""
        failure = self._failure()
        if failure is not None:
            return failure
        return RanksError(
            f"{self._me()}, {self.at}: another rank has gone, or has not answered for "
            f"{self._timeout.total_seconds():g} s ({_first_line(error)}); see what the other ranks "
            f"said last, and go on from the last checkpoint with --resume"
        )


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the gradients in their order, so many at a time that each bucket is about full."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel()
        if size >= BUCKET_NUMBERS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _is_of_connection(error: BaseException) -> bool:
    """Returns whether torch raised it for a rank that has gone: gloo has no class of its own."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _told(failure: Mapping[str, Any]) -> BertsmithError:
    """Returns the error of another rank as one that has been said already."""
    found = _classes(BertsmithError).get(failure["class"])
    if found is not None:
        error = found(failure["message"])
    else:
        error = RanksError(
            f"rank {failure['rank']} failed: {failure['class']}: {failure['message']}"
        )
    error.is_said = True
    return error


def _classes(base: type[BertsmithError]) -> dict[str, type[BertsmithError]]:
    found = {base.__name__: base}
    for each in base.__subclasses__():
        found |= _classes(each)
    return found
