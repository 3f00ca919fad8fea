"""Packed documents: rows are full, runs are of one document, and nothing but an end is left out."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.numbered import FIRST, MakeCorpus, natural_documents
from tests.data.test_examples import rate_is, restored

from bertsmith.config import ExamplesConfig
from bertsmith.data.batches import Position, read_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.runs import NUM_FRAMING, Runs, in_rows, plan_runs
from bertsmith.data.shards import Corpus, Shard


def shard_of(sizes: list[int]) -> Shard:
    """Returns a shard of documents of one sentence each."""
    starts = np.concatenate(([0], np.cumsum(sizes)))
    return Shard(np.arange(starts[-1]), starts, np.arange(len(sizes) + 1))


def plan(sizes: list[int], length: int, seed: int = 0) -> Runs:
    words = np.random.default_rng(seed).integers(0, 2**64, len(sizes), dtype=np.uint64)
    return plan_runs(shard_of(sizes), length, words)


def row_lengths(runs: Runs) -> np.ndarray:
    tokens = runs.ends - runs.starts + NUM_FRAMING
    return np.add.reduceat(tokens, runs.row_starts[:-1])


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=60),
    st.integers(8, 40),
    st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_runs_take_every_piece_once_but_less_than_a_row_at_the_end(
    sizes: list[int], length: int, seed: int
) -> None:
    runs = plan(sizes, length, seed)
    times = np.zeros(sum(sizes), dtype=int)
    borders = np.cumsum(sizes)
    for start, end in zip(runs.starts, runs.ends, strict=True):
        assert 1 <= end - start <= length - NUM_FRAMING
        times[start:end] += 1
        first, last = np.searchsorted(borders, [start, end - 1], side="right")
        assert first == last  # one document
    assert times.max() == 1
    assert (times == 0).sum() < length - NUM_FRAMING
    rows = row_lengths(runs)
    assert (rows <= length).all()
    if len(rows) > 1:
        assert (rows >= length - 2).all()  # no run fits into two tokens
        assert len(rows) > 0


def test_short_documents_alone_are_one_row_of_what_there_is() -> None:
    runs = plan([5, 6], 128)
    assert row_lengths(runs).tolist() == [5 + 6 + 2 * NUM_FRAMING]


def test_runs_of_a_row_stay_together_in_any_order_of_rows() -> None:
    row_starts = np.array([0, 1, 4, 6])
    assert in_rows(row_starts, np.array([1, 2, 0])).tolist() == [1, 2, 3, 4, 5, 0]


# ---------------------------------------------------------------------------------- as examples


def packed(corpus: Corpus, length: int = 128, seed: int = 3) -> PretrainingExamples:
    config = ExamplesConfig(layout="packed", sentence_task="none", sequence_length=length)
    return PretrainingExamples(corpus, corpus.read_tokenizer().vocabulary, config, seed=seed)


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    """Returns a corpus of a dozen shards of documents as long as those of an encyclopedia."""
    return make_corpus(natural_documents(250), shard_pieces=15_000)


@pytest.mark.parametrize(("length", "tokens"), [(128, 4096), (512, 4096), (64, 1024)])
def test_over_99_percent_of_every_batch_are_real_tokens(
    corpus: Corpus, length: int, tokens: int
) -> None:
    steps = read_steps(packed(corpus, length), Position(), tokens_per_batch=tokens)
    fills, lengths = [], []
    for step in steps:
        if step.position.epoch == 2:
            break
        (part,) = step.parts
        fills.append(part.num_tokens / tokens)
        lengths += part.sequence_starts.diff().tolist()
    assert len(fills) > 2 * 40
    assert min(fills) > 0.99 and max(fills) <= 1
    # A short sequence is what is left of a document, or of a remainder that was cut to fill a row.
    assert np.average(np.array(lengths) == length, weights=lengths) > 0.7


def test_short_texts_fill_batches_too(make_corpus: MakeCorpus) -> None:
    """Of tweets, of which none fills a sequence."""
    rng = np.random.default_rng(5)
    corpus = make_corpus([[int(size)] for size in rng.integers(5, 70, size=4000)])
    steps = read_steps(packed(corpus), Position(), tokens_per_batch=2048)
    fills = [step.parts[0].num_tokens / 2048 for step in islice(steps, 70)]
    assert min(fills) > 0.99
    assert len(fills) == 70


def test_a_packed_example_is_a_run_of_one_document_between_cls_and_sep(corpus: Corpus) -> None:
    examples, vocabulary = packed(corpus), corpus.read_tokenizer().vocabulary
    for index in range(400):
        example = examples.example(0, index)
        ids = restored(example)
        assert (ids[0], ids[-1]) == (vocabulary.cls_id, vocabulary.sep_id)
        assert (np.diff(ids[1:-1]) % (len(vocabulary) - FIRST) == 1).all()
        assert not example.segment_ids.any()
        assert example.next_label is None
        share = min(max(1, round(0.15 * len(ids))), len(ids) - NUM_FRAMING)
        assert len(example.masked_positions) == share


def test_a_documents_remainder_stands_in_front_of_its_whole_runs_half_of_the_time() -> None:
    documents, size, length = 2000, 100, 42  # two whole runs of 40 pieces, and 20 left
    runs = plan([size] * documents, length)
    whole = runs.starts[runs.ends - runs.starts == length - NUM_FRAMING]
    in_front = (whole % size == 20).sum()
    assert set((whole % size).tolist()) == {0, 20, 40, 60}
    rate_is(in_front / documents, 0.5, documents)
