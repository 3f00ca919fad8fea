"""Ranks: what torchrun says of them, and what several of them agree on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bertsmith.errors import ConfigError
from bertsmith.train.loop import _seed_noise, noise_seed
from bertsmith.train.place import Place, place_of_this_process
from bertsmith.train.ranks import ALONE, join_ranks

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "1",
}


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    assert place_of_this_process({"MASTER_ADDR": "node0"}) == Place(0, 1)
    with join_ranks(Place(0, 1), 60) as ranks:
        assert ranks is ALONE


def test_a_process_that_torchrun_started_has_its_place() -> None:
    assert place_of_this_process(TORCHRUN) == Place(3, 4, 1, 2, restarts=1)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"LOCAL_RANK": None}, "RANK, WORLD_SIZE, LOCAL_WORLD_SIZE is set but LOCAL_RANK is not"),
        ({"MASTER_PORT": None}, "is set but MASTER_PORT is not; expected all of them or none"),
        ({"RANK": "4"}, "RANK is 4 of WORLD_SIZE 4"),
        ({"RANK": "-1"}, "RANK is '-1'; expected a whole number"),
    ],
)
def test_an_environment_that_is_half_set_is_refused(
    changes: dict[str, str | None], shown: str
) -> None:
    given = {name: value for name, value in (TORCHRUN | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=shown):
        place_of_this_process(given)


def test_threads_are_shared_among_the_ranks_of_a_machine() -> None:
    cores = os.cpu_count() or 1
    assert Place(0, 1).threads == cores
    assert Place(0, 4, 0, 2).threads == max(1, cores // 2)
    assert Place(0, 4 * cores, 0, 4 * cores).threads == 1


def test_each_rank_has_noise_of_its_own_and_the_first_that_of_one_alone() -> None:
    drawn = []
    for rank in range(4):
        _seed_noise(noise_seed(1, 7), rank)
        drawn.append(int(torch.randint(1 << 62, ())))
    torch.manual_seed(noise_seed(1, 7))
    assert drawn[0] == int(torch.randint(1 << 62, ()))
    assert len(set(drawn)) == 4


def test_one_rank_loads_nothing_of_several() -> None:
    program = (
        "import sys, bertsmith.recipes.pretraining.pretrain; from bertsmith.train.place import *; "
        "from bertsmith.train.ranks import *; "
        "join_ranks(place_of_this_process(), 60); "
        "assert not {'bertsmith.train.distributed', 'torch.distributed.fsdp'} & sys.modules.keys()"
    )
    source = str(Path(__file__).parents[2] / "src")
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": source}, check=True)


def test_what_three_ranks_do_together() -> None:
    """The checks are those of `rank_checks.py`, each made on all three."""
    root = Path(__file__).parents[2]
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("rank_checks.py")), *ports],
            env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
            | {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)}
            | {"LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        said = [rank.communicate(timeout=200)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0, 0], "\n".join(said)
