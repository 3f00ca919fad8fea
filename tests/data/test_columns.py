"""Columns are taken as named, else guessed from what the well-known sets call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertsmith.config import ColumnsConfig
from bertsmith.data.columns import CLASS_NAMES, NUMBER_NAMES, Columns, choose_columns
from bertsmith.data.tables import open_table
from bertsmith.errors import DataError, MissingInputError


def chosen(path: Path, label_names: Any = CLASS_NAMES, known: Any = None, **flags: Any) -> Columns:
    config = ColumnsConfig(**flags)
    return choose_columns(open_table(path, config), config, label_names=label_names, known=known)


def table(folder: Path, *names: str) -> Path:
    path = folder / "a.csv"
    path.write_text(",".join(names) + "\n" + ",".join("x" for _ in names) + "\n")
    return path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("id", "keyword", "text", "target"), ("text", None, "target", "id")),
        (("Sentence", "Label"), ("Sentence", None, "Label", None)),
        (("label", "sentence2", "sentence1"), ("sentence1", "sentence2", "label", None)),
        (("premise", "hypothesis", "gold_label"), ("premise", "hypothesis", "gold_label", None)),
        (("index", "question", "sentence", "label"), ("question", "sentence", "label", "index")),
        (("Quality", "#1 String", "#2 String"), ("#1 String", "#2 String", "Quality", None)),
        (("label", "text_a"), ("text_a", None, "label", None)),
        (("complaint", "label"), ("complaint", None, "label", None)),
        (("text", "department"), ("text", None, "department", None)),
    ],
)
def test_usual_names_are_found(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    found = chosen(table(tmp_path, *names))
    assert (found.text, found.pair, found.label, found.id) == expected


def test_a_score_is_preferred_where_numbers_are_wanted(tmp_path: Path) -> None:
    path = table(tmp_path, "text", "label", "score")
    assert chosen(path).label == "label"
    assert chosen(path, NUMBER_NAMES).label == "score"


def test_flags_win_and_guesses_are_said(tmp_path: Path) -> None:
    path = table(tmp_path, "title", "text", "label", "topic")
    found = chosen(path, text_column="title", label_column="topic")
    assert found == Columns("title", None, "topic", None, guessed=())
    assert found.said() == "text from column 'title', label from column 'topic'"
    assert (
        chosen(path).said()
        == "text from column 'text' (guessed), label from column 'label' (guessed)"
    )


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = table(tmp_path, "text", "label")
    with pytest.raises(MissingInputError, match="text_column is 'txt', .*did you mean 'text'"):
        chosen(path, text_column="txt")


def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold the text; found 'a', 'b', 'c': .*--text-column"):
        chosen(table(tmp_path, "a", "b", "c"))
    with pytest.raises(DataError, match="hold the label; .*--label-column"):
        chosen(table(tmp_path, "text", "b", "c"))


def test_columns_of_training_are_taken_again_where_they_are_there(tmp_path: Path) -> None:
    path = table(tmp_path, "id", "text", "title", "question", "sentence")
    trained = Columns("title", None, "label", None)
    assert chosen(path, None, known=trained).text == "title"
    other = Columns("3", None, "1", None)  # of a file without a header
    found = chosen(path, None, known=other)
    assert (found.text, found.pair, found.label) == ("text", None, None)


def test_a_file_without_a_header_is_guessed_from_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = [f"a rather long sentence number {n}\t{n % 2}" for n in range(20)]
    path.write_text("\n".join(lines))
    found = chosen(path, no_header=True)
    assert (found.text, found.label) == ("0", "1")
    with pytest.raises(DataError, match="add --no-header"):
        chosen(path)


def test_a_list_of_columns_is_of_labels_unless_one_column_has_that_name(tmp_path: Path) -> None:
    def several(path: Path, label_names: Any = CLASS_NAMES, known: Any = None) -> Columns:
        config = ColumnsConfig(label_column="a, b")
        opened = open_table(path, config)
        return choose_columns(
            opened, config, label_names=label_names, known=known, may_have_several=True
        )

    path = table(tmp_path, "id", "comment_text", "a", "b")
    found = several(path)
    assert (found.text, found.label, found.labels, found.id) == (
        *("comment_text", None),
        *(("a", "b"), "id"),
    )
    assert found.names() == ["comment_text", "id", "a", "b"]
    assert chosen(path, known=found, text_column="comment_text").labels == ("a", "b")
    with pytest.raises(MissingInputError, match="label_column is 'a, b', which is not there"):
        chosen(path, label_column="a, b")
    test = table(tmp_path, "id", "comment_text")
    assert several(test, None).labels == ()  # labels are not read where they are to be told
    path.write_text('text,"a, b"\nx,y\n')
    assert (several(path).label, several(path).labels) == ("a, b", ())


def test_columns_of_real_sets_are_found(shared_data: Path) -> None:
    glue = shared_data / "glue"
    assert chosen(glue / "MRPC" / "train.tsv").said().count("(guessed)") == 3
    stsb = chosen(glue / "STS-B" / "train.tsv", NUMBER_NAMES)
    assert (stsb.text, stsb.pair, stsb.label, stsb.id) == (
        *("sentence1", "sentence2"),
        *("score", "index"),
    )
    headless = chosen(shared_data / "zh" / "afqmc" / "train.txt", no_header=True)
    assert (headless.text, headless.pair, headless.label) == ("0", "1", "2")
    with pytest.raises(DataError, match="label.*'0', '1', '2', '3'"):
        chosen(glue / "CoLA" / "train.tsv", no_header=True)
