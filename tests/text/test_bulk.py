from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text import reference

from bertsmith.config import CasingConfig
from bertsmith.text import bulk, wordpiece
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

LETTERS = "abcdexyz01\u00e9\u00df\u4e2d\u6587\u0301\U0001f600\u1112\u1161"
MARKS = ".,-'[]#!"


def made_up_vocabulary(seed: int) -> Vocabulary:
    rng = random.Random(seed)
    pieces = dict.fromkeys([*SPECIAL_PIECES, *MARKS, *LETTERS])
    while len(pieces) < 400:
        piece = "".join(rng.choices(LETTERS, k=rng.randint(1, 7)))
        pieces[rng.choice(["", "##"]) + piece] = None
    return Vocabulary(pieces)


texts_of_words = st.lists(
    st.text(
        st.sampled_from(LETTERS + LETTERS.upper() + MARKS + " \n\t\r\x00\x85\u2028"), max_size=60
    )
    | st.text(max_size=20),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(texts=texts_of_words, casing=st.sampled_from(reference.CASINGS), seed=st.integers(0, 3))
def test_pieces_are_those_of_the_reference(
    texts: list[str], casing: CasingConfig, seed: int
) -> None:
    vocabulary = made_up_vocabulary(seed)
    ours, theirs = Tokenizer(vocabulary, casing), reference.reference(vocabulary, casing)
    assert reference.differing(ours, theirs, texts) == []
    ids, starts = ours._bulk.encode(texts)
    one_by_one = [ours.encode(text) for text in texts]
    assert starts.tolist() == np.cumsum([0, *map(len, one_by_one)]).tolist()
    assert ids.tolist() == [number for text_ids in one_by_one for number in text_ids]


def test_what_is_remembered_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_BLOCK", 1000)
    monkeypatch.setattr(bulk, "_MOST_REMEMBERED", 300)
    rng = random.Random(0)
    letters = LETTERS + MARKS + " " * 8
    texts = ["".join(rng.choices(letters, k=rng.randint(0, 300))) for _ in range(500)]
    tokenizer = Tokenizer(made_up_vocabulary(0), CasingConfig())
    expected = [tokenizer.encode(text) for text in texts]
    for _ in range(2):
        ids, starts = tokenizer._bulk.encode(texts)
        found = [ids[start:end].tolist() for start, end in zip(starts, starts[1:], strict=False)]
        assert found == expected


def test_a_growing_table_keeps_what_it_holds() -> None:
    tokenizer = Tokenizer(made_up_vocabulary(1), CasingConfig())
    texts = [f"ab{number:x} {number:o}.{number}" for number in range(60_000)]
    ids, starts = tokenizer.encode_many(texts)
    again, _ = tokenizer.encode_many(texts)
    assert np.array_equal(ids, again)
    for index in range(0, len(texts), 997):
        assert ids[starts[index] : starts[index + 1]].tolist() == tokenizer.encode(texts[index])


@pytest.mark.parametrize("texts", [[], [""], ["", ""], [" ", "\n"], ["\x00"], ["\ud800"] * 3])
def test_texts_without_pieces_have_none(texts: list[str]) -> None:
    tokenizer = Tokenizer(made_up_vocabulary(0), CasingConfig())
    for encode in (tokenizer.encode_many, tokenizer._bulk.encode):
        ids, starts = encode(texts)
        assert ids.dtype == np.int32 and len(ids) == 0
        assert starts.dtype == np.int64 and starts.tolist() == [0] * (len(texts) + 1)


def test_few_texts_and_many_are_encoded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(made_up_vocabulary(2), CasingConfig())
    texts = ["abc d\u00e9e xyz.", "", "\u4e2d\u6587 " + "x" * 101 + " " + "a" * 100]
    few = tokenizer.encode_many(texts)
    monkeypatch.setattr(wordpiece, "_FEWEST_BULK_CHARACTERS", 0)
    many = tokenizer.encode_many(texts)
    assert all(np.array_equal(left, right) for left, right in zip(few, many, strict=True))


def real_texts(shared_data: Path, every: int) -> list[str]:
    """Returns each `every`-th line of all the real text, read as it stands."""
    texts = []
    for folder in ("pretrain-en", "pretrain-zh", "glue", "disaster-tweets"):
        for path in sorted(p for p in (shared_data / folder).rglob("*") if p.is_file()):
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            texts += lines[len(lines) % every :: every]
    return texts


@pytest.mark.parametrize(("name", "casing"), reference.PUBLISHED)
def test_pieces_of_real_text_are_those_of_the_reference(
    shared_data: Path, name: str, casing: CasingConfig
) -> None:
    ours, theirs = reference.both(shared_data / "bert-vocab" / name, casing)
    assert reference.differing(ours, theirs, real_texts(shared_data, every=200)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "casing"), reference.PUBLISHED)
def test_pieces_of_all_real_text_are_those_of_the_reference(
    shared_data: Path, name: str, casing: CasingConfig
) -> None:
    ours, theirs = reference.both(shared_data / "bert-vocab" / name, casing)
    texts = real_texts(shared_data, every=1)
    for start in range(0, len(texts), 100_000):
        assert reference.differing(ours, theirs, texts[start : start + 100_000]) == []
