"""Batches that grow and masks that move over a run."""

from __future__ import annotations

from itertools import islice

import pytest

from bertsmith.config import ExamplesConfig, PretrainConfig
from bertsmith.errors import ConfigError
from bertsmith.recipes.pretraining.growth import masked_share_at, mean_tokens, step_sizes, tokens_at
from bertsmith.train.pace import by_steps


def config(**changes: object) -> PretrainConfig:
    return PretrainConfig(**({"tokens_per_batch": 8192} | changes))  # type: ignore[arg-type]


def test_a_batch_grows_evenly_in_whole_sequences() -> None:
    grown = config(first_tokens_per_batch=1024)
    sizes = [tokens_at(grown, 128, step / 100) for step in range(101)]
    assert (sizes[0], sizes[50], sizes[100]) == (1024, 4608, 8192)
    assert sizes == sorted(sizes)
    assert all(size % 128 == 0 for size in sizes)
    assert all(
        0 <= 1024 + 71.68 * step - size < 128 for step, size in enumerate(sizes)
    )  # a straight line, rounded down
    assert mean_tokens(grown, ExamplesConfig()) == pytest.approx(4608, rel=0.02)


def test_a_batch_grows_twofold_at_equal_distances() -> None:
    grown = config(first_tokens_per_batch=1024, batch_growth="doubling")
    sizes = [tokens_at(grown, 128, step / 100) for step in range(100)]
    assert sizes == [1024] * 25 + [2048] * 25 + [4096] * 25 + [8192] * 25
    uneven = config(first_tokens_per_batch=3072, batch_growth="doubling")
    found = [tokens_at(uneven, 128, step / 6) for step in range(7)]
    assert found == [3072, 3072, 6144, 6144, 8192, 8192, 8192]


@pytest.mark.parametrize("growth", ["linear", "doubling"])
def test_a_grown_batch_holds_a_sequence_of_any_phase(growth: str) -> None:
    grown = config(first_tokens_per_batch=200, batch_growth=growth)
    for step in range(100):
        assert 512 <= tokens_at(grown, 512, step / 100) <= 8192


def test_without_growth_a_batch_is_what_was_asked_for() -> None:
    assert tokens_at(config(tokens_per_batch=1000), 128, 0.3) == 1000
    assert mean_tokens(config(tokens_per_batch=1000), ExamplesConfig()) == 1000.0


def test_a_first_batch_larger_than_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match="first_tokens_per_batch is 9000; expected at most"):
        config(first_tokens_per_batch=9000)


def test_the_share_of_masks_moves_evenly_from_first_to_last() -> None:
    examples = ExamplesConfig(masked_lm_prob=0.3, final_masked_lm_prob=0.15)
    found = [masked_share_at(examples, done) for done in (0.0, 0.5, 1.0, 1.5)]
    assert found == pytest.approx([0.3, 0.225, 0.15, 0.15])
    assert masked_share_at(ExamplesConfig(), 0.5) is None


def test_sizes_from_any_step_are_those_of_the_unbroken_run() -> None:
    grown = config(first_tokens_per_batch=1024)
    examples = ExamplesConfig(final_masked_lm_prob=0.4)
    whole = list(islice(step_sizes(grown, examples, by_steps(50), 0), 50))
    assert list(islice(step_sizes(grown, examples, by_steps(50), 17), 33)) == whole[17:]
    assert len({size.tokens for size in whole}) > 40
    assert len({size.masked_share for size in whole}) == 50
