"""A size is accounted for by its name; an unknown one is refused with the nearest."""

from __future__ import annotations

import pytest

from bertsmith.errors import ConfigError
from bertsmith.lab.inspection import account


def test_a_size_is_accounted_for_without_taking_its_memory() -> None:
    found = account("L1000-H16384-A128")
    assert found["parameters"]["total"] > 3e12
    assert found["memory_bytes"]["inference"] > 12e12
    assert found["flops_per_token"]["training"] > 6 * 3e12


@pytest.mark.parametrize(
    ("given", "meant"), [("bass", "did you mean 'base'"), ("L6.H384", "as in 'L6-H384-A12'")]
)
def test_an_unknown_size_is_refused(given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"no size '{given}'.*{meant}"):
        account(given)
