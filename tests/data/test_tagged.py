"""Tagged words are read as they stand, in every form, and what does not fit is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bertsmith.config import ColumnsConfig
from bertsmith.data.tagged import CONTEXT_WORDS, TaggedSentence
from bertsmith.data.tagged_forms import columns_of, open_tagged
from bertsmith.errors import ConfigError, DataError, MissingInputError

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER

-DOCSTART- -X- O O

It PRP I-NP O"""  # without a line feed at its end


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def read(path: Path, *, labelled: bool = True, **columns: str) -> list[TaggedSentence]:
    return list(open_tagged(path, columns_config(columns), labelled=labelled).sentences())


def columns_config(columns: dict[str, str]) -> ColumnsConfig:
    return ColumnsConfig.from_mapping(columns, where="flags")


def pairs(path: Path, **columns: str) -> list[list[tuple[str, str]]]:
    return [
        list(zip(row.words, row.tags or (), strict=True))
        for row in read(path, labelled=True, **columns)
    ]


def test_a_conll_file_is_sentences_of_documents(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "eng.train", CONLL))
    assert [row.words for row in rows] == [("EU", "rejects"), ("Peter",), ("It",)]
    assert [row.tags for row in rows] == [("I-ORG", "O"), ("I-PER",), ("O",)]
    assert [row.document for row in rows] == [1, 1, 2]
    assert rows[0].where == f"{tmp_path}/eng.train:3"
    assert rows[0].where_of(1) == f"{tmp_path}/eng.train:4"


def test_sentences_of_one_document_know_each_other_alone(tmp_path: Path) -> None:
    first, second, third = read(write(tmp_path / "eng.train", CONLL))
    assert (first.before, first.after) == ((), (("Peter",),))
    assert (second.before, second.after) == ((("EU", "rejects"),), ())
    assert (third.before, third.after) == ((), ())


