"""Questions are read strictly; what is wrong with an answer is mended or left out, and counted."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.config import ColumnsConfig
from bertsmith.data.questions import Marked, Purpose, place_answer
from bertsmith.data.squad import QuestionFile, open_questions
from bertsmith.errors import DataError, MissingInputError

CONTEXT = "The cat sat on the mat. The dog sat on the cat."
COLUMNS = ColumnsConfig()


def question(**changes: Any) -> dict[str, Any]:
    found = {
        "id": "q1",
        "question": "Who sat?",
        "answers": [{"text": "cat", "answer_start": 4}],
    } | changes
    return {key: value for key, value in found.items() if value is not None}


def squad(*questions: Any, context: Any = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]}


def write(folder: Path, content: Any, name: str = "dev.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def opened(folder: Path, content: Any, purpose: Purpose = "scoring") -> QuestionFile:
    return open_questions(write(folder, content), COLUMNS, purpose)


# ------------------------------------------------------------------------------ SQuAD's form


def test_a_question_knows_its_place_its_answers_and_their_characters(tmp_path: Path) -> None:
    path = write(tmp_path, squad(question(), question(id="q2", answers=[])))
    first, second = open_questions(path, COLUMNS, "training")
    assert first.where == f"{path}: data[0].paragraphs[0].qas[0]"
    assert (first.id, first.question, first.answers) == ("q1", "Who sat?", ("cat",))
    assert first.span == (4, 7)
    assert (second.answers, second.span) == ((), None)
    assert first.context is second.context


def test_gzip_byte_order_mark_and_number_ids_are_read(tmp_path: Path) -> None:
    content = "\ufeff" + json.dumps(squad(question(id=7)))
    path = tmp_path / "dev.json.gz"
    path.write_bytes(gzip.compress(content.encode()))
    assert [row.id for row in open_questions(path, COLUMNS, "scoring")] == ["7"]


def test_a_file_may_be_read_any_number_of_times(tmp_path: Path) -> None:
    found = opened(tmp_path, squad(question()))
    assert list(found) == list(found) != []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"dev\.json:1: Expecting value at column 1; expected one JSON object"),
        ('{"data": [\n}', r"dev\.json:2: "),
        ('{"a": 1}\n{"a": 2}', r"dev\.json:2: Extra data .* is named \.jsonl"),
        ('{"data": NaN}', "NaN is not JSON"),
        ('{"data": [], "data": []}', "the key 'data' stands twice"),
        ("[" * 100_000, "is nested too deeply"),
        ([], r"dev\.json: holds a list; expected an object with 'data'"),
        ({"articles": []}, r"dev\.json: has no 'data'; found 'articles'"),
        ({"data": {}}, "'data' holds an object; expected a list"),
        ({"data": [{"title": "x"}]}, r"dev\.json: data\[0\]: has no 'paragraphs'"),
        ({"data": [{"paragraphs": [7]}]}, r"data\[0\]\.paragraphs\[0\]: holds int '7'"),
        (squad(context=" "), r"data\[0\]\.paragraphs\[0\]: 'context' is empty"),
        (squad(context=None), r"paragraphs\[0\]: 'context' holds nothing; expected text"),
        (squad(question(), "x"), r"data\[0\]\.paragraphs\[0\]\.qas\[1\]: holds str 'x'"),
        (squad(question(id=None)), r"qas\[0\]: has no 'id'; found 'question', 'answers'"),
        (squad(question(id=True)), r"qas\[0\]: 'id' holds bool 'True'"),
        (squad(question(question=3)), r"qas\[0\]: 'question' holds int '3'; expected text"),
        (squad(question(question="\ud800")), r"qas\[0\]: 'question' holds half a surrogate"),
        (squad(question(answers=None)), r"qas\[0\]: has no 'answers'"),
        (squad(question(answers="cat")), r"qas\[0\]: 'answers' holds str 'cat'; expected a list"),
        (squad(question(answers=[{}])), r"qas\[0\]\.answers\[0\]: has no 'text'"),
        (
            squad(question(answers=[{"text": "cat", "answer_start": "4"}])),
            r"qas\[0\]\.answers\[0\]: 'answer_start' holds str '4'; expected a whole number",
        ),
        (squad(question(is_impossible="no")), r"'is_impossible' holds str 'no'; expected true or"),
        (squad(question(is_impossible=True)), r"is_impossible is true, but there are 1 answers"),
    ],
)
def test_what_is_not_in_the_form_is_refused_with_its_path(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(tmp_path, content)


def test_a_missing_file_and_other_bytes_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="none.json: cannot be read"):
        open_questions(tmp_path / "none.json", COLUMNS, "scoring")
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(DataError, match=r"byte 0xe9 at offset 10 is not utf-8 .*--file-encoding"):
        open_questions(tmp_path / "latin.json", COLUMNS, "scoring")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"{}")[:-5])
    with pytest.raises(DataError, match="is not a whole gzip file"):
        open_questions(tmp_path / "cut.json.gz", COLUMNS, "scoring")


# ---------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("cat", 4, (4, 7)),
        ("cat", 43, (43, 46)),
        ("cat", 5, (4, 7)),  # the nearest of two places
        ("cat", 40, (43, 46)),
        ("cat", -1, (4, 7)),
        ("cat", 10_000, (43, 46)),
        ("mat", 0, (19, 22)),
        (" mat. ", 18, (19, 23)),  # without the white space around it
        ("cat", None, (4, 7)),
        ("Cat", 4, None),
        ("  ", 3, None),
        ("", 0, None),
    ],
)
def test_an_answer_is_found_where_it_stands_nearest_to_its_offset(
    text: str, start: int | None, expected: tuple[int, int] | None
) -> None:
    assert place_answer(CONTEXT, Marked(text, start)) == expected


@given(st.text("ab ", max_size=20), st.text("ab ", max_size=3), st.integers(-3, 25))
def test_no_other_occurrence_is_nearer(context: str, text: str, start: int) -> None:
    bare = text.strip()
    found = place_answer(context, Marked(text, start))
    places = [n for n in range(len(context)) if bare and context.startswith(bare, n)]
    if found is None:
        assert not places
    else:
        wanted = max(0, start + len(text) - len(text.lstrip()))
        assert context[slice(*found)] == bare
        assert abs(found[0] - wanted) == min(abs(place - wanted) for place in places)


def faulty() -> dict[str, Any]:
    return squad(
        question(id="right"),
        question(id="moved", answers=[{"text": "mat", "answer_start": 2}]),
        question(id="lost", answers=[{"text": "cow", "answer_start": 2}]),
        question(
            id="both",
            answers=[{"text": "cow", "answer_start": 2}, {"text": "dog", "answer_start": 28}],
        ),
        question(id="none", answers=[], is_impossible=True),
        question(id="bare", is_impossible=True, answers=None),
        question(id="right", question=" "),
    )


def test_training_leaves_out_what_has_no_answer_in_the_context_and_says_so(tmp_path: Path) -> None:
    found = opened(tmp_path, faulty(), "training")
    rows = list(found)
    assert [row.id for row in rows] == ["right", "moved", "both", "none", "bare", "right"]
    assert [row.span and row.context[slice(*row.span)] for row in rows] == [
        "cat", "mat", "dog", None, None, "cat",
    ]  # fmt: skip
    assert found.said() == (
        "6 questions; 2 of them without an answer in the context; 1 of them empty; "
        "1 of them with an id that stood before; "
        "1 answers stand elsewhere than the file says: the nearest place is taken; "
        "2 answers do not stand in their context; 1 questions are left out of training for that"
    )


def test_scoring_keeps_every_question_and_every_answer(tmp_path: Path) -> None:
    rows = list(opened(tmp_path, faulty()))
    assert len(rows) == 7
    assert (rows[2].answers, rows[2].span) == (("cow",), None)
    assert rows[3].answers == ("cow", "dog")


def test_for_predictions_answers_are_not_read_and_ids_must_differ(tmp_path: Path) -> None:
    content = squad(question(answers=None), question(id="q2", answers="nonsense"))
    assert len(list(opened(tmp_path, content, "predicting"))) == 2
    with pytest.raises(DataError, match=r"qas\[1\]: the id 'q1' stands already at .*qas\[0\]"):
        opened(tmp_path, squad(question(), question()), "predicting")


# ---------------------------------------------------------------------------------- tables


def test_a_csv_has_one_answer_a_row_and_none_in_an_empty_cell(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("id", "Question", "context", "answer", "answer_start"),
                ("a", "Who?", CONTEXT, "cat", "43"),
                ("b", "Where?", CONTEXT, "", ""),
                ("c", "Who?", CONTEXT, "cat", ""),
            ]
        )
    found = open_questions(path, COLUMNS, "training")
    rows = list(found)
    assert [row.id for row in rows] == ["a", "b", "c"]
    assert [row.span for row in rows] == [(43, 46), None, (4, 7)]
    assert rows[0].where == f"{path}:2"
    assert rows[0].context is rows[1].context
    assert found.said().startswith(
        "text from column 'Question' (guessed), pair from column 'context' (guessed), "
        "label from column 'answer' (guessed), id from column 'id' (guessed); 3 questions"
    )
    assert "1 answers have no offset and stand more than once: the first is taken" in found.said()


@pytest.mark.parametrize(
    "answers",
    [
        ["dog", "cat"],
        [{"text": "dog", "answer_start": 28}, {"text": "cat"}],
        {"text": ["dog", "cat"], "answer_start": [28, 4]},
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_json_lines_and_parquet_may_hold_several_answers(
    tmp_path: Path, answers: Any, kind: str
) -> None:
    row = {"question": "Who?", "passage": CONTEXT, "answers": answers}
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    (found,) = open_questions(path, COLUMNS, "scoring")
    assert (found.answers, found.span, found.id) == (("dog", "cat"), (28, 31), "1")


def test_no_answers_at_all_is_a_question_without_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    empty: list[Any] = [[], None, "", {"text": [], "answer_start": []}]
    path.write_text(
        "".join(
            json.dumps({"question": "q", "context": "c", "answers": answers}) + "\n"
            for answers in empty
        )
    )
    found = open_questions(path, COLUMNS, "training")
    assert found.tally.unanswerable == 4
    assert [row.answers for row in found] == [()] * 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "context": "c"}, "no column is known to hold the label"),
        ({"question": "q", "answer": "a"}, "hold the context; .* name it with --pair-column"),
        ({"context": "c", "answer": "a"}, "hold the question; .* name it with --text-column"),
        ({"question": "q", "context": " ", "answer": "a"}, ":1: 'context' is empty"),
        ({"question": "q", "context": "c", "answer": 7}, ":1: 'answer' holds int '7'; expected"),
        ({"question": "q", "context": "c", "answer": [7]}, "'answer' holds int '7'; expected a te"),
        (
            {"question": "q", "context": "c", "answer": "c", "answer_start": 1.5},
            "'answer_start' holds float '1.5'; expected a whole number",
        ),
    ],
)
def test_a_table_without_what_is_needed_is_refused(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message):
        open_questions(path, COLUMNS, "training")


def test_flags_name_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c,d\nWho?,the cat,cat,x7\n")
    config = ColumnsConfig(text_column="a", pair_column="b", label_column="c", id_column="d")
    (row,) = open_questions(path, config, "training")
    assert (row.id, row.question, row.context, row.span) == ("x7", "Who?", "the cat", (4, 7))


# ---------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "questions", "unanswerable", "moved", "lost"),
    [
        ("squad/dev-v1.1-part.json", 9380, 0, 0, 0),
        ("squad/dev-v2.0-part.json", 10174, 5063, 0, 0),
        ("zh/cmrc2018/cmrc2018_dev.json", 3219, 0, 7, 193),
        ("zh/drcd/DRCD_dev.json", 3524, 0, 0, 0),
    ],
)
def test_real_files_are_read_whole(
    shared_data: Path, name: str, questions: int, unanswerable: int, moved: int, lost: int
) -> None:
    tally = open_questions(shared_data / name, COLUMNS, "scoring").tally
    assert tally.questions == questions
    assert (tally.unanswerable, tally.moved, tally.lost) == (unanswerable, moved, lost)
