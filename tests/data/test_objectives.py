"""Examples under every setting: rates, whole words, pairs in order, next pieces; all pure."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.numbered import FIRST, natural_documents, write_corpus
from tests.data.test_examples import make, rate_is, restored, same

from bertsmith.config import CasingConfig, ExamplesConfig
from bertsmith.data.batches import Position, StepSize, read_sized_steps, read_steps
from bertsmith.data.packing import pack
from bertsmith.data.shards import Corpus
from bertsmith.errors import ConfigError, DataError
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

KINDS: list[dict[str, Any]] = [
    {"masked_units": "words"},
    {"masked_units": "spans", "sentence_task": "sop"},
    {"sentence_task": "none", "mask_share": 1.0, "random_share": 0.0},
    {"objective": "lm", "sentence_task": "none"},
    {"layout": "packed", "sentence_task": "none", "masked_units": "spans"},
    {"layout": "packed", "sentence_task": "none", "objective": "lm"},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Returns numbered pieces, of which those after one divisible by 3 or 5 go on with a word."""
    words = [
        f"w{number}" if number % 3 == 0 or number % 5 == 0 else f"##w{number}"
        for number in range(FIRST, 2000)
    ]
    tokenizer = Tokenizer(Vocabulary([*SPECIAL_PIECES, *words]), CasingConfig())
    path = tmp_path_factory.mktemp("corpus") / "corpus"
    return write_corpus(path, tokenizer, natural_documents(250), shard_pieces=15_000)


