"""Batches hold their examples end to end, in order, from any position."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from tests.data.numbered import MakeCorpus, natural_documents

from bertsmith.config import ExamplesConfig
from bertsmith.data.batches import Position, Prefetched, read_epoch, read_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.framing import frame
from bertsmith.data.packing import PackedBatch, pack, pack_texts
from bertsmith.errors import ConfigError
from bertsmith.text.wordpiece import Tokenizer


@pytest.fixture
def examples(make_corpus: MakeCorpus, tokenizer: Tokenizer) -> PretrainingExamples:
    """Returns examples of at most 32 pieces, some 500 in an epoch."""
    corpus = make_corpus(natural_documents(25), shard_pieces=5000)
    config = ExamplesConfig(sequence_length=32)
    return PretrainingExamples(corpus, tokenizer.vocabulary, config, seed=5)


def equal(one: PackedBatch, other: PackedBatch) -> bool:
    ours, theirs = one.tensors(), other.tensors()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_a_batch_holds_its_examples_end_to_end(examples: PretrainingExamples) -> None:
    taken = [examples.example(0, index) for index in range(7)]
    batch = pack(taken)
    starts = batch.sequence_starts.tolist()
    assert batch.num_sequences == 7
    assert batch.num_tokens == starts[-1] == sum(map(len, taken))
    masked = 0
    for number, example in enumerate(taken):
        row = slice(starts[number], starts[number + 1])
        assert batch.piece_ids[row].tolist() == example.piece_ids.tolist()
        assert batch.segment_ids[row].tolist() == example.segment_ids.tolist()
        assert batch.position_ids[row].tolist() == list(range(len(example)))
        count = len(example.masked_positions)
        assert batch.masked_positions is not None and batch.masked_labels is not None
        positions = batch.masked_positions[masked : masked + count] - starts[number]
        assert positions.tolist() == example.masked_positions.tolist()
        labels = batch.masked_labels[masked : masked + count]
        assert labels.tolist() == example.masked_labels.tolist()
        masked += count
    assert batch.next_labels is not None
    assert batch.next_labels.tolist() == [example.next_label for example in taken]
    kinds = {name: tensor.dtype for name, tensor in batch.tensors().items()}
    assert kinds.pop("sequence_starts") == torch.int32
    assert set(kinds.values()) == {torch.int64}
    assert "labels" not in kinds


def test_texts_are_packed_with_the_labels_of_a_task(tokenizer: Tokenizer) -> None:
    texts = [
        frame(first, second, tokenizer.vocabulary, max_length=16)
        for first, second in (([7, 8], None), ([9], [10, 11]))
    ]
    labels = torch.tensor([0.5, 1.5])
    batch = pack_texts(texts, labels)
    assert set(batch.tensors()) == {
        "piece_ids",
        "segment_ids",
        "position_ids",
        "sequence_starts",
        "labels",
    }
    assert batch.sequence_starts.tolist() == [0, 4, 10]
    assert batch.piece_ids.tolist() == [*texts[0].piece_ids, *texts[1].piece_ids]
    assert "labels" not in pack_texts(texts).tensors()


def test_moving_a_batch_leaves_its_borders_on_the_cpu(examples: PretrainingExamples) -> None:
    moved = pack([examples.example(0, 0)]).to("meta")
    devices = {name: tensor.device.type for name, tensor in moved.tensors().items()}
    assert devices.pop("sequence_starts") == "cpu"
    assert set(devices.values()) == {"meta"}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_take_every_example_in_order_within_the_budget(
    examples: PretrainingExamples, accumulate: int
) -> None:
    expected = [
        examples.example(epoch, index) for epoch in (0, 1) for index in range(examples.count(epoch))
    ]
    taken = 0
    steps = read_steps(examples, Position(), tokens_per_batch=256, accumulate=accumulate)
    for step in steps:
        assert 1 <= len(step.parts) <= accumulate
        tokens = [part.num_tokens for part in step.parts]
        count = sum(part.num_sequences for part in step.parts)
        whole = torch.cat([part.piece_ids for part in step.parts])
        if taken + count > len(expected):
            break
        assert torch.equal(whole, pack(expected[taken : taken + count]).piece_ids)
        taken += count
        epoch, index = divmod(taken, examples.count(0))
        assert step.position in (Position(epoch, index), Position(1, taken - examples.count(0)))
        assert 256 - 32 < sum(tokens) <= 256  # one more would not have gone in
        assert max(tokens) - min(tokens) <= 2 * 32
    assert taken > len(expected) - 60


def test_steps_from_any_position_equal_the_unbroken_ones(examples: PretrainingExamples) -> None:
    unbroken = list(islice(read_steps(examples, Position(), tokens_per_batch=200), 160))
    assert unbroken[-1].position.epoch == 1
    for number in (0, 1, 40, 77, 150):
        again = read_steps(examples, unbroken[number].position, tokens_per_batch=200)
        for step, expected in zip(islice(again, 5), unbroken[number + 1 :], strict=False):
            assert step.position == expected.position
            assert equal(step.parts[0], expected.parts[0])


def test_an_epoch_is_read_once(examples: PretrainingExamples) -> None:
    batches = list(read_epoch(examples, tokens_per_batch=300))
    assert sum(batch.num_sequences for batch in batches) == examples.count(0)
    assert all(batch.num_tokens <= 300 for batch in batches)


def test_an_example_longer_than_the_budget_is_refused(examples: PretrainingExamples) -> None:
    for batches in (
        read_steps(examples, Position(), tokens_per_batch=16),
        read_epoch(examples, tokens_per_batch=16),
    ):
        with pytest.raises(ConfigError, match="tokens_per_batch is 16, but one sequence has"):
            list(batches)


# ---------------------------------------------------------------------------------- ahead


def test_reading_ahead_changes_nothing(examples: PretrainingExamples) -> None:
    steps = list(islice(read_steps(examples, Position(), tokens_per_batch=200), 30))
    with Prefetched(read_steps(examples, Position(), tokens_per_batch=200)) as ahead:
        for step, expected in zip(ahead, steps, strict=False):
            assert step.position == expected.position
            assert equal(step.parts[0], expected.parts[0])


def test_reading_ahead_ends_with_its_items_and_keeps_its_depth() -> None:
    made: list[int] = []
    asked = threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            if number == 4:
                asked.set()
            yield number

    ahead = Prefetched(items(), depth=4)
    assert next(ahead) == 0
    asked.wait(10)
    assert len(made) <= 6  # four ready, one read, one under way
    assert list(ahead) == list(range(1, 20))
    assert list(ahead) == []
    ahead.close()


def test_an_error_is_raised_where_its_item_was_to_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ConfigError("no more")

    with Prefetched(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ConfigError, match="no more"):
            next(ahead)


def test_closing_ends_the_thread_while_it_waits() -> None:
    before = threading.active_count()
    ahead = Prefetched(iter(np.arange(1000)), depth=2)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
    assert list(ahead) == []


def test_a_hidden_batch_has_nothing_to_copy() -> None:
    batch = PackedBatch(
        piece_ids=torch.tensor([2, 7, 8, 9, 3]),
        segment_ids=torch.zeros(5, dtype=torch.int64),
        position_ids=torch.arange(5),
        sequence_starts=torch.tensor([0, 5], dtype=torch.int32),
        masked_positions=torch.tensor([1, 3]),
        masked_labels=torch.tensor([7, 6]),
    )
    assert batch.hidden(4).piece_ids.tolist() == [2, 4, 8, 4, 3]
    assert batch.piece_ids.tolist() == [2, 7, 8, 9, 3]
