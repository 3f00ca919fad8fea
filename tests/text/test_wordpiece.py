from __future__ import annotations

from pathlib import Path

import pytest

from bertsmith.config import CasingConfig
from bertsmith.errors import DataError, MissingInputError
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

PIECES = (*SPECIAL_PIECES, "un", "##aff", "##able", "hello", "world", "##s", "[", "]", "mask", ".")


def small(**casing: bool) -> Tokenizer:
    return Tokenizer(Vocabulary(PIECES), CasingConfig(**casing))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.vocabulary.pieces[number] for number in ids]


def test_the_longest_piece_is_taken_first() -> None:
    tokenizer = small()
    assert pieces(tokenizer, tokenizer.encode("unaffable")) == ["un", "##aff", "##able"]
    assert pieces(tokenizer, tokenizer.encode("Hello Worlds.")) == ["hello", "world", "##s", "."]


def test_a_word_that_cannot_be_cut_is_unknown() -> None:
    tokenizer = small()
    assert tokenizer.encode("unaffordable") == [tokenizer.vocabulary.unk_id]


def test_special_strings_are_text_unless_asked_for() -> None:
    tokenizer = small()
    assert pieces(tokenizer, tokenizer.encode("[MASK]")) == ["[", "mask", "]"]
    assert pieces(tokenizer, tokenizer.encode("hello[MASK]", with_special=True)) == [
        "hello",
        "[MASK]",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join(PIECES) + "\nhello\n", r"vocab\.txt:16: 'hello' stands already at line 9"),
        ("[PAD]\n\n[UNK]\n", r"vocab\.txt:2: the line is blank"),
        ("[PAD]\nhello \n", r"vocab\.txt:2: 'hello ' begins or ends with white space"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"vocab\.txt: '\[MASK\]' is missing among 4 pieces"),
        ("", r"vocab\.txt: '\[PAD\]' is missing among 0 pieces"),
    ],
)
def test_a_faulty_vocabulary_is_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Vocabulary.read(path)


def test_a_vocabulary_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(DataError, match=r"vocab\.txt: byte 6 is not UTF-8"):
        Vocabulary.read(path)


def test_a_missing_vocabulary_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="vocab.txt: cannot be read"):
        Vocabulary.read(tmp_path / "vocab.txt")


def test_a_vocabulary_with_other_line_ends_reads_the_same(tmp_path: Path) -> None:
    vocabulary = Vocabulary(PIECES)
    plain, windows = tmp_path / "vocab.txt", tmp_path / "windows.txt"
    vocabulary.write(plain)
    windows.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    assert Vocabulary.read(plain).pieces == PIECES
    assert Vocabulary.read(windows).sha256 == vocabulary.sha256
