"""Labelled rows are complete, and a dev set is split off fairly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import CLASS_NAMES, choose_columns
from bertsmith.data.tables import open_table
from bertsmith.errors import DataError
from bertsmith.tasks.labelled import Example, label_of, read_examples, split_off


def read(path: Path) -> list[Example]:
    table = open_table(path, ColumnsConfig())
    columns = choose_columns(table, ColumnsConfig(), label_names=CLASS_NAMES)
    return list(read_examples(table, columns))


def test_rows_are_read_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sentence1,sentence2,label\nNA,null, yes \n")
    assert read(path) == [Example(f"{path}:2", "NA", "null", "yes")]


@pytest.mark.parametrize(
    ("row", "message"),
    [(" ,b,1", "'sentence1' is empty"), ("a,,1", "'sentence2' is")],
)
def test_an_empty_text_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"sentence1,sentence2,label\na,b,1\n{row}\n")
    with pytest.raises(DataError, match=rf"a\.csv:3: {message}"):
        read(path)


def labelled(**counts: int) -> list[Example]:
    return [
        Example(f"{label}:{number}", "text", None, label)
        for label, count in counts.items()
        for number in range(count)
    ]


def test_a_stratified_split_keeps_the_mixture_and_loses_nothing() -> None:
    examples = labelled(a=60, b=30, c=10, once=1)
    train, dev = split_off(examples, 0.2, stratum=label_of, rng=Random(0))
    assert Counter(example.label for example in dev) == {"a": 12, "b": 6, "c": 2}
    assert sorted(train + dev, key=str) == sorted(examples, key=str)
    assert len({example.where for example in train + dev}) == len(examples)


def test_the_split_depends_on_the_seed_alone() -> None:
    examples = labelled(a=50, b=50)
    parts = [split_off(examples, 0.1, stratum=label_of, rng=Random(seed)) for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


def test_small_shares_of_many_labels_still_add_up() -> None:
    examples = labelled(**{f"label{number}": 3 for number in range(20)})
    train, dev = split_off(examples, 0.1, stratum=label_of, rng=Random(0))
    assert (len(train), len(dev)) == (54, 6)
    assert len({example.label for example in train}) == 20


def test_too_few_rows_cannot_be_split() -> None:
    with pytest.raises(DataError, match="2 rows of 2 labels are too few .* --dev"):
        split_off(labelled(a=1, b=1), 0.1, stratum=label_of, rng=Random(0))