def test_a_long_document_lends_each_sentence_a_bounded_context(tmp_path: Path) -> None:
    num_sentences = 3 * CONTEXT_WORDS
    path = write(tmp_path / "long.txt", "".join(f"w{n} O\nx O\n\n" for n in range(num_sentences)))
    rows = read(path)
    assert [row.words[0] for row in rows] == [f"w{n}" for n in range(num_sentences)]
    middle = rows[num_sentences // 2]
    assert len(middle.before) == len(middle.after) == CONTEXT_WORDS // 2
    assert middle.before[-1] == rows[num_sentences // 2 - 1].words
    assert middle.after[0] == rows[num_sentences // 2 + 1].words
    assert len(rows[0].after) == len(rows[-1].before) == CONTEXT_WORDS // 2


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_separators_line_ends_and_the_end_of_the_file_change_nothing(
    separator: str, line_end: str, end: str, tmp_path: Path
) -> None:
    content = CONLL.replace(" ", separator) + end
    expected = pairs(write(tmp_path / "plain.txt", CONLL))
    assert pairs(write(tmp_path / "other.txt", content.replace("\n", line_end))) == expected


def test_a_byte_order_mark_and_gzip_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "some.txt.gz").write_bytes(gzip.compress(("\ufeff" + CONLL).encode()))
    expected = pairs(write(tmp_path / "plain.txt", CONLL))
    assert pairs(tmp_path / "some.txt.gz") == expected


def test_words_that_look_empty_are_words(tmp_path: Path) -> None:
    words = ["a", "\u200b", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\ufe0f", "#"]
    for separator in (" ", "\t"):
        content = "".join(f"{word}{separator}O\n" for word in words) + f"{separator}B-X\n"
        (row,) = read(write(tmp_path / "odd.txt", content))
        assert row.words == (*words, "")
        assert row.tags == ("O",) * len(words) + ("B-X",)


def test_a_word_may_hold_spaces_where_tabs_part_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "tabs.tsv", "New York\tB-LOC\n \tO\n")
    assert pairs(path) == [[("New York", "B-LOC"), (" ", "O")]]


def test_columns_are_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "eng.train", CONLL)
    assert pairs(path, label_column="1")[0] == [("EU", "NNP"), ("rejects", "VBZ")]
    assert pairs(path, text_column="-3", label_column="-1")[0][0] == ("NNP", "I-ORG")
    with pytest.raises(MissingInputError, match="label_column is '4', .*one of 4 columns, counted"):
        read(path, label_column="4")
    remembered = columns_of(ColumnsConfig(label_column="1"))
    (row, *_) = open_tagged(path, ColumnsConfig(), remembered, labelled=True).sentences()
    assert row.tags == ("NNP", "VBZ")


def test_remarks_above_a_sentence_are_passed_over_and_may_tell_its_intent(tmp_path: Path) -> None:
    content = "# intent: find it\nsome\tO\n#\tO\n\n# of 2 Jan\nmore\tO\n"
    path = write(tmp_path / "some.tsv", content)
    assert [row.words for row in read(path)] == [("some", "#"), ("more",)]
    assert [row.intent for row in read(path)] == ["find it", None]


def test_a_file_of_a_sentence_a_line_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.bmes", "高 勇 ：\tB-NAME E-NAME O\n\n男\tO\n")
    assert pairs(path) == [[("高", "B-NAME"), ("勇", "E-NAME"), ("：", "O")], [("男", "O")]]
    assert [row.document for row in read(path)] == [None, None]
    write(path, "高 勇 ：\tB-NAME E-NAME O\n男 人\tO\n高 勇\tO O\n")
    with pytest.raises(DataError, match="dev.bmes:2: 2 words and 1 tags stand here; expected"):
        read(path)


def test_json_lines_are_read_by_usual_or_named_keys(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "tokens": ["a", " "], "ner_tags": [0, 3], "document_id": "x", "intent": "go"},
        {"id": 8, "tokens": ["b"], "ner_tags": [1], "document_id": "x", "intent": "stop"},
        {"id": 9, "tokens": ["c"], "ner_tags": [1], "document_id": "y", "intent": "go"},
    ]
    path = write(tmp_path / "some.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = read(path)
    assert [row.words for row in found] == [("a", " "), ("b",), ("c",)]
    assert [row.tags for row in found] == [("0", "3"), ("1",), ("1",)]
    assert [row.intent for row in found] == ["go", "stop", "go"]
    assert [row.id for row in found] == ["7", "8", "9"]
    assert [row.before for row in found] == [(), (("a", " "),), ()]
    renamed = write(tmp_path / "other.json", '{"w": ["a"], "slots": ["O"]}\n')
    assert pairs(renamed, text_column="w", label_column="slots") == [[("a", "O")]]
    assert read(path, labelled=False)[0].tags is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"words": ["a"], "tags": ["O", "O"]}', "'tags' holds 2 tags; expected 1"),
        ('{"words": "a b", "tags": ["O", "O"]}', "'words' holds str 'a b'; expected a list"),
        ('{"words": ["a", null], "tags": ["O", "O"]}', "'words' holds nothing; expected text"),
        ('{"words": [1], "tags": ["O"]}', "'words' holds int '1'; expected text"),
        ('{"words": ["a"], "tags": [null]}', "'tags' holds nothing"),
        ('{"words": ["\\ud800"], "tags": ["O"]}', "half a surrogate pair"),
        ('{"words": [], "tags": []}', "'words' holds no words"),
        ('{"words": ["a"], "tags": ["O"]', "expected one JSON object a line"),
        ('{"words": ["a"]}', "'tags' holds NoneType 'None'; expected a list"),
    ],
)
def test_json_that_is_no_tagged_sentence_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", '{"words": ["a"], "tags": ["O"]}\n' + line + "\n")
    with pytest.raises(DataError, match=f"some.jsonl:2: .*{message}"):
        read(path)


def test_json_without_words_is_named_with_what_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", '{"text": "a b"}\n')
    with pytest.raises(MissingInputError, match="jsonl:1: has none of 'words', 'tokens'; found 't"):
        read(path)


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    names = {"words": "seq.in", "tags": "seq.out", "intents": "label"}
    for role, content in files.items():
        write(path / names[role], content)
    return path


