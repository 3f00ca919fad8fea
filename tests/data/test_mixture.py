"""A mixture draws each corpus by its weight, in the corpus's own order, as a pure function."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.data.numbered import MakeCorpus, natural_documents, numbered_tokenizer, write_corpus

from bertsmith.config import ExamplesConfig
from bertsmith.data.batches import Position, read_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.mixture import (
    MixedExamples,
    Mixture,
    epoch_pieces,
    training_examples,
)
from bertsmith.data.shards import Corpus
from bertsmith.errors import ConfigError, DataError
from bertsmith.text.wordpiece import Tokenizer

CONFIG = ExamplesConfig(sequence_length=64)


@pytest.fixture
def corpora(make_corpus: MakeCorpus) -> tuple[Corpus, Corpus]:
    """Returns a large corpus of several shards and a small one."""
    large = make_corpus(natural_documents(60), name="large", shard_pieces=10_000)
    assert len(large.shards("train")) > 2
    return large, make_corpus(natural_documents(6), name="small")


def mixed(corpora: tuple[Corpus, ...], weights: tuple[float, ...], seed: int = 3) -> MixedExamples:
    mixture = Mixture(corpora, weights)
    return MixedExamples(mixture, mixture.read_tokenizer().vocabulary, CONFIG, seed=seed)


def alone(corpus: Corpus, seed: int) -> PretrainingExamples:
    return PretrainingExamples(corpus, corpus.read_tokenizer().vocabulary, CONFIG, seed=seed)


def test_corpora_are_drawn_by_their_weights(corpora: tuple[Corpus, Corpus]) -> None:
    examples = mixed(corpora, (6.0, 2.0))
    count = 40_000
    draws = Counter(examples.source(0, index)[0] for index in range(count))
    deviation = (0.75 * 0.25 / count) ** 0.5
    assert abs(draws[0] / count - 0.75) < 3 * deviation
    firsts = [examples.source(epoch, 0)[0] for epoch in range(400)]
    assert abs(np.mean(firsts) - 0.25) < 3 * (0.75 * 0.25 / 400) ** 0.5


def test_examples_of_a_corpus_come_in_its_own_order(corpora: tuple[Corpus, Corpus]) -> None:
    """The first corpus with the seed itself, the second with one of its own; pass after pass."""
    examples = mixed(corpora, (0.7, 0.3), seed=3)
    large, small = alone(corpora[0], 3), alone(corpora[1], 3 + (1 << 32))
    sizes = [small.count(own) for own in range(50)]
    passes = [(own, index) for own, size in enumerate(sizes) for index in range(size)]
    drawn = [0, 0]
    for index in range(examples.count(0)):
        place, number = examples.source(0, index)
        assert number == drawn[place]
        drawn[place] += 1
        expected = large.example(0, number) if place == 0 else small.example(*passes[number])
        found = examples.example(0, index)
        assert found.piece_ids.tolist() == expected.piece_ids.tolist()
        assert found.masked_positions.tolist() == expected.masked_positions.tolist()
    assert drawn[0] == large.count(0)
    assert drawn[1] > 2 * sizes[0]  # so that several passes were seen


def test_an_epoch_ends_with_the_longest_corpus(corpora: tuple[Corpus, Corpus]) -> None:
    large, small = (corpus.total("train").pieces for corpus in corpora)
    for weights, longest in (((0.5, 0.5), 0), ((0.99, 0.01), 1)):
        mixture = Mixture(corpora, weights)
        assert mixture.longest() == longest
        assert epoch_pieces(mixture) == round((large, small)[longest] / weights[longest])
        examples = mixed(corpora, weights)
        for epoch in (0, 1, 2):
            count = examples.count(epoch)
            examples.example(epoch, count - 1)
            place, number = examples.source(epoch, count)
            assert place == longest
            seed = 3 + (longest << 32)
            assert number == alone(corpora[longest], seed).count(epoch << 32)
            with pytest.raises(IndexError):
                examples.example(epoch, count)


def test_any_example_is_had_without_those_before_it(corpora: tuple[Corpus, Corpus]) -> None:
    whole = mixed(corpora, (0.4, 0.6))
    count = whole.count(1)
    for index in (count - 1, 0, count // 2, count // 3):
        fresh = mixed(corpora, (0.4, 0.6)).example(1, index)
        assert fresh.piece_ids.tolist() == whole.example(1, index).piece_ids.tolist()
        other = mixed(corpora, (0.4, 0.6), seed=4).example(1, index)
        assert other.piece_ids.tolist() != fresh.piece_ids.tolist()


def test_steps_from_any_position_equal_the_unbroken_ones(corpora: tuple[Corpus, Corpus]) -> None:
    def steps(start: Position, number: int) -> list[list[int]]:
        found = read_steps(mixed(corpora, (0.2, 0.8)), start, tokens_per_batch=4000)
        return [next(found).parts[0].piece_ids.tolist() for _ in range(number)]

    unbroken = read_steps(mixed(corpora, (0.2, 0.8)), Position(), tokens_per_batch=4000)
    seen = [next(unbroken) for _ in range(90)]
    assert seen[-1].position.epoch >= 1
    for stop in (0, 5, 40, 80):
        resumed = steps(seen[stop].position, 5)
        assert resumed == [step.parts[0].piece_ids.tolist() for step in seen[stop + 1 : stop + 6]]


def test_one_corpus_is_read_as_ever(corpora: tuple[Corpus, Corpus]) -> None:
    vocabulary = corpora[0].read_tokenizer().vocabulary
    assert isinstance(
        training_examples(corpora[0], vocabulary, CONFIG, seed=3), PretrainingExamples
    )
    single, plain = mixed(corpora[:1], (1.0,)), alone(corpora[0], 3)
    assert single.count(0) == plain.count(0)
    for index in range(0, plain.count(0), 10):
        ours, theirs = single.example(0, index), plain.example(0, index)
        assert ours.piece_ids.tolist() == theirs.piece_ids.tolist()


def test_what_a_mixture_tells_of_itself(corpora: tuple[Corpus, Corpus]) -> None:
    mixture = Mixture(corpora, (1.0, 3.0))
    assert mixture.shares == (0.25, 0.75)
    assert mixture.total("train").pieces == sum(each.total("train").pieces for each in corpora)
    assert len(mixture.shards("train")) == sum(len(each.shards("train")) for each in corpora)
    assert mixture.fingerprint != Mixture(corpora[::-1], (1.0, 3.0)).fingerprint
    assert mixture.tokenizer_fingerprint == corpora[0].tokenizer_fingerprint


def test_mixtures_that_cannot_be_are_refused(
    corpora: tuple[Corpus, Corpus], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="1 weights for 2 corpora; expected one for each"):
        Mixture(corpora, (1.0,))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected each above zero"):
            Mixture(corpora, (1.0, weight))
    other = numbered_tokenizer(999)
    foreign = write_corpus(tmp_path / "foreign", other, [[5, 6]] * 10)
    ours, theirs = tokenizer.fingerprint[:16], other.fingerprint[:16]
    message = rf"foreign: made with tokenizer {theirs}, but that of .*large is {ours}"
    with pytest.raises(DataError, match=message):
        Mixture((corpora[0], foreign), (0.5, 0.5))
