"""Predicted tags are written word for word, and can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertsmith.config import ColumnsConfig
from bertsmith.data.tagged import TaggedSentence
from bertsmith.data.tagged_forms import open_tagged
from bertsmith.data.tagged_outputs import TaggedAnswer, write_tagged
from bertsmith.errors import DataError

SENTENCES = [
    TaggedSentence("a", 1, ("New York", "", "\u200b", "#"), document=0),
    TaggedSentence("a", 6, ("O",), document=2),
    TaggedSentence("a", 9, ("x", "y"), document=2),
]
ANSWERS = [
    TaggedAnswer(("B-LOC", "O", "O", "I-LOC"), "find it", (0.5, 0.75, None, 1.0)),
    TaggedAnswer(("O",), "go", (0.5,)),
    TaggedAnswer(("B-X", "I-X"), "go", (0.5, 0.25)),
]


@pytest.mark.parametrize("name", ["out.conll", "out.txt", "out.jsonl"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert write_tagged(path, zip(SENTENCES, ANSWERS, strict=True)) == 3
    rows = list(open_tagged(path, ColumnsConfig(), labelled=True).sentences())
    assert [row.words for row in rows] == [sentence.words for sentence in SENTENCES]
    assert [row.tags for row in rows] == [answer.tags for answer in ANSWERS]
    assert [row.intent for row in rows] == [answer.intent for answer in ANSWERS]
    if name != "out.jsonl":
        assert [row.document for row in rows] == [0, 1, 1]


def test_words_that_a_spreadsheet_would_run_have_a_quote_before_them(tmp_path: Path) -> None:
    row = (TaggedSentence("a", 1, ("=A1", "-7")), TaggedAnswer(("O", "-"), None, (0.5, 0.5)))
    write_tagged(tmp_path / "out.tsv", [row], excel_safe=True)
    assert (tmp_path / "out.tsv").read_text() == "'=A1\tO\n-7\t'-\n\n"
    row = (TaggedSentence("a", 1, ("x\r=A1",)), TaggedAnswer(("O",), None, (0.5,)))
    with pytest.raises(DataError, match="holds a tab or a line break"):
        write_tagged(tmp_path / "out.tsv", [row], excel_safe=True)


def test_columns_are_words_and_tags_with_marks_between_documents(tmp_path: Path) -> None:
    plain = [TaggedAnswer(answer.tags, None, answer.probabilities) for answer in ANSWERS]
    write_tagged(tmp_path / "out.conll", zip(SENTENCES[1:], plain[1:], strict=True))
    expected = "-DOCSTART-\tO\n\nO\tO\n\nx\tB-X\ny\tI-X\n\n"
    assert (tmp_path / "out.conll").read_text() == expected


def test_json_lines_hold_ids_and_probabilities(tmp_path: Path) -> None:
    sentence = TaggedSentence("a", 1, ("x", "\t"), id="7")
    write_tagged(tmp_path / "out.jsonl", [(sentence, TaggedAnswer(("O", "O"), None, (0.5, None)))])
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "id": "7",
        "words": ["x", "\t"],
        "tags": ["O", "O"],
        "probabilities": [0.5, None],
    }


@pytest.mark.parametrize("word", ["a\tb", "a\nb"])
def test_a_word_that_columns_cannot_hold_is_named_and_nothing_is_written(
    word: str, tmp_path: Path
) -> None:
    sentence = TaggedSentence("a.jsonl", 4, ("x", word))
    answer = TaggedAnswer(("O", "O"), None, (0.5, 0.5))
    with pytest.raises(DataError, match=r"a\.jsonl:4: the word 'a\\.b' holds a tab or a line"):
        write_tagged(tmp_path / "out.conll", [(sentence, answer)])
    assert not list(tmp_path.iterdir())
