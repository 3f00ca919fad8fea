"""Choices are read from the forms that the well-known sets have, and faults name their row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from bertsmith.config import ColumnsConfig
from bertsmith.data.choice_columns import choose_choice_columns
from bertsmith.data.choices import Choice, ChoiceColumns, read_choices
from bertsmith.data.tables import open_table
from bertsmith.errors import BertsmithError, ConfigError, DataError, MissingInputError

Rows = list[dict[str, Any]]


def read(path: Path, *, labelled: bool = True, **flags: Any) -> tuple[list[Choice], ChoiceColumns]:
    config = ColumnsConfig(**flags)
    table = open_table(path, config)
    columns = choose_choice_columns(table, config, labelled=labelled)
    return list(read_choices(table, columns)), columns


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def of_columns(*labels: Any, names: tuple[str, ...] = ("ending0", "ending1")) -> Rows:
    return [
        {"stem": f"stem {n}", **{name: f"{name} of {n}" for name in names}, "label": label}
        for n, label in enumerate(labels)
    ]


def of_one(endings: Any, label: Any, **more: Any) -> Rows:
    return [{"question_stem": "Why?", "choices": endings, "answerKey": label, **more}]


def test_swag_is_read_as_its_authors_wrote_it(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / "swag-sample/sample.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    fields = ("sent1", "sent2", *(f"ending{n}" for n in range(4)), "label")
    published = [
        {"": n, "video-id": "v", "gold-source": "gold"} | row for n, row in enumerate(rows)
    ]
    for path in (
        shared_data / "swag-sample/sample.json",
        write(tmp_path / "train.csv", published),
    ):
        found, columns = read(path)
        assert len(found) == 10
        for row, choice in zip(rows, found, strict=True):
            parts = (choice.stem, choice.second, *choice.endings, choice.label)
            assert parts == tuple(row[name] for name in fields)
        assert columns.said() == (
            "stem from 'sent1' (guessed), second from 'sent2' (guessed), endings from 'ending0', "
            "'ending1', 'ending2', 'ending3' (guessed), label as a number from 0 from 'label' "
            "(guessed)"
        )


def test_openbookqa_is_read_with_its_lettered_endings(shared_data: Path) -> None:
    found, columns = read(shared_data / "openbookqa/train.tsv")
    assert len(found) == 4957
    assert found[0].stem == "The sun is responsible for"
    assert found[0].endings[3] == "plants sprouting, blooming and wilting"
    assert (found[0].names, found[0].label) == (("A", "B", "C", "D"), 3)
    assert columns.spelling == "key"
    assert all(len(choice.endings) == 4 for choice in found)  # one of which holds '(D)' itself


def test_codah_is_read_without_a_header(shared_data: Path) -> None:
    counts = []
    for name in ("train", "dev", "test"):
        found, columns = read(shared_data / f"codah/{name}.tsv", no_header=True)
        assert (columns.stem, columns.endings, columns.label) == ("1", ("2", "3", "4", "5"), "6")
        counts.append(len(found))
    assert counts == [1665, 556, 555]
    with pytest.raises(DataError, match="or add --no-header if the first row is data"):
        read(shared_data / "codah/train.tsv")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "endings",
    [
        ["red", "blue"],
        [{"text": "red", "label": "A"}, {"text": "blue", "label": "B"}],
        {"text": ["red", "blue"], "label": ["A", "B"]},
        "(A) red (B) blue",
    ],
)
def test_endings_in_one_column_are_read_in_all_their_forms(
    tmp_path: Path, suffix: str, endings: Any
) -> None:
    (found,), _ = read(write(tmp_path / f"a{suffix}", of_one(endings, "B", id="7-1")))
    assert (found.stem, found.endings, found.label) == ("Why?", ("red", "blue"), 1)
    (found,), _ = read(tmp_path / f"a{suffix}", labelled=False)
    assert (found.id, found.label) == ("7-1", None)


def test_openbookqa_is_read_as_its_authors_nest_it(tmp_path: Path) -> None:
    choices = [{"text": "red", "label": "A"}, {"text": "blue", "label": "B"}]
    rows = [{"id": "1", "question": {"stem": "Why?", "choices": choices}, "answerKey": "B"}]
    (found,), columns = read(write(tmp_path / "train.jsonl", rows))
    assert (found.stem, found.endings, found.label) == ("Why?", ("red", "blue"), 1)
    assert (columns.stem, columns.endings) == ("question.stem", ("question.choices",))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("premise", "choice1", "choice2", "label"), ("premise", None, ("choice1", "choice2"))),
        (("goal", "sol1", "sol2", "label"), ("goal", None, ("sol1", "sol2"))),
        (("question", "A", "B", "answer"), ("question", None, ("A", "B"))),
        (
            ("context", "question", "answerA", "answerB", "label"),
            ("context", "question", ("answerA", "answerB")),
        ),
        (("Question Stem", "option_b", "option_a", "label"), None),
    ],
)
def test_usual_names_are_found(tmp_path: Path, names: tuple[str, ...], expected: Any) -> None:
    path = write(tmp_path / "a.csv", [{name: "0" if name == names[-1] else name for name in names}])
    _, columns = read(path)
    if expected is None:
        expected = ("Question Stem", None, ("option_a", "option_b"))
    assert (columns.stem, columns.second, columns.endings) == expected


def test_flags_win_and_are_no_guesses(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "c": "z", "d": "2", "stem": "s", "ending0": "", "ending1": ""}]
    found, columns = read(
        write(tmp_path / "a.csv", rows),
        stem_column="d",
        second_column="stem",
        ending_columns="c, a",
        label_column="b",
        labelled=False,
    )
    assert (found[0].stem, found[0].second, found[0].endings) == ("2", "s", ("z", "x"))
    assert columns.guessed == ()
    with pytest.raises(
        MissingInputError, match="ending_columns is 'ending2', .* did you mean 'endi"
    ):
        read(tmp_path / "a.csv", ending_columns="ending0,ending2")
    with pytest.raises(
        ConfigError, match="text_column is for texts and pairs; .* give stem_column"
    ):
        read(tmp_path / "a.csv", text_column="a")


@pytest.mark.parametrize(
    ("labels", "spelling", "expected"),
    [
        (("0", "1"), "number", [0, 1]),
        (("a", "B"), "letter", [0, 1]),
        (("ending1 of 0", "ending0 of 1"), "text", [1, 0]),
    ],
)
def test_labels_are_numbers_letters_or_texts(
    tmp_path: Path, labels: tuple[str, ...], spelling: str, expected: list[int]
) -> None:
    found, columns = read(write(tmp_path / "a.csv", of_columns(*labels)))
    assert [choice.label for choice in found] == expected
    assert columns.spelling == spelling
    assert [choice.names[choice.label or 0].casefold() for choice in found] == [
        label.casefold() for label in labels
    ]


def test_training_tells_how_labels_of_later_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", of_columns("A", "B"))
    _, known = read(path)
    table = open_table(write(tmp_path / "dev.csv", of_columns("0", "1")), ColumnsConfig())
    columns = choose_choice_columns(table, ColumnsConfig(), labelled=True, known=known)
    assert columns.guessed == ()
    with pytest.raises(DataError, match=r"dev\.csv:2: the label '0' .* expected a letter from A"):
        list(read_choices(table, columns, 2))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (of_columns("0", "2"), "a.csv:3: the label '2' names none of the 2 .* make them count fr"),
        (of_columns("0", "A"), "a.csv:3: the label 'A' .* expected a number from 0"),
        (of_columns("0", ""), "a.csv:3: the label '' names none"),
        (
            of_columns("no"),
            "a.csv:2: the label 'no' .* key of an ending or a number from 0 or a le",
        ),
        (
            [{"stem": "s", "ending0": "x", "ending1": "x", "label": "x"}],
            "stands twice among them",
        ),
        ([{"stem": "s", "ending0": "x", "ending1": " ", "label": "0"}], "'ending1' is empty; ex"),
        ([{"stem": "", "ending0": "x", "ending1": "y", "label": "0"}], "'stem' is empty; ex"),
        ([{"stem": "s", "choices": "red, blue", "label": "0"}], "'choices' holds no endings; exp"),
        ([{"words": "s", "ending0": "x", "ending1": "y", "label": "0"}], "hold the stem; found"),
        ([{"stem": "s", "ending0": "x", "label": "0"}], "hold the endings; found"),
        ([{"stem": "s", "ending0": "x", "ending1": "y", "is": "0"}], "hold the label; found"),
    ],
)
def test_faults_name_their_row(tmp_path: Path, rows: Rows, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.csv", rows))


def test_rows_with_other_numbers_of_endings_are_named(tmp_path: Path) -> None:
    rows = of_one(["a", "b", "c"], "C") + of_one(["a", "b"], "A")
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: has 2 endings; expected 3, as the other rows"
    ):
        read(write(tmp_path / "a.jsonl", rows))


def test_endings_that_are_no_whole_text_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", of_one(["a", "b"], "A") + of_one(["a", "\ud800"], "A"))
    with pytest.raises(DataError, match=r"a\.jsonl:2: 'choices' holds half a surrogate pair"):
        read(path)


@pytest.mark.parametrize("cell", [None, 3, [], ["a"], [1, 2], {"text": "ab"}, [{"label": "A"}]])
def test_what_holds_no_endings_is_named(tmp_path: Path, cell: Any) -> None:
    path = write(tmp_path / "a.jsonl", of_one(["a", "b"], "A") + of_one(cell, "A"))
    with pytest.raises(BertsmithError, match=r"a\.jsonl:2: 'choices' holds no endings"):
        read(path)
