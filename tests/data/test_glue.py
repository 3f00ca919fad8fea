"""GLUE's files are found by name and read as they were published, with the quirks of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertsmith.data.glue import GLUE, find_glue, glue_files, open_glue, write_leaderboard
from bertsmith.data.outputs import Answered
from bertsmith.errors import ConfigError, DataError, MissingInputError

PARTS: tuple[Any, ...] = ("train", "dev", "test")
QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


def opened(path: Path, name: str, *, labelled: bool = True) -> tuple[list[dict[str, Any]], str]:
    table, _, said = open_glue(path, GLUE[name], labelled=labelled)
    return [row.cells for row in table.rows()], said


@pytest.mark.parametrize("name", GLUE)
def test_every_file_has_the_published_number_of_rows(shared_data: Path, name: str) -> None:
    task = GLUE[name]
    folder = shared_data / "glue" / name
    for part in PARTS:
        for file in (task.train,) if part == "train" else getattr(task, part):
            if file is None or not (folder / file).is_file():
                continue
            (path,) = glue_files(shared_data / "glue", task, part)
            assert glue_files(folder, task, part) == (path,)
            rows, said = opened(path, name, labelled=part != "test")
            assert len(rows) == task.rows[path.name]
            assert "published" not in said
            if part != "test" and task.labels:
                assert {row[task.label] for row in rows} == set(task.labels)
            if part == "test":
                assert [row[task.id] for row in rows] == [str(n) for n in range(len(rows))]


def test_a_row_that_lacks_is_said(shared_data: Path) -> None:
    rows, said = opened(shared_data / "glue/MRPC/train.tsv", "MRPC")
    assert len(rows) == 3667
    assert "3,667 rows are not the 3,668 of the published file" in said


def test_training_rows_of_mrpc_are_those_that_dev_ids_do_not_name(shared_data: Path) -> None:
    task = GLUE["MRPC"]
    (path,) = glue_files(shared_data / "glue", task, "train")
    rows, said = opened(path, "MRPC")
    ids = {(row["#1 ID"], row["#2 ID"]) for row in rows}
    lacking, _ = opened(path.with_name("train.tsv"), "MRPC")
    dev, _ = opened(path.with_name("dev.tsv"), "MRPC")
    assert len(ids) == 3668
    assert ids > {(row["#1 ID"], row["#2 ID"]) for row in lacking}
    assert not ids & {(row["#1 ID"], row["#2 ID"]) for row in dev}
    assert "408 rows are left out that dev_ids.tsv names" in said


def test_mrpc_without_dev_ids_is_read_from_its_training_file(tmp_path: Path) -> None:
    (tmp_path / "msr_paraphrase_train.txt").touch()
    (tmp_path / "train.tsv").touch()
    assert glue_files(tmp_path, GLUE["MRPC"], "train") == (tmp_path / "train.tsv",)


def test_cola_has_a_header_in_its_test_file_alone(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(
        'gj04\t1\t\t"Quotes are plain.\nbc01\t0\t*\tSo are not them.\n'
    )
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tA test.\n")
    rows, _ = opened(tmp_path / "dev.tsv", "CoLA")
    assert [(row["label"], row["sentence"]) for row in rows] == [
        ("1", '"Quotes are plain.'),
        ("0", "So are not them."),
    ]
    rows, _ = opened(tmp_path / "test.tsv", "CoLA", labelled=False)
    assert rows == [{"index": "0", "sentence": "A test."}]


def test_torn_rows_of_qqp_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(
        QQP_HEADER + "1\t2\t3\tIs it?\tIt is?\t1\n"
        '4\t5\t6\tHow is "x\n\ty\t0\n'  # a question that holds a line feed
        "\n7\t8\t9\tWhy?\tWhat?\tfor\t0\n10\t11\t12\t\tEmpty?\t0\n\n\n"
    )
    rows, said = opened(path, "QQP")
    assert [row["id"] for row in rows] == ["1", "10"]
    assert "4 rows of a wrong number of columns are left out (lines 3, 4, 5, 6)" in said


def test_torn_rows_of_other_tasks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tc\t1\n")
    with pytest.raises(DataError, match=r"dev\.tsv:2: found 5 columns, expected 4"):
        opened(path, "WNLI")


def test_a_file_of_another_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\na\t1\n")
    with pytest.raises(DataError, match="has no column 'sentence1'; found sentence, label, expec"):
        opened(path, "RTE")
    path.write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    with pytest.raises(DataError, match=r"has no column 'label' \(test files have no labels\)"):
        opened(path, "RTE")


@pytest.mark.parametrize(
    ("name", "found"),
    [("cola", "CoLA"), ("SST2", "SST-2"), ("stsb", "STS-B"), ("mnli-MM", "MNLI-mm")],
)
def test_names_are_known_in_any_case(name: str, found: str) -> None:
    assert find_glue(name, GLUE[found].kind).name == found


def test_wrong_names_and_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="'CoLA2', which is no GLUE task; did you mean 'CoLA'"):
        find_glue("CoLA2", "classify")
    with pytest.raises(ConfigError, match="'STS-B', which asks for numbers; .* regress, not class"):
        find_glue("STS-B", "classify")
    with pytest.raises(ConfigError, match="'CoLA', which asks for labels; .* classify, not tag"):
        find_glue("CoLA", "tag")


def test_missing_files_and_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="has no train.tsv; expected the folder of GLUE's"):
        glue_files(tmp_path, GLUE["QNLI"], "train")
    with pytest.raises(ConfigError, match="AX has no train file: .* fine-tuned on MNLI"):
        glue_files(tmp_path, GLUE["AX"], "train")


def test_mnli_has_two_dev_and_test_files_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "MNLI"
    folder.mkdir()
    names = ("dev_matched.tsv", "dev_mismatched.tsv", "test_matched.tsv", "test_mismatched.tsv")
    for name in names:
        (folder / name).touch()
    found = [
        path.name
        for name, part in (("MNLI", "dev"), ("MNLI-m", "dev"), ("MNLI-mm", "dev"), ("MNLI", "test"))
        for path in glue_files(tmp_path, GLUE[name], part)  # type: ignore[arg-type]
    ]
    assert found == [*names[:2], *names[:2], *names[2:]]


def test_submissions_are_as_the_leaderboard_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "STS-B.tsv"
    answers = [Answered(str(n), value, {}) for n, value in enumerate((-0.2, 2.34567, 5.1, 5.0))]
    assert write_leaderboard(path, iter(answers)) == 4
    assert path.read_text() == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n3\t5.000\n"
    labels = [replace(answer, id=None, answer="not_entailment") for answer in answers[:2]]
    write_leaderboard(path, labels)
    assert path.read_text() == "index\tprediction\n0\tnot_entailment\n1\tnot_entailment\n"


def test_rows_may_be_named_by_a_column(shared_data: Path) -> None:
    path = shared_data / "glue/MRPC/dev.tsv"
    _, columns, _ = open_glue(path, GLUE["MRPC"], labelled=True, id_column="#1 ID")
    assert columns.id == "#1 ID"
    with pytest.raises(DataError, match="has no column 'ID'; found Quality, #1 ID"):
        open_glue(path, GLUE["MRPC"], labelled=True, id_column="ID")
