"""Texts and pairs become pieces as published, and packing neither loses nor mixes them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from bertsmith.config import CasingConfig
from bertsmith.tasks.labelled import Example
from bertsmith.tasks.pieces import Features, by_length, encode_example, pack, windows
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
        example = Example("", " ".join(first), " ".join(second))
        found = encode_example(example, tokenizer, max_length)
        is_cut = len(first) + len(second) + 3 > max_length
        published_truncation(first, second, max_length - 3)
        expected = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
        assert [tokenizer.vocabulary.pieces[piece] for piece in found.piece_ids] == expected
        assert (found.first_length, found.is_cut) == (len(first) + 2, is_cut)


def test_a_long_text_keeps_its_beginning(tokenizer: Tokenizer) -> None:
    text = " ".join("abcdefgh")
    whole = encode_example(Example("", text), tokenizer, 10)
    cut = encode_example(Example("", text), tokenizer, 9)
    assert not whole.is_cut and len(whole.piece_ids) == 10
    assert cut.is_cut
    assert cut.piece_ids.tolist() == [*whole.piece_ids[:8], tokenizer.vocabulary.sep_id]


def test_an_empty_text_is_two_special_pieces(tokenizer: Tokenizer) -> None:
    found = encode_example(Example("", ""), tokenizer, 8)
    assert found.piece_ids.tolist() == [tokenizer.vocabulary.cls_id, tokenizer.vocabulary.sep_id]


def random_features(rng: Random, count: int) -> list[Features]:
    rows = []
    for _ in range(count):
        length = rng.randrange(2, 30)
        ids = np.array([rng.randrange(100) for _ in range(length)], dtype=np.int32)
        rows.append(Features(ids, rng.randrange(1, length + 1), False))
    return rows


def test_packing_is_undone_by_the_starts() -> None:
    rows = random_features(Random(0), 20)
    batch = pack(rows, torch.arange(20)).tensors()
    starts = batch["sequence_starts"].tolist()
    assert (starts[0], starts[-1]) == (0, len(batch["piece_ids"]))
    for row, start, end in zip(rows, starts, starts[1:], strict=False):
        assert batch["piece_ids"][start:end].tolist() == row.piece_ids.tolist()
        assert batch["position_ids"][start:end].tolist() == list(range(end - start))
        second = end - start - row.first_length
        assert batch["segment_ids"][start:end].tolist() == [0] * row.first_length + [1] * second
    assert batch["labels"].tolist() == list(range(20))


def test_groups_hold_every_row_once_within_the_budget() -> None:
    rows = random_features(Random(1), 200)
    groups = list(by_length(rows, 64))
    assert sorted(place for group in groups for place in group) == list(range(200))
    assert all(sum(len(rows[place].piece_ids) for place in group) <= 64 for group in groups)
    assert [group for group in by_length(rows, 1)] == [
        [place] for place in sorted(range(200), key=lambda place: len(rows[place].piece_ids))
    ]


def test_windows_keep_the_order() -> None:
    examples = [Example(str(number), "") for number in range(10)]
    found = list(windows(iter(examples), 4))
    assert [len(window) for window in found] == [4, 4, 2]
    assert [example for window in found for example in window] == examples
