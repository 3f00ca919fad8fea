"""What comes out of every kind of file, and what is said of a bad one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from bertsmith.config import CorpusConfig
from bertsmith.data.corpus import Document, read_documents
from bertsmith.errors import BertsmithError, ConfigError, DataError, MissingInputError


def paragraphs(path: Path | str, **settings: str) -> list[list[str]]:
    config = CorpusConfig(**settings)  # type: ignore[arg-type]
    return [document.paragraphs for document in read_documents([str(path)], config)]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TWO = "One.\nTwo.\n\nThree.\n"
TWO_DOCUMENTS = [["One.", "Two."], ["Three."]]


# ---------------------------------------------------------------------------------- sources


def test_blank_lines_part_the_documents_of_plain_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", TWO)
    assert list(read_documents([str(path)], CorpusConfig())) == [
        Document(["One.", "Two."], f"{path}:1"),
        Document(["Three."], f"{path}:4"),
    ]


def test_bom_crlf_and_a_missing_last_newline_change_nothing(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").rstrip().encode()
    assert paragraphs(written(tmp_path / "a.txt", content)) == TWO_DOCUMENTS


def test_a_bom_is_no_part_of_a_header_or_a_key(tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "text,id\r\nOne two.,1\r\n"),
        ("a.tsv", "text\tid\nOne two.\t1\n"),
        ("a.jsonl", '{"text": "One two."}\r\n'),
    ):
        assert paragraphs(written(tmp_path / name, ("\ufeff" + content).encode())) == [["One two."]]


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    line = "a\u2028b\u2029c\u0085d\x1ce\x0cf\x0bg\rh"
    assert paragraphs(written(tmp_path / "a.txt", line + "\nnext\n")) == [[line, "next"]]


def test_a_folder_is_read_sorted_to_the_bottom_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", ".hidden.txt", ".git/x.txt", "c.jsonl"):
        text = json.dumps({"text": name}) if name.endswith("jsonl") else name
        written(tmp_path / name, text)
    assert paragraphs(tmp_path) == [["b.txt"], ["c.jsonl"], ["a/z.txt"], ["a/b/c.txt"]]


def test_a_glob_is_sorted_and_a_file_with_a_glob_character_is_a_file(tmp_path: Path) -> None:
    for name in ("2.txt", "1.txt", "3[x].txt", "4.csv"):
        written(tmp_path / name, name)
    assert paragraphs(tmp_path / "*.txt") == [["1.txt"], ["2.txt"], ["3[x].txt"]]
    assert paragraphs(tmp_path / "3[x].txt") == [["3[x].txt"]]


@pytest.mark.parametrize("source", ["memory://corpus", "memory://corpus/*.txt*"])
def test_urls_are_read_like_folders(source: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/b.txt", TWO.encode())
    memory.pipe("/corpus/a.txt.gz", gzip.compress(b"Packed."))
    memory.pipe("/corpus/.hidden.txt", b"No.")
    try:
        assert paragraphs(source) == [["Packed."], *TWO_DOCUMENTS]
        assert paragraphs("memory://corpus/b.txt") == TWO_DOCUMENTS
    finally:
        memory.rm("/corpus", recursive=True)


def test_packed_files_read_as_their_content(tmp_path: Path) -> None:
    parts = [TWO[:7].encode(), TWO[7:].encode()]
    zst = b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)
    gz = b"".join(gzip.compress(part) for part in parts)
    assert paragraphs(written(tmp_path / "a.txt.zst", zst)) == TWO_DOCUMENTS
    assert paragraphs(written(tmp_path / "a.txt.gz", gz)) == TWO_DOCUMENTS


@pytest.mark.parametrize("extension", ["gz", "zst"])
def test_a_packed_file_cut_short_is_refused(tmp_path: Path, extension: str) -> None:
    content = ("word " * 1000 + "\n").encode()
    pack = gzip.compress if extension == "gz" else zstandard.ZstdCompressor().compress
    path = written(tmp_path / f"a.txt.{extension}", pack(content)[:-5])
    with pytest.raises(DataError, match=rf"a\.txt\.{extension}: cannot be unpacked"):
        paragraphs(path)


def test_missing_sources_are_named_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("nothing.txt", "empty", "*.csv"):
        with pytest.raises(MissingInputError, match="no such file or folder"):
            read_documents([str(tmp_path / source)], CorpusConfig())
    with pytest.raises(MissingInputError, match="no corpus is given"):
        read_documents([], CorpusConfig())
    with pytest.raises(MissingInputError, match="gopher:// cannot be read"):
        read_documents(["gopher://host/x"], CorpusConfig())


@pytest.mark.parametrize("content", ["", "\n \n\r\n"])
def test_a_corpus_without_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match=r"a\.txt: the corpus holds no text"):
        paragraphs(written(tmp_path / "a.txt", content))


def test_unknown_extensions_are_refused(tmp_path: Path) -> None:
    for name in ("a.pdf", "noextension"):
        with pytest.raises(DataError, match=rf"{name}: the extension .* expected one of \.txt"):
            paragraphs(written(tmp_path / name, "text"))


# ---------------------------------------------------------------------------------- encodings


def test_a_wrong_byte_is_named_with_its_offset_in_a_large_file(tmp_path: Path) -> None:
    content = ("Ünï\n" * 300_000).encode()  # 1.8 MB: the block border falls inside a character
    assert paragraphs(written(tmp_path / "a.txt", content))
    path = written(tmp_path / "b.txt", b"\xef\xbb\xbf" + content + b"caf\xe9 au lait\n")
    message = rf"b\.txt: byte 0xe9 at offset {len(content) + 6} is not utf-8 .* --encoding"
    with pytest.raises(DataError, match=message):
        paragraphs(path)


def test_text_cut_inside_a_character_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "naïve é".encode()[:-1])
    with pytest.raises(DataError, match=r"byte 0xc3 at offset 7 is not utf-8 \(unexpected end"):
        paragraphs(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "gb18030", "utf-8-sig"])
def test_other_encodings_are_read_when_named(tmp_path: Path, encoding: str) -> None:
    text = "Ein Café.\nZwei.\n"
    path = written(tmp_path / "a.txt", text.encode(encoding))
    assert paragraphs(path, encoding=encoding) == [["Ein Café.", "Zwei."]]


def test_utf16_taken_for_utf8_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"offset 0 is not utf-8 .* utf-16$|NUL byte .* utf-16"):
        paragraphs(written(tmp_path / "a.txt", "text".encode("utf-16")))


def test_nul_bytes_are_named_with_their_offset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: NUL byte at offset 4"):
        paragraphs(written(tmp_path / "a.txt", b"text\0more"))


def test_an_unknown_encoding_is_a_setting_that_cannot_be(tmp_path: Path) -> None:
    for encoding in ("utf-9", "hex"):
        with pytest.raises(ConfigError, match="which Python does not know"):
            paragraphs(written(tmp_path / "a.txt", "text"), encoding=encoding)


# ---------------------------------------------------------------------------------- layouts

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "on"]


def wrapped(sentences: int, width: int = 60) -> str:
    """Returns prose of sentences of nine to seventeen words, broken before `width`."""
    lines, line = [], ""
    for sentence in range(sentences):
        length = 9 + sentence % 9
        for at in range(length):
            word = WORDS[(sentence + at) % len(WORDS)] + ("." if at == length - 1 else "")
            if len(line) + len(word) > width:
                lines.append(line)
                line = ""
            line += word + " "
    return "\n".join([*lines, line])


def test_hard_wrapped_paragraphs_are_joined_and_chapters_are_documents(tmp_path: Path) -> None:
    chapters = [[wrapped(20), wrapped(14), wrapped(25)], [wrapped(30), wrapped(9)]]
    text = "\n\n\n".join(
        f"CHAPTER {number}\n\n\n" + "\n\n".join(chapter)
        for number, chapter in enumerate(chapters, start=1)
    )
    expected = [
        [f"CHAPTER {number}", *(" ".join(part.split()) for part in chapter)]
        for number, chapter in enumerate(chapters, start=1)
    ]
    found = paragraphs(written(tmp_path / "book.txt", text))
    assert [[" ".join(part.split()) for part in document] for document in found] == expected


def test_wrapped_text_without_blank_lines_parts_at_short_lines_and_indents(tmp_path: Path) -> None:
    text = f"{wrapped(20)}\nended here.\n{wrapped(20)}\n  Indented\n{wrapped(20)}\n"
    (document,) = paragraphs(written(tmp_path / "book.txt", text))
    assert any(part.endswith("ended here.") for part in document)
    assert any(part.startswith("Indented the quick") for part in document)
    assert len(document) < 10


def test_joining_keeps_hyphenated_words_and_chinese_whole(tmp_path: Path) -> None:
    lines = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁\n" * 30
    (document,) = paragraphs(written(tmp_path / "zh.txt", lines))
    assert document == [lines.replace("\n", "")]
    text = "well-\nknown\n"
    assert paragraphs(written(tmp_path / "en.txt", text), text_layout="wrapped") == [["well-known"]]


def test_one_sentence_a_line_is_not_taken_for_wrapped_text(tmp_path: Path) -> None:
    sentences = [f"This is sentence {number} of some fifty, no more." for number in range(50)]
    assert paragraphs(written(tmp_path / "a.txt", "\n".join(sentences))) == [sentences]


def test_spaced_books_are_not_torn_into_paragraphs(tmp_path: Path) -> None:
    chapter = [f"Paragraph {number}. " + "It goes on for a while. " * 9 for number in range(9)]
    text = "\n\n".join(chapter) + "\n\n\n" + "\n\n".join(chapter)
    expected = [part.strip() for part in chapter]
    assert paragraphs(written(tmp_path / "a.txt", text)) == [expected, expected]
    indented = "\n\n".join("\u3000\u3000" + part for part in chapter)
    assert paragraphs(written(tmp_path / "b.txt", indented)) == [expected]


def test_one_line_documents_stay_documents(tmp_path: Path) -> None:
    texts = [f"Review {number} stands alone. It has two sentences." for number in range(40)]
    path = written(tmp_path / "a.txt", "\n\n".join(texts))
    assert paragraphs(path) == [[text] for text in texts]
    assert paragraphs(path, text_layout="spaced") == [texts]


def test_long_documents_and_endless_lines_come_in_parts_that_lose_nothing(tmp_path: Path) -> None:
    text = "word " * 800_000
    documents = paragraphs(written(tmp_path / "a.txt", text))
    assert all(sum(map(len, document)) <= 1 << 20 for document in documents)
    joined = " ".join(part for document in documents for part in document)
    assert joined.split() == text.split()
    lines = [f"Sentence {number} of a long document." for number in range(20_000)]
    documents = paragraphs(written(tmp_path / "b.txt", "\n".join(lines)))
    assert all(sum(map(len, document)) <= 100_000 for document in documents)
    assert [part for document in documents for part in document] == lines


# ---------------------------------------------------------------------------------- wikipedia

WIKI = """<doc id="1" url="http://x?curid=1" title="A &amp; B">
A &amp; B

