from __future__ import annotations

import pickle
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text import reference
from tokenizers.decoders import WordPiece as WordPieceDecoder

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


def made_up(seed: int = 0) -> Tokenizer:
    """Returns a tokenizer whose pieces stand in most texts over a few letters."""
    rng = random.Random(seed)
    pieces = dict.fromkeys([*SPECIAL_PIECES, *MARKS, *LETTERS, *(f"##{c}" for c in LETTERS[:9])])
    while len(pieces) < 300:
        piece = "".join(rng.choices(LETTERS, k=rng.randint(2, 5)))
        pieces[rng.choice(["", "##"]) + piece] = None
    return Tokenizer(Vocabulary(pieces), CasingConfig())


LETTERS = "abcdez\u00e9\u4e2d\u0301\U0001f600"
MARKS = ".,'[]"
texts = st.text(st.sampled_from(LETTERS + LETTERS.upper() + MARKS + "   \x00\n") | st.characters())
encodable = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(LETTERS + MARKS))


@settings(max_examples=300, deadline=None)
@given(text=encodable, seed=st.integers(0, 3))
def test_offsets_are_those_of_the_reference(text: str, seed: int) -> None:
    ours = made_up(seed)
    theirs = reference.reference(ours.vocabulary, ours.casing).encode(
        text, add_special_tokens=False
    )
    found = ours.encode_with_offsets(text)
    assert found.ids == theirs.ids == ours.encode(text)
    assert list(zip(found.starts, found.ends, strict=True)) == theirs.offsets


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_offsets_lie_in_the_text_in_order(text: str) -> None:
    found = made_up().encode_with_offsets(text)
    borders = [0, *(side for pair in zip(found.starts, found.ends, strict=True) for side in pair)]
    assert all(0 <= start < end <= len(text) for start, end in zip(*found[1:], strict=True))
    assert found.starts == sorted(found.starts) and found.ends == sorted(found.ends)
    assert max(borders) <= len(text)


@settings(max_examples=300, deadline=None)
@given(text=texts, most=st.integers(0, 12))
def test_the_first_pieces_are_those_of_the_whole(text: str, most: int) -> None:
    tokenizer = made_up()
    assert tokenizer.encode(text, max_pieces=most) == tokenizer.encode(text)[:most]
    first = tokenizer.encode_with_offsets(text, max_pieces=most)
    assert first == tuple(column[:most] for column in tokenizer.encode_with_offsets(text))


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(encodable | st.sampled_from([*SPECIAL_PIECES, "[mask]", "[MASK"])),
    most=st.integers(0, 12),
)
def test_special_strings_are_found_as_the_reference_finds_them(parts: list[str], most: int) -> None:
    ours = made_up()
    theirs = reference.reference(ours.vocabulary, ours.casing)
    theirs.add_special_tokens(list(SPECIAL_PIECES))
    text = "".join(parts)
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, with_special=True) == expected
    assert ours.encode(text, with_special=True, max_pieces=most) == expected[:most]


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_decoded_pieces_are_cut_the_same_again(text: str) -> None:
    tokenizer = made_up()
    ids = tokenizer.encode(text)
    if tokenizer.vocabulary.unk_id not in ids:
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_decoding_agrees_with_the_reference() -> None:
    tokenizer = small()
    ids = [2, *tokenizer.encode("unaffable hello. worlds"), 3, 10, 0]
    pieces = [tokenizer.vocabulary.pieces[number] for number in ids]
    decoder = WordPieceDecoder(cleanup=False)
    assert tokenizer.decode(ids, skip_special=False) == decoder.decode(pieces)
    assert tokenizer.decode(ids) == "unaffable hello . worldss"


@pytest.mark.parametrize("number", [-1, len(PIECES)])
def test_decoding_a_foreign_id_says_so(number: int) -> None:
    with pytest.raises(DataError, match=f"id {number} is not in the vocabulary; expected 0 to"):
        small().decode([number])


def test_words_without_pieces_keep_their_place() -> None:
    assert small().encode_words(["hello", "\u200d", "", "un affable"]) == [
        [8],
        [],
        [],
        [5, small().vocabulary.unk_id],
    ]


def test_a_word_of_over_100_characters_is_unknown_and_keeps_its_offsets() -> None:
    tokenizer = Tokenizer(Vocabulary([*PIECES, "a", "##a"]), CasingConfig())
    assert len(tokenizer.encode("a" * 100)) == 100
    for length in (101, 5000, 50_000):
        end = 6 + length
        found = tokenizer.encode_with_offsets("hello " + "a" * length + "\u0301.")
        assert found == ([8, 1, 14], [0, 6, end + 1], [5, end, end + 2])


@pytest.mark.parametrize(
    "unit", ["x", ".", "\u4e2d", "\u0301", "\U0001f600", "\x00", " ", "x\u0301"]
)
def test_work_is_bounded_by_what_is_asked_for(unit: str) -> None:
    tokenizer = made_up()
    text = unit * 1_000_000
    tokenizer.encode(unit * 5000, max_pieces=128)
    tracemalloc.start()
    tokenizer.encode(text, max_pieces=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6

    def seconds() -> float:
        begun = time.process_time()
        tokenizer.encode(text, max_pieces=128)
        return time.process_time() - begun

    assert min(seconds() for _ in range(5)) < 0.05


def test_a_copy_of_a_tokenizer_is_the_same_tokenizer() -> None:
    tokenizer = small(do_lower_case=False)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.vocabulary.pieces == tokenizer.vocabulary.pieces


def test_the_fingerprint_tells_vocabularies_and_casings_apart() -> None:
    changed = Tokenizer(Vocabulary(PIECES[::-1]), CasingConfig())
    fingerprints = {small().fingerprint, small(do_lower_case=False).fingerprint}
    assert len(fingerprints | {changed.fingerprint}) == 3
    assert small().fingerprint == small().fingerprint


@pytest.mark.parametrize("piece", ["", " a", "a\n", "a\tb\n", "\ud800"])
def test_pieces_that_no_file_can_hold_are_refused(piece: str) -> None:
    with pytest.raises(DataError, match="vocabulary:6"):
        Vocabulary([*SPECIAL_PIECES, piece])