def with_word_of(example_ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Returns for each piece the place where its word begins."""
    places: list[int] = []
    for place, piece in enumerate(example_ids):
        after_special = place and example_ids[place - 1] in vocabulary.special_ids
        goes_on = vocabulary.pieces[piece].startswith("##") and not after_special
        places.append(places[-1] if goes_on else place)
    return places


# ---------------------------------------------------------------------------------- purity


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_does_not_depend_on_those_asked_before(
    corpus: Corpus, kind: dict[str, Any]
) -> None:
    examples = make(corpus, **kind)
    count = examples.count(1)
    there = [examples.example(1, index) for index in range(count)]
    fresh = make(corpus, **kind)
    for index in np.random.default_rng(0).permutation(count).tolist()[:150]:
        fresh.example(index % 3, index // 2)
        assert same(fresh.example(1, index), there[index])
    other = make(corpus, seed=4, **kind)
    assert not any(same(other.example(1, index), there[index]) for index in range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_from_any_position_equal_the_unbroken_ones(
    corpus: Corpus, kind: dict[str, Any]
) -> None:
    examples = make(corpus, **kind)
    unbroken = list(islice(read_steps(examples, Position(), tokens_per_batch=3000), 120))
    assert unbroken[-1].position.epoch >= 1
    for number in (0, 1, 40, 110):
        again = read_steps(make(corpus, **kind), unbroken[number].position, tokens_per_batch=3000)
        for step, expected in zip(islice(again, 3), unbroken[number + 1 :], strict=False):
            assert step.position == expected.position
            for name, tensor in step.parts[0].tensors().items():
                assert tensor.equal(expected.parts[0].tensors()[name])


# ---------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("units", ["words", "spans"])
def test_masks_never_split_a_word_and_take_their_share(corpus: Corpus, units: str) -> None:
    examples, vocabulary = make(corpus, masked_units=units), corpus.read_tokenizer().vocabulary
    missing = sizes = 0
    for index in range(600):
        example = examples.example(0, index)
        word_of = with_word_of(restored(example), vocabulary)
        chosen = set(example.masked_positions.tolist())
        words = {word_of[place] for place in chosen}
        assert chosen == {place for place, word in enumerate(word_of) if word in words}
        assert not set(example.masked_labels.tolist()) & vocabulary.special_ids
        asked = min(20, max(1, round(0.15 * len(example))))
        assert 0 <= asked - len(chosen) < 3  # the longest word has three pieces
        missing += asked - len(chosen)
        sizes += asked
    assert missing / sizes < 0.02


@pytest.mark.parametrize(
    ("mask_share", "random_share"), [(0.8, 0.1), (0.5, 0.3), (1.0, 0.0), (0.0, 1.0), (0.6, 0.0)]
)
@pytest.mark.parametrize("units", ["pieces", "words", "spans"])
def test_what_stands_in_place_of_predicted_pieces_has_the_rates_asked_for(
    corpus: Corpus, mask_share: float, random_share: float, units: str
) -> None:
    examples = make(corpus, masked_units=units, mask_share=mask_share, random_share=random_share)
    mask_id = corpus.read_tokenizer().vocabulary.mask_id
    total: Counter[str] = Counter()
    runs = 0
    for index in range(500):
        example = examples.example(0, index)
        seen = example.piece_ids[example.masked_positions]
        hidden = seen == mask_id
        kept = (seen == example.masked_labels) & ~hidden
        total["all"] += len(seen)
        total["hidden"] += int(hidden.sum())
        total["kept"] += int(kept.sum())
        runs += int((np.diff(example.masked_positions) > 1).sum()) + 1
    # Pieces of a span share a die, so that there are as many draws as spans: at most `runs` of them
    # touch one another and are counted together.
    draws = runs if units == "spans" else total["all"]
    spread = 1.5 if units == "spans" else 1.0  # spans differ in length: 1 + (deviation / mean) ** 2
    for name, expected in (("hidden", mask_share), ("kept", 1 - mask_share - random_share)):
        found = total[name] / total["all"]
        error = (expected * (1 - expected) / draws * spread) ** 0.5
        by_chance = random_share / 2000  # a random piece is the right one, or [MASK]
        by_chance += 3 * (by_chance / total["all"]) ** 0.5
        assert abs(found - expected) <= 3 * error + by_chance, name


@pytest.mark.parametrize("units", ["pieces", "spans"])
def test_a_share_that_is_given_is_taken_and_leaves_the_text_as_it_is(
    corpus: Corpus, units: str
) -> None:
    examples = make(corpus, masked_units=units)
    for share in (0.05, 0.4):
        found = expected = 0
        for index in range(200):
            example = examples.example(0, index, share)
            assert restored(example) == restored(examples.example(0, index))
            found += len(example.masked_positions)
            expected += min(max(1, round(share * len(example))), len(example) - 3)
        assert found == expected if units == "pieces" else 0.95 * expected < found <= expected


def test_shares_over_one_whole_and_contradicting_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="together more than 1"):
        ExamplesConfig(mask_share=0.8, random_share=0.3)
    with pytest.raises(ConfigError, match="give sentence_task none"):
        ExamplesConfig(layout="packed")
    with pytest.raises(ConfigError, match="give sentence_task none"):
        ExamplesConfig(objective="lm", sentence_task="sop")
    with pytest.raises(ConfigError, match="leave masked_units and final_masked_lm_prob out"):
        ExamplesConfig(objective="lm", sentence_task="none", masked_units="words")
    with pytest.raises(ConfigError, match="and objective 'rtd' no pair .* give sentence_task none"):
        ExamplesConfig(objective="rtd")
    with pytest.raises(ConfigError, match="objective 'mlm' there is no generator; give objective"):
        ExamplesConfig(generator_share=0.5)


@pytest.mark.parametrize("layout", ["pairs", "packed"])
def test_pieces_to_replace_are_hidden_by_the_masks_of_masked_pieces(
    corpus: Corpus, layout: str
) -> None:
    kind: dict[str, Any] = {"layout": layout, "sentence_task": "none", "masked_units": "spans"}
    masked = make(corpus, **kind)
    replaced = make(corpus, objective="rtd", generator_share=0.5, **kind)
    assert replaced.count(0) == masked.count(0)
    assert all(same(replaced.example(0, n), masked.example(0, n)) for n in range(300))


# ---------------------------------------------------------------------------------- pairs


def test_sentence_order_is_swapped_half_of_the_time_and_always_of_one_place(
    corpus: Corpus,
) -> None:
    examples, vocabulary = make(corpus, sentence_task="sop"), corpus.read_tokenizer().vocabulary
    swapped = 0
    count = examples.count(0)
    for index in range(count):
        example = examples.example(0, index)
        ids = restored(example)
        middle = ids.index(vocabulary.sep_id)
        first, second = ids[1:middle], ids[middle + 1 : -1]
        assert first and second
        if example.next_label:
            first, second = second, first
            swapped += 1
        # What was cut off at either side is at most a sentence longer than the pair.
        gap = (second[0] - first[-1]) % (len(vocabulary) - FIRST)
        assert 1 <= gap <= 1 + 2 * 128
        if len(ids) < 128:
            assert gap == 1
    rate_is(swapped / count, 0.5, count)


def test_without_a_task_pairs_are_consecutive_and_have_no_label(corpus: Corpus) -> None:
    examples, vocabulary = make(corpus, sentence_task="none"), corpus.read_tokenizer().vocabulary
    taken = [examples.example(0, index) for index in range(300)]
    for example in taken:
        ids = restored(example)
        middle = ids.index(vocabulary.sep_id)
        if len(ids) < 128:
            assert (ids[middle + 1] - ids[middle - 1]) % (len(vocabulary) - FIRST) == 1
        assert example.next_label is None
    assert pack(taken).next_labels is None
    assert "next_labels" not in pack(taken).tensors()


def test_pairs_without_random_next_take_every_piece_in_order(tmp_path: Path) -> None:
    tokenizer = Tokenizer(Vocabulary([*SPECIAL_PIECES, *"abcdefghijklmno"]), CasingConfig())
    corpus = write_corpus(tmp_path / "corpus", tokenizer, [[2], [1], [1, 1], [8]])
    examples = make(corpus, sentence_task="none", short_seq_prob=0.0)
    texts = [restored(examples.example(0, index)) for index in range(examples.count(0))]
    pieces = sorted(piece for text in texts for piece in text if piece >= FIRST)
    assert pieces == [5, 6, *range(8, 18)]  # a document of one piece has no two parts
    assert examples.count(0) == 3


def test_a_corpus_of_single_pieces_has_no_pairs_which_is_said(tmp_path: Path) -> None:
    tokenizer = Tokenizer(Vocabulary([*SPECIAL_PIECES, *"abc"]), CasingConfig())
    corpus = write_corpus(tmp_path / "corpus", tokenizer, [[1], [1]])
    with pytest.raises(DataError, match="no document of the corpus has a pair"):
        next(read_steps(make(corpus, sentence_task="sop"), Position(), tokens_per_batch=200))


# ---------------------------------------------------------------------------------- left to right


def test_left_to_right_every_next_piece_is_predicted_and_none_hidden(corpus: Corpus) -> None:
    examples = make(corpus, objective="lm", sentence_task="none")
    masked = make(corpus, sentence_task="none")
    for index in range(100):
        example = examples.example(0, index)
        assert example.piece_ids.tolist() == restored(masked.example(0, index))  # the same text
        assert example.masked_positions.tolist() == list(range(len(example) - 1))
        assert example.masked_labels.tolist() == example.piece_ids.tolist()[1:]


# ---------------------------------------------------------------------------------- sizes


def sizes_from(step: int) -> Any:
    return (StepSize(600 + 50 * number, 0.1 + 0.01 * number) for number in range(step, 1000))


def test_steps_that_grow_go_on_from_any_of_them_as_if_unbroken(corpus: Corpus) -> None:
    """The example that no longer goes into a step is masked as the next step masks."""
    examples = make(corpus)
    unbroken = list(islice(read_sized_steps(examples, Position(), sizes_from(0)), 30))
    for number in (0, 7, 28):
        again = read_sized_steps(examples, unbroken[number].position, sizes_from(number + 1))
        step, expected = next(again), unbroken[number + 1]
        assert step.position == expected.position
        for name, tensor in step.parts[0].tensors().items():
            assert tensor.equal(expected.parts[0].tensors()[name])
    for number, step in enumerate(unbroken):
        (part,) = step.parts
        size = 600 + 50 * number
        assert size - 128 < part.num_tokens <= size
        assert part.masked_positions is not None
        share = len(part.masked_positions) / part.num_tokens
        assert abs(share - (0.1 + 0.01 * number)) < 0.02
