"""What several ranks do together, checked on each of them; `test_ranks.py` starts it.

python rank_checks.py PORT PORT PORT
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from tests.train.toys import Toy, cut, toy_batch, toy_run
from torch.distributed.tensor import DTensor

from bertsmith.config import OptimizerConfig
from bertsmith.errors import DataError
from bertsmith.train.checkpoint import tensors_of
from bertsmith.train.distributed import Group
from bertsmith.train.loop import Run, evaluate, train
from bertsmith.train.optimizer import adamw, optimizer_of, warmup_then_decay
from bertsmith.train.pace import by_steps
from bertsmith.train.place import place_of_this_process
from bertsmith.train.ranks import ALONE
from bertsmith.train.sharding import gather, scatter, shard

PARTS = cut(toy_batch(12, unlabelled=2), 3, 5)  # of 3, 2 and 7 rows


@contextmanager
def group(port: str, timeout_seconds: float) -> Iterator[Group]:
    os.environ["MASTER_PORT"] = port
    with Group(place_of_this_process(), timeout_seconds) as ranks:
        yield ranks


def check_sums(ranks: Group) -> None:
    assert ranks.add_up({"a": ranks.rank + 0.5, "b": 1}) == {"a": 4.5, "b": 3.0}
    assert ranks.highest([ranks.rank, -ranks.rank]) == [2.0, 0.0]


def check_shares(ranks: Group) -> None:
    for number in (1, 3, 7):
        shares = list(ranks.shares(range(number)))
        assert len(shares) == -(-number // 3)
        assert ranks.add_up({"n": sum(item for item, is_ours in shares if is_ours)}) == {
            "n": sum(range(number))
        }


def trained(
    parts: list[dict[str, torch.Tensor]],
    ranks: Group | None,
    model: Toy,
    optimizer: Literal["adamw", "muon"] = "adamw",
) -> Run:
    """Returns a run of three steps over the same parts."""
    config = OptimizerConfig(learning_rate=0.01, optimizer=optimizer)
    run = Run(model, optimizer_of(model, config, matrices={"hidden.weight": 1}))
    train(
        run,
        iter([parts] * 3),
        pace=by_steps(3),
        schedule=warmup_then_decay(config),
        max_gradient_norm=1.0,
        seed=0,
        after_step=lambda run, figures: None,
        ranks=ranks or ALONE,
    )
    return run


def check_parts_of_unequal_size_make_the_same_step(ranks: Group) -> None:
    alone = trained(PARTS, None, Toy())
    together = trained([PARTS[ranks.rank]], ranks, Toy())
    for name, tensor in tensors_of(alone).items():
        torch.testing.assert_close(tensors_of(together)[name], tensor, rtol=1e-5, atol=1e-7)
    sums = {name: tensor.double().sum().item() for name, tensor in tensors_of(together).items()}
    assert ranks.highest(list(sums.values())) == list(sums.values())  # equal to the bit
    ours = evaluate(together.model, PARTS, ranks)
    for name, value in evaluate(alone.model, PARTS).items():
        assert abs(ours[name] - value) < 1e-5 * abs(value) + 1e-9


def check_muon_makes_the_same_step_on_every_rank(ranks: Group) -> None:
    alone = trained(PARTS, None, Toy(), "muon")
    together = trained([PARTS[ranks.rank]], ranks, Toy(), "muon")
    for name, tensor in tensors_of(alone).items():
        torch.testing.assert_close(tensors_of(together)[name], tensor, rtol=1e-4, atol=1e-6)
    sums = {name: tensor.double().sum().item() for name, tensor in tensors_of(together).items()}
    assert ranks.highest(list(sums.values())) == list(sums.values())  # equal to the bit


def check_shards_make_the_same_step(ranks: Group) -> None:
    alone = trained(PARTS, None, Toy())
    start = Toy()
    whole = Run(start, adamw(start, OptimizerConfig())) if ranks.rank == 0 else None
    with torch.device("meta"):
        model = Toy()
    shard(model, ranks.count)
    scatter(whole, Run(model, adamw(model, OptimizerConfig())))
    sharded = trained([PARTS[ranks.rank]], ranks, model)
    gather(sharded, whole)
    if whole is not None:
        for name, tensor in tensors_of(alone).items():
            torch.testing.assert_close(tensors_of(whole)[name], tensor, rtol=1e-5, atol=1e-7)


def check_what_is_scattered_is_gathered_again(ranks: Group) -> None:
    """Some of the weights have fewer rows than there are ranks."""
    original, whole = toy_run(Toy(seed=1)), toy_run(Toy(seed=2))
    with torch.device("meta"):
        model = Toy()
    shard(model, ranks.count)
    sharded = Run(model, adamw(model, OptimizerConfig()), step=1)
    scatter(original if ranks.rank == 0 else None, sharded)
    for part in model.parameters():
        assert isinstance(part, DTensor) and part.to_local().shape[0] <= -(-part.shape[0] // 3)
    gather(sharded, whole if ranks.rank == 0 else None)
    if ranks.rank == 0:
        assert whole.step == 1
        for name, tensor in tensors_of(original).items():
            assert torch.equal(tensors_of(whole)[name], tensor), name


def check_long_work_of_the_first_is_waited_for(ranks: Group, timeout_seconds: float) -> None:
    def work() -> list[int]:
        time.sleep(1.5 * timeout_seconds)
        return [1, 2]

    assert ranks.of_first("work", work) == [1, 2]


def check_an_error_of_one_is_that_of_all(port: str) -> None:
    rank = int(os.environ["RANK"])
    try:
        with group(port, 60) as ranks:
            ranks.at = "after step 4"
            if rank == 1:
                raise DataError("the text of rank 1")
            ranks.add_up({"a": 1.0})
            raise AssertionError("a sum without rank 1")
    except DataError as error:
        assert str(error) == "the text of rank 1"
        assert error.is_said == (rank != 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, second, third = sys.argv[1:]
    with group(first, 60) as ranks:
        check_sums(ranks)
        check_shares(ranks)
        check_parts_of_unequal_size_make_the_same_step(ranks)
        check_muon_makes_the_same_step_on_every_rank(ranks)
        check_what_is_scattered_is_gathered_again(ranks)
        check_shards_make_the_same_step(ranks)
    with group(second, 3) as ranks:
        check_long_work_of_the_first_is_waited_for(ranks, 3)
    check_an_error_of_one_is_that_of_all(third)
