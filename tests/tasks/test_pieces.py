"""Texts and pairs become pieces as published, and windows keep their order."""

from __future__ import annotations

import time
from random import Random

import pytest

from bertsmith.config import CasingConfig
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import encode, windows
from bertsmith.text.wordpiece import Tokenizer, Vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    return Tokenizer(Vocabulary(tuple(pieces)), CasingConfig())


def published_truncation(first: list[str], second: list[str], room: int) -> None:
    """Cuts in place, as the published `_truncate_seq_pair` does."""
    while len(first) + len(second) > room:
        if len(first) > len(second):
            first.pop()
        else:
            second.pop()


def test_pairs_are_cut_as_the_published_code_cuts_them(tokenizer: Tokenizer) -> None:
    rng = Random(0)
    for _ in range(300):
        first, second = (
            [rng.choice("abcdefgh") for _ in range(rng.randrange(1, 20))] for _ in range(2)
        )
        max_length = rng.randrange(4, 40)
        found = encode(Example("", " ".join(first), " ".join(second)), tokenizer, max_length)
        was_cut = len(first) + len(second) + 3 > max_length
        published_truncation(first, second, max_length - 3)
        expected = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
        assert [tokenizer.vocabulary.pieces[piece] for piece in found.piece_ids] == expected
        assert found.segment_ids.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert found.was_cut == was_cut


def test_a_long_text_keeps_its_beginning(tokenizer: Tokenizer) -> None:
    text = " ".join("abcdefgh")
    whole = encode(Example("", text), tokenizer, 10)
    cut = encode(Example("", text), tokenizer, 9)
    assert not whole.was_cut and len(whole) == 10
    assert cut.was_cut
    assert cut.piece_ids.tolist() == [*whole.piece_ids[:8], tokenizer.vocabulary.sep_id]


def test_the_mask_is_read_from_a_text_only_when_asked_for(tokenizer: Tokenizer) -> None:
    mask = tokenizer.vocabulary.mask_id
    example = Example("", "a [MASK]")
    assert mask not in encode(example, tokenizer, 16).piece_ids
    assert encode(example, tokenizer, 16, with_special=True).piece_ids.tolist()[2] == mask


def test_an_empty_text_is_two_special_pieces(tokenizer: Tokenizer) -> None:
    found = encode(Example("", ""), tokenizer, 8)
    assert found.piece_ids.tolist() == [tokenizer.vocabulary.cls_id, tokenizer.vocabulary.sep_id]


def test_a_text_of_a_million_characters_takes_no_longer_than_is_read_of_it(
    tokenizer: Tokenizer,
) -> None:
    started = time.perf_counter()
    found = encode(Example("", "a." * 500_000), tokenizer, 16)
    assert found.was_cut and len(found) == 16
    assert time.perf_counter() - started < 1  # two orders above what it takes


def test_windows_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.tasks.pieces.WINDOW_ROWS", 4)
    examples = [Example(str(number), "") for number in range(10)]
    found = list(windows(iter(examples)))
    assert [len(window) for window in found] == [4, 4, 2]
    assert [example for window in found for example in window] == examples
