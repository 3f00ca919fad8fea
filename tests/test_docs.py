"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`([a-z/_]+\.py)`: ((?:`\w+`(?:, )?)+)")


def named_tests() -> list[tuple[str, str]]:
    """Returns each file of tests that `faults.md` names, with the tests that it names of it."""
    return NAMED.findall((ROOT / "docs/faults.md").read_text("utf-8"))


def test_every_row_names_its_tests() -> None:
    rows = (ROOT / "docs/faults.md").read_text("utf-8").splitlines()
    heads = ("| fault |", "| input |")
    faults = [row for row in rows if row.startswith("| ") and not row.startswith(heads)]
    assert len(faults) > 40 and all(NAMED.search(row) for row in faults)


@pytest.mark.parametrize(("file", "names"), named_tests())
def test_the_tests_that_faults_are_shown_by_are_there(file: str, names: str) -> None:
    source = (ROOT / "tests" / file).read_text("utf-8")
    for name in re.findall(r"\w+", names):
        assert f"def test_{name}(" in source, name
