"""Labelled files are read as they are written, and faults are named where they stand."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bertsmith.config import ColumnsConfig
from bertsmith.data.tables import open_table
from bertsmith.errors import ConfigError, DataError, MissingInputError

MISSING_LOOKING = ["NA", "null", "None", "nan", "n/a", "N/A", "-", "#N/A"]
ODD = ["one\u2028line", "one\x85line", "one\x1cline", "one\x0cline", "one\x0bline", "a\u2029b"]


def rows(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return [row.cells for row in open_table(path, ColumnsConfig(**settings)).rows()]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_words_that_look_like_missing_values_and_odd_separators_stay_text(
    tmp_path: Path, name: str
) -> None:
    texts = MISSING_LOOKING + ODD
    path = tmp_path / name
    if name.endswith("jsonl"):
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        write(path, "\n".join(lines))
    elif name.endswith("parquet"):
        parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        write(path, "text\n" + "\n".join(texts) + "\n")
    assert [row["text"] for row in rows(path)] == texts


def test_tsv_takes_quotes_as_plain_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"lone\t1\nsay ""x"\t0\n"a"\t1\n')
    assert [row["text"] for row in rows(path)] == ['"lone', 'say ""x"', '"a"']


def test_csv_keeps_commas_quotes_and_newlines_inside_quoted_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\r\n"a, ""b""\r\nc",1\r\n5" disk,0\r\n')
    table = open_table(path, ColumnsConfig())
    found = list(table.rows())
    assert [row.cells["text"] for row in found] == ['a, "b"\r\nc', '5" disk']
    assert [row.number for row in found] == [2, 4]


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from("01")),
        min_size=1,
    )
)
def test_csv_rows_of_the_standard_writer_come_back(written: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *written])
        assert [(row["text"], row["label"]) for row in rows(path)] == written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\na,1\n"b,0\nc,1\n', r"a\.csv:3: a quote opens a field .* nothing closes"),
        ('text,label\na,1\n"b,0\n"c",1\n', r"a\.csv:3: a quoted field .* followed by more text"),
        ("text,label\na,b,1\n", r"a\.csv:2: found 3 columns, expected 2 \(text, label\)"),
        ("text,label\na,1\n\nb,0\n", r"a\.csv:3: found a blank line, expected 2"),
        ("text,text\na,1\n", r"a\.csv:1: the column name 'text' stands twice"),
        ("text,label\rb,1\r", r"a\.csv:1: a carriage return stands alone"),
        ("", r"a\.csv: is empty"),
    ],
)
def test_a_faulty_csv_names_the_line_and_the_fault(
    tmp_path: Path, content: str, message: str
) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=message):
        rows(path)


def test_a_tsv_row_of_other_width_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\na\t1\tx\n")
    with pytest.raises(DataError, match=r"a\.tsv:2: found 3 columns, expected 2"):
        rows(path)


def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    assert len(rows(write(tmp_path / "a.tsv", "text\tlabel\na\t1\n\n\n"))) == 1
    assert len(rows(write(tmp_path / "a.csv", "text,label\na,1\n\n\n"))) == 1
    assert len(rows(write(tmp_path / "a.jsonl", '{"text": "a"}\n\n'))) == 1


def test_byte_order_marks_and_windows_line_ends_are_no_part_of_the_text(tmp_path: Path) -> None:
    content = "text\tlabel\r\ncafé\t1\r\n"
    expected = [{"text": "café", "label": "1"}]
    assert rows(write(tmp_path / "a.tsv", codecs.BOM_UTF8 + content.encode())) == expected
    utf16 = write(tmp_path / "b.tsv", content.encode("utf-16"))
    assert rows(utf16, file_encoding="utf-16") == expected
    latin = write(tmp_path / "c.tsv", content.encode("latin-1"))
    assert rows(latin, file_encoding="latin-1") == expected


def test_a_byte_of_another_encoding_is_named_by_its_offset(tmp_path: Path) -> None:
    start = ("text\tlabel\n" + "ä\t1\n" * 400_000).encode()  # more than one chunk is read before
    path = write(tmp_path / "a.tsv", start + "caf\xe9\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=f"byte 0xe9 at offset {len(start) + 3} .*--file-encoding"):
        rows(path)
    path = write(tmp_path / "b.tsv", start + "é".encode()[:1])
    with pytest.raises(DataError, match=f"offset {len(start)} is not utf-8"):
        rows(path)
    path = write(tmp_path / "c.tsv", "text\tlabel\n".encode("utf-16"))
    with pytest.raises(DataError, match="add --file-encoding utf-16"):
        rows(path)


def test_an_unknown_encoding_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\na\n")
    for name in ("utf-99", "rot13"):
        with pytest.raises(ConfigError, match=f"file_encoding is '{name}'"):
            rows(path, file_encoding=name)


def test_a_nul_is_named_where_it_is_read_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na\0b,1\n")
    (row,) = open_table(path, ColumnsConfig()).rows()
    with pytest.raises(DataError, match=r"a\.csv:2: 'text' holds a NUL"):
        row.text("text")
    path = write(tmp_path / "b.csv", "text,label\na,1\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"b\.csv: every second byte .* --file-encoding utf-16-le"):
        rows(path)
    assert rows(path, file_encoding="utf-16-le") == [{"text": "a", "label": "1"}]
    path = write(tmp_path / "c.csv", "te\0xt,label\na,1\n")
    with pytest.raises(DataError, match=r"c\.csv:1: the column name .* holds a NUL"):
        rows(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\nein schöner Tag\t1\n".encode(encoding))
    with pytest.raises(DataError, match=f"as in UTF-16 .* add --file-encoding {encoding}"):
        rows(path)
    assert rows(path, file_encoding=encoding)[0]["text"] == "ein schöner Tag"


def test_what_is_no_text_is_named_by_its_bytes(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a"], "label": ["1"]})
    parquet.write_table(table, tmp_path / "parquet")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.csv", "text,label\na,1\n")
    with sqlite3.connect(tmp_path / "sqlite") as database:
        database.execute("create table rows (text)")
    database.close()
    plain = b"text,label\na,1\n"
    kinds = {
        "is no text but parquet: give it a name": (tmp_path / "parquet").read_bytes(),
        "is no text but a zip archive, as spreadsheets": (tmp_path / "zip").read_bytes(),
        "is no text but a database": (tmp_path / "sqlite").read_bytes(),
        r"is no text but gzip: .* ends in \.gz": gzip.compress(plain),
        "is no text but bzip2": bz2.compress(plain),
        "is no text but xz": lzma.compress(plain),
    }
    for number, (message, content) in enumerate(kinds.items()):
        for suffix in ("csv", "jsonl", "txt"):
            with pytest.raises(DataError, match=message):
                rows(write(tmp_path / f"{number}.{suffix}", content))


@pytest.mark.parametrize(
    "content", ['[\n{"text": "a"}\n]\n', '[{"text": "a"}]', '{\n"data": []}\n']
)
def test_json_over_several_lines_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"a\.json: is one JSON value over all lines; .* jq -c"):
        rows(write(tmp_path / "a.json", content))


def test_a_row_torn_by_its_text_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: found 1 column, .* goes over several lines"):
        rows(write(tmp_path / "a.csv", "text,label\none line\nand another,1\n"))
    with pytest.raises(DataError, match=r"a\.tsv:2: found 3 columns, .* holds neither tabs"):
        rows(write(tmp_path / "a.tsv", "text\tlabel\none\tcell\t1\n"))


def test_a_field_may_be_a_million_characters_long(tmp_path: Path) -> None:
    long = "word " * 300_000
    for name, comma in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(tmp_path / name, f"text{comma}label\n{long}{comma}1\n")
        assert rows(path)[0]["text"] == long


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": NaN}', "NaN is not JSON"),
        ('{"text": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "a", "text": "b"}', "the key 'text' stands twice"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "4300 digits"),
        ("[1, 2]", "holds list"),
        ("{", "Expecting property name"),
        ("", "is blank"),
    ],
)
def test_a_faulty_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n' + line + '\n{"text": "b"}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{message}"):
        rows(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 5}', "'text' holds int '5'; expected text"),
        ('{"text": null}', "'text' holds nothing; expected text"),
        ('{"text": ["a"]}', "'text' holds list"),
        ('{"text": "\\ud800"}', "'text' holds half a surrogate pair at character 0"),
        ('{"texts": "a"}', "has no 'text'; found texts"),
    ],
)
def test_a_json_value_that_is_no_text_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", line + "\n")
    (row,) = open_table(path, ColumnsConfig()).rows()
    with pytest.raises(DataError, match=rf"a\.jsonl:1: {message}"):
        row.text("text")


def test_labels_of_json_and_parquet_are_spelt_as_json_spells_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1, "b": 1.5, "c": true, "d": "x", "e": null}\n')
    (row,) = open_table(path, ColumnsConfig()).rows()
    assert [row.value(name) for name in "abcd"] == ["1", "1.5", "true", "x"]
    with pytest.raises(DataError, match="'e' holds nothing"):
        row.value("e")
    parquet.write_table(pyarrow.table({"a": [1.0, float("nan")]}), tmp_path / "a.parquet")
    first, second = open_table(tmp_path / "a.parquet", ColumnsConfig()).rows()
    assert first.value("a") == "1.0"
    with pytest.raises(DataError, match=r"a\.parquet:2: 'a' holds nan"):
        second.value("a")


def test_gzipped_tables_are_read_and_a_torn_one_is_named(tmp_path: Path) -> None:
    content = ("text,label\n" + "some words,1\n" * 10_000).encode()
    whole = gzip.compress(content)
    assert len(rows(write(tmp_path / "a.csv.gz", whole))) == 10_000
    with pytest.raises(DataError, match=r"b\.csv\.gz: is not a whole gzip file"):
        rows(write(tmp_path / "b.csv.gz", whole[:-20]))
    with pytest.raises(DataError, match=r"c\.csv\.gz: is not a whole gzip file"):
        rows(write(tmp_path / "c.csv.gz", content))


def test_a_file_without_a_header_has_numbered_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "a\t1\nb\t0\n")
    assert rows(path, no_header=True) == [{"0": "a", "1": "1"}, {"0": "b", "1": "0"}]


def test_plain_text_is_one_text_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one, two\n\nthree\n\n")
    assert rows(path) == [{"text": "one, two"}, {"text": ""}, {"text": "three"}]
    assert [row.number for row in open_table(path, ColumnsConfig()).rows()] == [1, 2, 3]


def test_a_missing_file_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="there is no such file"):
        rows(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"'\.doc' names no known format; expected one of \.csv"):
        rows(write(tmp_path / "a.doc", "x"))
    with pytest.raises(DataError, match=r"a\.xlsx: is a spreadsheet; .* save the sheet as CSV"):
        rows(write(tmp_path / "a.xlsx", "x"))
    with pytest.raises(DataError, match="is not a parquet file"):
        rows(write(tmp_path / "a.parquet", "x"))


@pytest.mark.parametrize(
    ("name", "no_header", "count"),
    [
        ("glue/CoLA/train.tsv", True, 8551),
        ("glue/CoLA/dev.tsv", True, 1043),
        ("glue/SST-2/train.tsv", False, 67349),
        ("glue/STS-B/train.tsv", False, 5749),
        ("glue/MRPC/msr_paraphrase_train.txt", False, 4076),
        ("glue/QNLI/dev.tsv", False, 5463),
        ("disaster-tweets/train.csv", False, 7613),
        ("disaster-tweets/test.csv", False, 3263),
        ("wic/train.jsonl", False, 5428),
        ("zh/chnsenticorp/train.tsv", False, 9600),
    ],
)
def test_real_sets_have_the_published_number_of_rows(
    shared_data: Path, name: str, no_header: bool, count: int
) -> None:
    table = open_table(shared_data / name, ColumnsConfig(no_header=no_header))
    assert sum(1 for _ in table.rows()) == count


@pytest.mark.parametrize(("name", "mark"), [("semicolon", ";"), ("pipe", "|")])
def test_other_delimiters_are_read_where_they_are_named(
    tmp_path: Path, name: str, mark: str
) -> None:
    path = write(tmp_path / "a.csv", f'id{mark}text\n1{mark}"a{mark} b, c"\n')
    assert rows(path, delimiter=name) == [{"id": "1", "text": f"a{mark} b, c"}]


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("a.csv", "id;text;label", "has no comma but 2 of ';'.*add --delimiter semicolon"),
        ("a.csv", "id\ttext", "has no comma but 1 of .*add --delimiter tab"),
        ("a.csv", "id|text", ".*add --delimiter pipe, or --delimiter comma if"),
        ("a.tsv", "id,text", "has no tab but 1 of ','.*add --delimiter comma"),
    ],
)
def test_a_header_of_another_delimiter_is_refused(
    tmp_path: Path, name: str, header: str, message: str
) -> None:
    with pytest.raises(DataError, match=f"{name}:1: {message}"):
        rows(write(tmp_path / name, f"{header}\n1\n"))


def test_a_single_column_may_be_called_anything_where_its_delimiter_is_named(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.csv", "words; all of them\nhello\n")
    assert rows(path, delimiter="comma") == [{"words; all of them": "hello"}]
    assert rows(write(tmp_path / "b.tsv", "well, one\nb, c\n"), no_header=True)[1] == {"0": "b, c"}


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="is a folder; expected the file of a table"):
        rows(tmp_path)