def test_three_parallel_files_are_words_tags_and_intents(tmp_path: Path) -> None:
    path = folder_of(
        tmp_path / "train",
        words="fly to boston \nplay it\n",
        tags="O O B-city \nO O",
        intents="flight#fare\nplay\n\n",
    )
    rows = read(path)
    assert [row.words for row in rows] == [("fly", "to", "boston"), ("play", "it")]
    assert [row.tags for row in rows] == [("O", "O", "B-city"), ("O", "O")]
    assert [row.intent for row in rows] == ["flight#fare", "play"]
    assert open_tagged(path, ColumnsConfig(), labelled=True).said() == (
        "words from seq.in, tags from seq.out, intents from label"
    )
    (path / "label").unlink()
    assert [row.intent for row in read(path)] == [None, None]
    assert [row.tags for row in read(path, labelled=False)] == [None, None]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"words": "a b\nc\n", "tags": "O\nO\n"}, "seq.out:1: 1 tags stand here; expected 2"),
        ({"words": "a\nc\n", "tags": "O\n"}, "seq.out:2: ends before this line; expected as many"),
        ({"words": "a\n", "tags": "O\nO\n"}, "seq.in:2: ends before this line"),
        ({"words": "a\n\nb\n", "tags": "O\nO\nO\n"}, "seq.in:2: is blank here"),
        ({"words": "a\nb\n", "tags": "O\nO\n", "intents": "x\n"}, "label:2: ends before"),
    ],
)
def test_parallel_files_that_do_not_fit_are_named(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(folder_of(tmp_path / "train", **files))


def test_a_folder_of_other_files_is_named_with_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingInputError, match="holds no seq.in; found train: expected a folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("Paris NNP B-LOC\nrejects\n", 2, "'rejects' has no tag; expected 'word ... tag'"),
        ("Paris B-LOC\nis VBZ O\nit O\n\n", 2, "found 3 columns, expected 2 parted by white"),
        ("Paris\tB-LOC\nit\t\n", 2, "'it' has an empty tag; expected O"),
        ("Paris B-LOC\nx\0 O\n", 2, "holds a NUL character"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    content: str, line: int, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.txt", content)
    with pytest.raises(DataError, match=rf"train\.txt:{line}: {message}"):
        read(path)


@pytest.mark.parametrize("content", ["", "\n\n", "-DOCSTART- -X- O\n\n"])
def test_a_file_without_words_is_named(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.txt: is empty; expected a word a line"):
        read(write(tmp_path / "train.txt", content))


def test_bytes_of_another_encoding_are_named_with_their_offset(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Müller B-PER\n".encode("latin-1"))
    with pytest.raises(DataError, match="byte 0xfc at offset 1 is not utf-8"):
        read(tmp_path / "latin.txt")
    assert pairs(tmp_path / "latin.txt", file_encoding="latin-1") == [[("Müller", "B-PER")]]


def test_flags_for_tables_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", CONLL)
    for flags in ({"pair_column": "1"}, {"delimiter": "comma"}):
        with pytest.raises(ConfigError, match="tagged words"):
            open_tagged(path, columns_config(flags), labelled=True)


@pytest.mark.parametrize(
    ("content", "form", "sentences"),
    [
        ("EU\nrejects\n\nIt\n", "columns", [("EU", "rejects"), ("It",)]),
        ("EU I-ORG\nrejects O\n", "columns", [("EU", "rejects")]),
        ("EU NNP\nrejects VBZ\n\nIt PRP\n", "columns", [("EU", "rejects"), ("It",)]),
        ("-DOCSTART- O\n\nEU NNP\n", "columns", [("EU",)]),
        ("a b c\td e f\n", "lines", [("a", "b", "c")]),
        ("It rains .\n\nSo  what\n", "text", [("It", "rains", "."), ("So", "what")]),
        ("one line of text", "text", [("one", "line", "of", "text")]),
    ],
)
def test_files_without_tags_are_recognised(
    content: str, form: str, sentences: list[tuple[str, ...]], tmp_path: Path
) -> None:
    path = write(tmp_path / "new.txt", content)
    assert open_tagged(path, ColumnsConfig(), labelled=False).form == form
    assert [row.words for row in read(path, labelled=False)] == sentences


@pytest.mark.parametrize(
    ("name", "num_sentences", "num_words", "num_documents"),
    [
        ("conll2003/eng.train", 14_041, 203_621, 946),
        ("conll2003/eng.testa", 3_250, 51_362, 216),
        ("zh/weibo-ner/train.all.bmes", 1_350, 73_778, 1),
        ("zh/resume-ner/dev.char.bmes", 463, 13_890, 1),
        ("atis/train", 4_478, 50_497, 1),
        ("snips/dev", 700, 6_384, 1),
    ],
)
def test_published_files_have_their_published_sizes(
    name: str, num_sentences: int, num_words: int, num_documents: int, shared_data: Path
) -> None:
    rows = read(shared_data / name)
    assert len(rows) == num_sentences
    assert sum(len(row.words) for row in rows) == num_words
    assert len({row.document for row in rows}) == num_documents


def test_a_csv_of_words_is_refused_with_the_forms_that_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "ner.csv", "Sentence #,Word,Tag\n1,Rome,B-LOC\n")
    with pytest.raises(DataError, match="ner.csv: is a CSV by its name; expected a word and its"):
        read(path)


def test_names_of_columns_are_not_learnt_as_a_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "ner.tsv", "word\ttag\nRome\tB-LOC\n")
    with pytest.raises(DataError, match="ner.tsv:1: 'word.ttag' looks like names of columns"):
        read(path)
