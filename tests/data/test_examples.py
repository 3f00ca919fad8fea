"""Examples are what the paper describes, by the laws and by the numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.examples import measure_rates
from tests.data.numbered import (
    FIRST,
    MakeCorpus,
    natural_documents,
    numbered_tokenizer,
    write_corpus,
)

from bertsmith.config import ExamplesConfig
from bertsmith.data.blocks import EncodedDocument
from bertsmith.data.examples import Example, PretrainingExamples
from bertsmith.data.pairs import Pairs, plan_pairs
from bertsmith.data.randomness import Purpose, word_by_word
from bertsmith.data.shard_writer import CorpusWriter
from bertsmith.data.shards import Corpus, Shard, open_corpus
from bertsmith.errors import DataError
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

PAPER = ExamplesConfig()


def plan(shard: Shard, config: ExamplesConfig = PAPER, seed: int = 0) -> Pairs:
    return plan_pairs(shard, config, word_by_word(seed, Purpose.PAIRS, 0, 0))


def restored(example: Example) -> list[int]:
    """Returns the pieces before any was hidden."""
    ids = example.piece_ids.copy()
    ids[example.masked_positions] = example.masked_labels
    return ids.tolist()


def same(one: Example, other: Example) -> bool:
    return vars(one).keys() == vars(other).keys() and all(
        np.array_equal(value, vars(other)[name]) for name, value in vars(one).items()
    )


def rate_is(found: float, expected: float, count: int) -> None:
    """Asserts that a share of `count` things lies within three standard errors of `expected`."""
    error = (expected * (1 - expected) / count) ** 0.5
    assert abs(found - expected) <= 3 * error, f"{found} is not {expected} ± {3 * error}"


# ---------------------------------------------------------------------------------- pairs


def test_a_document_is_walked_in_order_and_nothing_is_left_out(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(natural_documents(200))
    shard = corpus.open_shard("train", 0)
    pairs = plan(shard)
    is_next = pairs.next_labels == 0
    assert (pairs.starts_b == pairs.ends_a)[is_next].all()
    # A, and B where it is the next text, cover the pieces from first to last without a gap
    walked_to = np.where(is_next, pairs.ends_b, pairs.ends_a)
    assert pairs.starts_a[0] == 0
    assert walked_to[-1] == len(shard.pieces)
    assert (pairs.starts_a[1:] == walked_to[:-1]).all()


def test_pairs_begin_and_end_with_sentences_of_one_document(make_corpus: MakeCorpus) -> None:
    shard = make_corpus(natural_documents(200)).open_shard("train", 0)
    pairs = plan(shard)
    borders = shard.sentence_starts[shard.document_starts]  # of documents, in pieces
    for starts, ends in ((pairs.starts_a, pairs.ends_a), (pairs.starts_b, pairs.ends_b)):
        assert (starts < ends).all()
        assert np.isin(starts, shard.sentence_starts).all()
        assert np.isin(ends, shard.sentence_starts).all()
        first = np.searchsorted(borders, starts, side="right")
        assert (first == np.searchsorted(borders, ends, side="left")).all()
    documents_a, documents_b = (
        np.searchsorted(borders, starts, side="right")
        for starts in (pairs.starts_a, pairs.starts_b)
    )
    assert ((documents_a == documents_b) == (pairs.next_labels == 0)).all()


def test_chunks_are_filled_to_the_target_unless_the_document_ends(make_corpus: MakeCorpus) -> None:
    shard = make_corpus(natural_documents(200)).open_shard("train", 0)
    pairs = plan(shard)
    is_next = pairs.next_labels == 0
    sizes = (pairs.ends_b - pairs.starts_a)[is_next]
    last_sentence = (np.diff(shard.sentence_starts))[
        np.searchsorted(shard.sentence_starts, pairs.ends_b[is_next]) - 1
    ]
    assert (sizes - last_sentence < pairs.targets[is_next]).all()  # not a sentence too much
    ends = np.isin(pairs.ends_b[is_next], shard.sentence_starts[shard.document_starts])
    assert ((sizes >= pairs.targets[is_next]) | ends).all()


def test_a_single_document_gives_its_own_random_next(make_corpus: MakeCorpus) -> None:
    pairs = plan(make_corpus([[10] * 50]).open_shard("train", 0))
    assert {0, 1} == set(pairs.next_labels.tolist())
    lonely = plan(make_corpus([[200]], name="lonely").open_shard("train", 0))
    assert (lonely.starts_b[0], lonely.ends_b[0], lonely.next_labels[0]) == (0, 200, 1)


def test_every_other_document_is_drawn_equally(make_corpus: MakeCorpus) -> None:
    shard = make_corpus([[5] * 4000, *[[7]] * 9]).open_shard("train", 0)
    config = ExamplesConfig(sequence_length=16, random_next_prob=1.0)
    pairs = plan(shard, config)
    drawn = Counter(pairs.starts_b[pairs.starts_a < 20_000].tolist())
    assert len(drawn) == 9  # never the document itself
    for count in drawn.values():
        rate_is(count / drawn.total(), 1 / 9, drawn.total())


# ---------------------------------------------------------------------------------- purity


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    """Returns a corpus of a dozen shards, so that there are two groups of them."""
    return make_corpus(natural_documents(250), shard_pieces=15_000)


def make(corpus: Corpus, seed: int = 3, **settings: object) -> PretrainingExamples:
    config = ExamplesConfig(**settings)  # type: ignore[arg-type]
    return PretrainingExamples(corpus, corpus.read_tokenizer().vocabulary, config, seed=seed)


def test_an_example_does_not_depend_on_those_asked_before(corpus: Corpus) -> None:
    examples = make(corpus)
    count = examples.count(1)
    there = [examples.example(1, index) for index in range(count)]
    order = np.random.default_rng(0).permutation(count).tolist()
    fresh = make(corpus)
    for index in order[:300]:
        fresh.example(int(index) % 3, int(index) // 2)
        assert same(fresh.example(1, index), there[index])


def test_an_epoch_holds_each_planned_pair_once(corpus: Corpus) -> None:
    examples = make(corpus)
    starts = Counter(
        tuple(restored(examples.example(0, index))) for index in range(examples.count(0))
    )
    assert len(corpus.shards("train")) > 8
    assert max(starts.values()) <= 2  # pieces repeat after 995: a few spans may look alike
    with pytest.raises(IndexError, match=f"epoch 0 has {examples.count(0)} examples"):
        examples.example(0, examples.count(0))
    with pytest.raises(IndexError):
        examples.example(0, -1)


def test_seed_and_epoch_change_everything(corpus: Corpus) -> None:
    examples = make(corpus)
    first = [examples.example(0, index) for index in range(50)]
    for other in (make(corpus, seed=4).example, lambda _, i: examples.example(1, i)):
        assert not any(same(other(0, index), first[index]) for index in range(50))


def test_static_masking_repeats_the_masks_in_a_new_order(corpus: Corpus) -> None:
    def shown(examples: PretrainingExamples, epoch: int) -> list[bytes]:
        every = [examples.example(epoch, index) for index in range(examples.count(epoch))]
        return [example.piece_ids.tobytes() for example in every]

    static = make(corpus, masking="static")
    first, second = shown(static, 0), shown(static, 1)
    assert first != second
    assert sorted(first) == sorted(second)
    dynamic = make(corpus, masking="dynamic")
    assert shown(dynamic, 0) == first
    assert not set(shown(dynamic, 1)) & set(first)


def test_known_examples_never_change(make_corpus: MakeCorpus) -> None:
    # Written down once: a change here would change every run that is resumed or repeated.
    examples = make(make_corpus([[6] * 20, [9] * 20]), sequence_length=16)
    example = examples.example(2, 5)
    first, second = [107, 108, 109, 110, 4, 112], [297, 298, 4, 300, 301, 302, 303]
    assert examples.count(2) == 24
    assert example.piece_ids.tolist() == [2, *first, 3, *second, 3]
    assert example.masked_positions.tolist() == [5, 10]
    assert example.masked_labels.tolist() == [111, 299]
    assert example.next_label == 1


# ---------------------------------------------------------------------------------- one example


def test_an_example_restores_to_two_runs_of_the_corpus(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    vocabulary = tokenizer.vocabulary
    examples = make(corpus)
    for index in range(500):
        example = examples.example(0, index)
        ids = restored(example)
        middle = ids.index(vocabulary.sep_id)
        assert (ids[0], ids[-1]) == (vocabulary.cls_id, vocabulary.sep_id)
        assert 5 <= len(ids) <= 128
        assert example.segment_ids.tolist() == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
        for run in (ids[1:middle], ids[middle + 1 : -1]):
            assert len(run) >= 1
            steps = np.diff(run) % (len(vocabulary) - FIRST)
            assert (steps == 1).all()  # consecutive pieces of the corpus
        if example.next_label == 0 and len(ids) < 128:
            assert (ids[middle + 1] - ids[middle - 1]) % (len(vocabulary) - FIRST) == 1


def test_masks_are_counted_as_published_and_never_on_special_pieces(corpus: Corpus) -> None:
    examples = make(corpus, masked_lm_prob=0.4)
    for index in range(300):
        example = examples.example(0, index)
        positions = example.masked_positions
        assert len(positions) == min(52, max(1, round(0.4 * len(example))), len(example) - 3)
        assert (np.diff(positions) > 0).all()
        assert (example.masked_labels >= FIRST).all()
    capped = make(corpus, max_predictions_per_seq=3).example(0, 0)
    assert len(capped.masked_positions) == 3


def test_unknown_words_are_never_predicted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    pieces = np.full(300, vocabulary.unk_id, dtype=np.uint16)
    pieces[::50] = 77
    with CorpusWriter(tmp_path / "corpus", tokenizer, shard_pieces=1000) as writer:
        sentences = np.full(30, 10, dtype=np.int32)
        writer.add(EncodedDocument("train", pieces, sentences))
        writer.finish({}, text_bytes=1)
    examples = make(open_corpus(tmp_path / "corpus"))
    for index in range(examples.count(0)):
        example = examples.example(0, index)
        known = restored(example).count(77)
        assert example.masked_labels.tolist() == [77] * min(known, round(0.15 * len(example)))


def test_a_vocabulary_of_another_size_and_an_empty_split_are_refused(corpus: Corpus) -> None:
    vocabulary = numbered_tokenizer(999).vocabulary
    with pytest.raises(DataError, match="a vocabulary of 1000 pieces, but this one has 999"):
        PretrainingExamples(corpus, vocabulary, PAPER, seed=0)
    vocabulary = corpus.read_tokenizer().vocabulary
    with pytest.raises(DataError, match="no document is in the split 'held_out'"):
        PretrainingExamples(corpus, vocabulary, PAPER, seed=0, split="held_out")


# ---------------------------------------------------------------------------------- statistics
# The rates, and what each is expected to be, are those that the benchmark prints.


def check_statistics(corpus: Corpus, vocabulary: Vocabulary, count: int) -> None:
    off = [rate for rate in measure_rates(corpus, vocabulary, count, seed=11) if not rate.holds]
    assert off == []


def test_rates_of_six_thousand_examples_are_those_of_the_paper(tmp_path: Path) -> None:
    tokenizer = numbered_tokenizer(5000)
    corpus = write_corpus(tmp_path / "corpus", tokenizer, natural_documents(1500))
    check_statistics(corpus, tokenizer.vocabulary, 6000)


@pytest.mark.slow
def test_rates_of_a_hundred_thousand_examples_are_those_of_the_paper(tmp_path: Path) -> None:
    tokenizer = numbered_tokenizer(30522)
    documents = natural_documents(14_000)
    corpus = write_corpus(tmp_path / "corpus", tokenizer, documents, shard_pieces=10**9)
    assert PretrainingExamples(corpus, tokenizer.vocabulary, PAPER, seed=11).count(0) > 100_000
    check_statistics(corpus, tokenizer.vocabulary, 100_000)
