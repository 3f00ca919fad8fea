"""Equal sequences go through a model once, and what comes out is in the order of what went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertsmith.data.framing import Framed
from bertsmith.tasks import sequences
from bertsmith.tasks.sequences import batches, distinct


def framed(*ids: int, second: int | None = None) -> Framed:
    segments = np.zeros(len(ids), np.int32)
    if second is not None:
        segments[second:] = 1
    return Framed(np.array(ids, np.int32), segments, was_cut=False)


def test_equal_sequences_are_kept_once_and_every_row_knows_its_own() -> None:
    rows = [framed(1, 2), framed(3), framed(1, 2), framed(1, 2, second=1), framed(3)]
    once, numbers = distinct(rows)
    assert len(once) == 3
    assert numbers == [0, 1, 0, 2, 1]
    for row, number in zip(rows, numbers, strict=True):
        assert row.piece_ids.tolist() == once[number].piece_ids.tolist()
        assert row.segment_ids.tolist() == once[number].segment_ids.tolist()


def test_batches_hold_every_sequence_once_under_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequences, "TOKENS_AT_ONCE", 20)
    rng = np.random.default_rng(0)
    rows = [framed(*rng.integers(0, 9, size)) for size in rng.integers(1, 15, 50)]
    seen: list[int] = []
    for group, batch in batches(rows, torch.device("cpu")):
        assert batch.num_tokens <= 20
        parts = batch.piece_ids.split(batch.sequence_starts.diff().tolist())
        for place, part in zip(group.tolist(), parts, strict=True):
            assert part.tolist() == rows[place].piece_ids.tolist()
        seen += group.tolist()
    assert sorted(seen) == list(range(50))


def test_a_sequence_longer_than_the_budget_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "TOKENS_AT_ONCE", 4)
    found = list(batches([framed(1, 2, 3, 4, 5, 6), framed(1)], torch.device("cpu")))
    assert sum(batch.num_tokens for _, batch in found) == 7
