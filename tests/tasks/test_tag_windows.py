"""Every word is decided once, at its first piece, with the most around it that a window gives."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.config import CasingConfig
from bertsmith.data.tagged import TaggedSentence
from bertsmith.tasks.tag_windows import TagFeatures, tag_features
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

LETTERS = "abcdefgh"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "."]
TOKENIZER = Tokenizer(Vocabulary(PIECES), CasingConfig())
CLS, SEP = PIECES.index("[CLS]"), PIECES.index("[SEP]")
ZERO_WIDTH = ["", " ", "\u200b", "\u200d", "\u00ad", "\ufeff", "\x7f", "\t"]

words_of_letters = st.text(LETTERS, min_size=1, max_size=9)
any_words = st.one_of(words_of_letters, st.sampled_from(ZERO_WIDTH), st.sampled_from(["....", "ы"]))
any_sentence = st.lists(any_words, min_size=1, max_size=40)


def features_of(
    words: list[str],
    max_length: int,
    *,
    context: bool = False,
    before: tuple[tuple[str, ...], ...] = (),
    after: tuple[tuple[str, ...], ...] = (),
) -> TagFeatures:
    sentence = TaggedSentence("a", 1, tuple(words), before=before, after=after)
    return tag_features(sentence, TOKENIZER, max_length, document_context=context)


def shown(features: TagFeatures) -> list[str]:
    return [" ".join(PIECES[piece] for piece in part.piece_ids) for part in features.sequences]


@given(any_sentence, st.integers(4, 24))
def test_each_word_with_a_piece_is_decided_once_at_its_first_piece(
    words: list[str], max_length: int
) -> None:
    features = features_of(words, max_length)
    pieces = [TOKENIZER.encode(word) for word in words]
    expected = [number for number, ids in enumerate(pieces) if ids]
    assert np.concatenate([*features.words, []]).tolist() == expected
    assert features.num_decided == len(expected)
    assert len(features.sequences) == len(features.positions) == len(features.words) >= 1
    for sequence, places, numbers in zip(
        features.sequences, features.positions, features.words, strict=True
    ):
        assert len(sequence) <= max_length
        assert sequence.piece_ids[0] == CLS and sequence.piece_ids[-1] == SEP
        found = sequence.piece_ids[places].tolist()
        assert found == [pieces[number][0] for number in numbers.tolist()]
    assert features.was_cut == any(len(ids) > max_length - 2 for ids in pieces)


@given(st.lists(words_of_letters, min_size=1, max_size=60), st.integers(12, 24))
def test_a_word_is_decided_where_the_nearer_edge_is_farthest(
    words: list[str], max_length: int
) -> None:
    features = features_of(words, max_length)
    pieces = [piece for word in words for piece in TOKENIZER.encode(word)]
    firsts = np.cumsum([0, *(len(TOKENIZER.encode(word)) for word in words)])[:-1]
    room = max_length - 2
    if len(pieces) <= room:
        assert len(features.sequences) == 1
        return
    starts = [*range(0, len(pieces) - room, (room + 1) // 2), len(pieces) - room]

    def margin(place: int, start: int) -> int:
        if not start <= place < start + room:
            return -1
        left = room if start == 0 else place - start
        return min(left, room if start == starts[-1] else start + room - 1 - place)

    for sequence, places, numbers in zip(
        features.sequences, features.positions, features.words, strict=True
    ):
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
            start = int(firsts[number]) - place + 1
            assert sequence.piece_ids[1:-1].tolist() == pieces[start : start + room]
            best = max(margin(int(firsts[number]), other) for other in starts)
            assert margin(int(firsts[number]), start) == best


def test_a_short_sentence_is_one_sequence() -> None:
    features = features_of(["ab", "\u200b", "c"], 16)
    assert shown(features) == ["[CLS] a ##b c [SEP]"]
    assert features.positions[0].tolist() == [1, 3]
    assert features.words[0].tolist() == [0, 2]


def test_a_word_longer_than_a_window_is_decided_once_and_said_to_be_cut() -> None:
    features = features_of(["a", "bcdefghabc", "d"], 6)
    assert np.concatenate(features.words).tolist() == [0, 1, 2]
    assert all(part.was_cut for part in features.sequences) and features.was_cut


def test_a_sentence_of_words_without_pieces_is_a_sequence_that_decides_nothing() -> None:
    features = features_of(ZERO_WIDTH, 16)
    assert shown(features) == ["[CLS] [SEP]"]
    assert features.num_decided == 0


@pytest.mark.parametrize("word", ["." * 1_000_000, "a" * 1_000_000, "a\u0301" * 500_000])
def test_a_monstrous_word_takes_the_time_of_a_window(word: str) -> None:
    started = time.process_time()
    features = features_of(["a", word, "b"], 128)
    assert time.process_time() - started < 0.5
    assert np.concatenate(features.words).tolist() == [0, 1, 2]
    assert features.num_tokens <= 4 * 128


BEFORE = (("a", "a"), ("b", "bb"))
AFTER = (("d", "d"), ("e", "ee"))


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (4, "[CLS] c c [SEP]"),
        (5, "[CLS] c c d [SEP]"),
        (8, "[CLS] b ##b c c d d [SEP]"),
        (11, "[CLS] b b ##b c c d d e e [SEP]"),
        (64, "[CLS] a a b b ##b c c d d e e ##e [SEP]"),
    ],
)
def test_a_sentence_stands_amid_its_document(max_length: int, expected: str) -> None:
    features = features_of(["c", "c"], max_length, context=True, before=BEFORE, after=AFTER)
    (found,) = shown(features)
    assert found == expected
    places = features.positions[0].tolist()
    assert [found.split()[place] for place in places] == ["c", "c"]
    assert features.words[0].tolist() == [0, 1] and not features.was_cut


def test_what_one_side_of_a_document_lacks_is_given_to_the_other() -> None:
    letters = (tuple("abcdefgh"),)
    found = features_of(["a"], 8, context=True, before=letters)
    assert shown(found) == ["[CLS] d e f g h a [SEP]"]
    found = features_of(["a"], 8, context=True, before=(("h",),), after=letters)
    assert shown(found) == ["[CLS] h a a b c d [SEP]"]


def test_without_the_option_a_sentence_stands_alone() -> None:
    assert shown(features_of(["c"], 64, before=BEFORE, after=AFTER)) == ["[CLS] c [SEP]"]