First <br> paragraph &lt;M&gt; of <M>.
<onlyinclude>
History.
Second.

</doc>
<doc id="2" url="http://x?curid=2" title="Stub">
Stub

</doc>
"""


@pytest.mark.parametrize("name", ["wiki_00", "a.txt", "AA/wiki_01"])
def test_wikiextractor_text_is_told_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    expected = [["First   paragraph <M> of <M>.", "History.", "Second."]]
    assert paragraphs(written(tmp_path / name, WIKI)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WIKI.replace("</doc>", "", 1), r":10: a <doc \.\.> opens inside the one of line 1"),
        (WIKI[:-8], r":10: the article that opens here has no </doc>"),
        (WIKI + "stray\n", r":14: 'stray' stands between articles"),
    ],
)
def test_broken_articles_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        paragraphs(written(tmp_path / "wiki_00", content))


# ---------------------------------------------------------------------------------- tables


def test_rows_of_every_table_are_documents_and_their_lines_paragraphs(tmp_path: Path) -> None:
    texts = ['One "quoted".\nTwo, here.', "NA", "null"]
    rows = [{"id": 7, "body": text} for text in texts]
    written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    quoted = [text.replace('"', '""') for text in texts]
    written(tmp_path / "c.csv", "id,body\r\n" + "".join(f'7,"{text}"\r\n' for text in quoted))
    for name in ("a.jsonl", "b.parquet", "c.csv"):
        expected = [text.split("\n") for text in texts]
        assert paragraphs(tmp_path / name, text_field="body") == expected
    written(tmp_path / "d.tsv", 'id\tbody\n7\ta lone " quote\n8\tanother "\n')
    expected = [['a lone " quote'], ['another "']]
    assert paragraphs(tmp_path / "d.tsv", text_field="body") == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", ":2: blank line"),
        ("{text: 1}", ":2: not JSON"),
        ('{"text": NaN}', ":2: not JSON .*NaN is not JSON"),
        ('{"text": "a", "n": Infinity}', ":2: not JSON .*Infinity"),
        ('{"text": "a", "text": "b"}', ":2: not JSON .*'text' stands twice"),
        ('{"text": ' + "[" * 100_000 + "}", ":2: not JSON .*nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", ":2: not JSON"),
        (r'{"text": "a\ud800b"}', r":2: 'text' holds the lone surrogate \\ud800 at character 1"),
        (r'{"text": "a\u0000b"}', ":2: 'text' holds a NUL at character 1"),
        ('{"text": 5}', ":2: 'text' is int; expected a string"),
        ('{"text": null}', ":2: 'text' is NoneType; expected a string"),
        ('["text"]', ":2: holds a list; expected a JSON object"),
        ('{"texts": "a"}', ":2: there is no 'text'; did you mean 'texts'"),
    ],
)
def test_jsonl_faults_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    good = json.dumps({"text": "fine"})
    with pytest.raises(BertsmithError, match=rf"a\.jsonl{message}"):
        paragraphs(written(tmp_path / "a.jsonl", f"{good}\n{line}\n{good}\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a\n2\n", ":3: the row has 1 columns; expected 2"),
        ('id,text\n1,"open\n2,b\n', "unexpected end of data; expected a quote"),
        ('id,text\n1,"a" b\n', ":2: .* expected after"),
        ("id,txt\n1,a\n", ":1: there is no 'text'; did you mean 'txt'.* --text-field"),
    ],
)
def test_csv_faults_are_named_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(BertsmithError, match=rf"a\.csv.*{message}"):
        paragraphs(written(tmp_path / "a.csv", content))


def test_a_long_csv_field_is_read_whole(tmp_path: Path) -> None:
    text = "long " * 40_000  # 200,000 characters: past the csv module's own limit of 131,072
    ((found,),) = paragraphs(written(tmp_path / "a.csv", f"text\n{text}\n"))
    assert found == text.strip()


def test_parquet_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(DataError, match=r"a\.parquet: row 2 of 'text' is NoneType"):
        paragraphs(path)
    with pytest.raises(MissingInputError, match="there is no 'txet'; did you mean 'text'"):
        paragraphs(path, text_field="txet")
    written(path, path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole parquet file"):
        paragraphs(path)
