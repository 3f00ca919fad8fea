"""What a run measures while it goes on: by clocks that only go forward, in memory that is flat."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from tests.model.published import TINY, packed
from tests.recipes.toy_runs import environment, metrics_of, settings_with

from bertsmith.config import PretrainConfig, WatchConfig
from bertsmith.errors import ConfigError, TooLargeError
from bertsmith.lab.inspection import account
from bertsmith.model.accounting import flops_per_token
from bertsmith.model.heads import BertForPreTraining
from bertsmith.model.peak import peak_flops
from bertsmith.recipes.pretraining.out_of_memory import explained_lack_of_memory
from bertsmith.recipes.pretraining.pretrain import pretrain
from bertsmith.train.loop import Run, evaluate

OUT_OF_MEMORY = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
from tests.recipes.toy_runs import SETTINGS, RUN
from bertsmith.config import ExamplesConfig
from bertsmith.errors import BertsmithError
from bertsmith.recipes.pretraining.pretrain import pretrain
import psutil
corpus, out = sys.argv[1:]
taken = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + 400_000_000,) * 2)
run = replace(RUN, size="L2-H256", tokens_per_batch=60_000, evaluate_examples=1)
try:
    pretrain([corpus], Path(out), replace(SETTINGS, run=run))
except BertsmithError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_the_share_of_the_peak_is_the_formulas(tmp_path: Path, toy_corpus: Path) -> None:
    settings = replace(settings_with(steps=6), watch=WatchConfig(measure_peak=True))
    pretrain([str(toy_corpus)], tmp_path / "run", settings)
    rows = [row for row in metrics_of(tmp_path / "run") if "flop_share" in row]
    assert len(rows) == 2
    assert all(0 <= row["flop_share"] < 1 for row in rows)


def test_the_peak_is_that_of_matrix_products() -> None:
    """No product of another size is much faster; noise of a busy machine is allowed for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peak = peak_flops()
        left = torch.rand(512, 512)
        best = float("inf")
        for _ in range(20):
            started = time.perf_counter()
            left @ left
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    assert 1e9 < peak < 1e13
    assert 2 * 512**3 / best < 3 * peak


def test_the_formula_is_that_of_inspect() -> None:
    model = BertForPreTraining(TINY)
    assert flops_per_token(model, sequence_length=128)["training"] > 0
    assert account("tiny")["flops_per_token"]["training"] > 6 * 2 * 12 * 2 * 128**2 / 2


def test_a_clock_that_is_set_back_changes_no_duration(
    tmp_path: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.time()
    monkeypatch.setattr(time, "time", lambda: begun - 7200 * time.monotonic())
    pretrain([str(toy_corpus)], tmp_path / "run", settings_with(steps=4, log_every=1))
    text = (tmp_path / "run/metrics.jsonl").read_text()
    seconds = [float(line.split('"seconds": ')[1].split(",")[0]) for line in text.splitlines()]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 300
    assert text.count('+00:00"') == len(seconds)  # moments are in UTC


def test_an_evaluation_takes_no_more_memory_for_more_batches() -> None:
    model = BertForPreTraining(TINY)
    batch = packed([32] * 8, TINY)
    process = psutil.Process()
    evaluate(model, (batch for _ in range(100)))
    before = process.memory_info().rss
    evaluate(model, (batch for _ in range(1000)))
    assert process.memory_info().rss < 1.05 * before


# --------------------------------------------------------------------------------- memory


def test_memory_that_runs_out_is_explained(tmp_path: Path, toy_corpus: Path) -> None:
    """The address space is limited, so that the allocator itself refuses."""
    found = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(toy_corpus), str(tmp_path / "run")],
        env=environment() | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2, found.stderr[-2000:]
    assert "memory ran out with tokens_per_batch 60,000 in 1 part(s)" in found.stdout
    assert "sequences of up to 40 pieces, which take about" in found.stdout
    assert "give --accumulate 2" in found.stdout


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
)
def test_every_kind_of_it_is_known(error: Exception) -> None:
    model = BertForPreTraining(TINY)
    run = Run(model, torch.optim.SGD(model.parameters()), step=6)
    config = PretrainConfig(accumulate=2, tokens_per_batch=1000)
    with (
        pytest.raises(ConfigError, match=r"step 7: .* tokens_per_batch 1,000 in 2 .*accumulate 4"),
        explained_lack_of_memory(run, model, config, 128),
    ):
        raise error


def test_an_encoder_larger_than_the_memory_is_refused_before_it_is_made(
    tmp_path: Path, toy_corpus: Path
) -> None:
    settings = settings_with(size="L200-H16384-A128")
    with pytest.raises(TooLargeError, match=r"has 6\d\d,.* weights, .* GB .* a smaller --size"):
        pretrain([str(toy_corpus)], tmp_path / "run", settings)


def test_other_errors_stay_what_they_are() -> None:
    model = BertForPreTraining(TINY)
    run = Run(model, torch.optim.SGD(model.parameters()))
    with (
        pytest.raises(RuntimeError, match="shapes"),
        explained_lack_of_memory(run, model, PretrainConfig(), 128),
    ):
        raise RuntimeError("shapes do not fit")


# ---------------------------------------------------------------------------------- files


def test_few_open_files_suffice(tmp_path: Path, toy_corpus: Path) -> None:
    """A corpus of two shards is read, and a run written, with 64 files open at most."""
    program = (
        "import resource, sys; from pathlib import Path; "
        "from tests.recipes.toy_runs import settings_with; "
        "from bertsmith.recipes.pretraining.pretrain import pretrain; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "pretrain([sys.argv[1]], Path(sys.argv[2]), settings_with(steps=8))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(toy_corpus), str(tmp_path / "run")],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
    assert os.path.isfile(tmp_path / "run/report.html")
