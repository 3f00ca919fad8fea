"""Files of answers have the layout asked for, and are there whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bertsmith.data.outputs import (
    Answered,
    check_excel_safe,
    check_suffix,
    excel_safe_cell,
    new_file,
    read_layout,
    write_predictions,
    write_submission,
    write_vectors,
)
from bertsmith.errors import ConfigError, DataError, StorageError

ANSWERS = [
    Answered("7", "a,b", {"a,b": 0.75, "c": 0.25}),
    Answered("x\ny", "c", {"a,b": 1e-7, "c": 1 - 1e-7}),
]


def test_predictions_come_back_from_csv_and_from_json_lines(tmp_path: Path) -> None:
    assert write_predictions(tmp_path / "a.csv", ANSWERS, "id") == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["prediction"]) for row in rows] == [("7", "a,b"), ("x\ny", "c")]
    assert [float(row["probability_a,b"]) for row in rows] == [0.75, 1e-7]
    write_predictions(tmp_path / "a.jsonl", ANSWERS, "id")
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert found[0] == {
        "id": "7",
        "prediction": "a,b",
        "probabilities": {"a,b": 0.75, "c": 0.25},
    }


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_would_run_has_a_quote_before_it(
    tmp_path: Path, start: str
) -> None:
    text = f"{start}cmd|'/c calc'!A0"
    rows = [Answered(text, text, {})]
    write_predictions(tmp_path / "safe.csv", rows, "=id", excel_safe=True)
    write_predictions(tmp_path / "plain.csv", rows, "=id")
    with (tmp_path / "safe.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["'=id", "prediction"], [f"'{text}", f"'{text}"]]
    with (tmp_path / "plain.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["=id", "prediction"], [text, text]]


def test_a_number_is_left_alone_and_what_only_begins_as_one_is_not() -> None:
    for number in ("-1", "+2.5", "-1e-07", -3.5, 7, None, "a-b", ""):
        assert excel_safe_cell(number) == number
    for text in ("-1+cmd", "-1\n", "\t-1", "-", "-inf"):
        assert excel_safe_cell(text) == f"'{text}"


def test_a_submission_is_made_safe_for_spreadsheets_too(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,target\n7,0\n")
    layout = read_layout(sample, ["id", "text"], ["@a", "0"])
    write_submission(tmp_path / "out.csv", [Answered("7", "@a", {})], layout, excel_safe=True)
    assert (tmp_path / "out.csv").read_text() == "id,target\n7,'@a\n"


def test_what_no_spreadsheet_runs_cannot_be_made_safe_for_one() -> None:
    with pytest.raises(ConfigError, match=r"out is 'a\.jsonl'; expected a name that ends in \.csv"):
        check_excel_safe(Path("a.jsonl"))


def test_numbers_have_no_probabilities_and_keep_32_bits(tmp_path: Path) -> None:
    value = float(np.float32(1 / 3))
    write_predictions(tmp_path / "a.csv", [Answered(None, value, {})], None)
    header, number = (tmp_path / "a.csv").read_text().split()
    assert header == "prediction" and np.float32(number) == np.float32(value)


def test_a_submission_has_the_columns_and_the_order_of_the_sample(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("target,id\n0,x\n0,7\n")
    layout = read_layout(sample, ["id", "text"], ["0", "1"])
    rows = [Answered("7", "1", {}), Answered("x", "0", {})]
    assert write_submission(tmp_path / "out.csv", rows, layout) == 2
    assert (tmp_path / "out.csv").read_text() == "target,id\n0,x\n1,7\n"


def test_a_sample_with_a_column_for_each_label_gets_probabilities(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,c,b\n1,0.5,0.5\n")
    layout = read_layout(sample, ["id", "text"], ["b", "c"])
    write_submission(tmp_path / "out.csv", [Answered("1", "b", {"b": 0.75, "c": 0.25})], layout)
    assert (tmp_path / "out.csv").read_text() == "id,c,b\n1,0.25,0.75\n"
    with pytest.raises(DataError, match="columns c, b besides 'id'; expected one"):
        read_layout(sample, ["id", "text"], ["b", "d"])
    with pytest.raises(DataError, match="none of which is in the data"):
        read_layout(sample, ["number", "text"], ["b", "c"])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1"], "1 ids do not stand in the data, the first of them '2'"),
        (["1", "2", "3"], "1 ids do not stand in .*sample.csv, the first of them '3'"),
        (["1", "2", "2"], "id '2' stands twice in the data"),
    ],
)
def test_ids_that_are_not_those_of_the_sample_are_named(
    tmp_path: Path, ids: list[str], message: str
) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("id,target\n1,0\n2,0\n")
    layout = read_layout(sample, ["id", "text"], ["0", "1"])
    with pytest.raises(DataError, match=message):
        write_submission(tmp_path / "out.csv", [Answered(i, "0", {}) for i in ids], layout)
    assert not (tmp_path / "out.csv").exists()


def test_vectors_are_written_before_their_number_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1234, 7)).astype(np.float32)
    path = tmp_path / "a.npy"
    assert write_vectors(path, iter([vectors[:1000], vectors[1000:]]), 7) == 1234
    assert np.array_equal(np.load(path, allow_pickle=False), vectors)
    assert write_vectors(path, iter([]), 7) == 0
    assert np.load(path).shape == (0, 7)


def test_a_file_that_fails_half_way_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")
    with pytest.raises(KeyError), new_file(path, "w") as file:
        file.write("half")
        raise KeyError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot be written"),
        new_file(tmp_path / "file" / "a.csv", "w"),
    ):
        pass


def test_a_name_that_tells_no_known_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.csv or \.jsonl"):
        check_suffix(Path("a.xlsx"), ".csv", ".jsonl")
