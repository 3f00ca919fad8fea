"""The sequences of a step, dealt to ranks: each once, evenly, the same for any number of ranks."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.numbered import MakeCorpus, natural_documents

from bertsmith.config import ExamplesConfig
from bertsmith.data.batches import Position, Step, read_steps
from bertsmith.data.examples import PretrainingExamples
from bertsmith.data.packing import PackedBatch
from bertsmith.data.sharing import Share, check_share, deal
from bertsmith.errors import ConfigError
from bertsmith.text.wordpiece import Tokenizer

LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 12))
def test_every_sequence_is_dealt_once_and_evenly(lengths: list[int], hands: int) -> None:
    if len(lengths) < hands:
        with pytest.raises(ConfigError, match=f"of {len(lengths)} sequences .* dealt to {hands}"):
            deal(lengths, hands)
        return
    dealt = deal(lengths, hands)
    assert sorted(number for hand in dealt for number in hand) == list(range(len(lengths)))
    assert all(hand and hand == sorted(hand) for hand in dealt)
    loads = [sum(lengths[number] for number in hand) for hand in dealt]
    assert max(loads) - min(loads) <= max(lengths)


def sequences_of(parts: list[PackedBatch]) -> list[tuple[tuple[int, ...], ...]]:
    """Returns pieces, masked places, labels and next label of each sequence."""
    found: list[tuple[tuple[int, ...], ...]] = []
    for part in parts:
        assert part.masked_positions is not None and part.masked_labels is not None
        assert part.next_labels is not None
        starts = part.sequence_starts.tolist()
        for number, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
            here = (part.masked_positions >= start) & (part.masked_positions < end)
            found.append(
                (
                    tuple(part.piece_ids[start:end].tolist()),
                    tuple((part.masked_positions[here] - start).tolist()),
                    tuple(part.masked_labels[here].tolist()),
                    (int(part.next_labels[number]),),
                )
            )
    return found


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_take_the_steps_that_one_would(
    make_corpus: MakeCorpus, tokenizer: Tokenizer, ranks: int, accumulate: int
) -> None:
    corpus = make_corpus(natural_documents(10), shard_pieces=5000)
    examples = PretrainingExamples(
        corpus, tokenizer.vocabulary, ExamplesConfig(sequence_length=32), seed=5
    )

    def steps(share: Share, accumulate: int) -> list[Step]:
        read = read_steps(
            examples, Position(), tokens_per_batch=400, accumulate=accumulate, share=share
        )
        return list(islice(read, 50))

    alone = steps(Share(), 1)
    assert {step.position.epoch for step in alone} >= {0, 1}
    shared = [steps(Share(rank, ranks), accumulate) for rank in range(ranks)]
    for expected, *ours in zip(alone, *shared, strict=True):
        assert all(step.position == expected.position for step in ours)
        assert all(step.num_tokens == expected.num_tokens for step in ours)
        assert all(len(step.parts) == accumulate for step in ours)
        found = [sequence for step in ours for sequence in sequences_of(step.parts)]
        assert sorted(found) == sorted(sequences_of(expected.parts))
        taken = [sum(part.num_tokens for part in step.parts) for step in ours]
        assert max(taken) - min(taken) <= 2 * 32


def test_one_rank_reads_its_steps_in_their_order(
    make_corpus: MakeCorpus, tokenizer: Tokenizer
) -> None:
    corpus = make_corpus(natural_documents(5))
    examples = PretrainingExamples(
        corpus, tokenizer.vocabulary, ExamplesConfig(sequence_length=32), seed=5
    )
    step = next(read_steps(examples, Position(), tokens_per_batch=400))
    pieces = [torch.from_numpy(examples.example(0, index).piece_ids) for index in range(5)]
    start = step.parts[0].piece_ids[: sum(map(len, pieces))]
    assert torch.equal(start, torch.cat(pieces).long())


def test_too_many_ranks_for_a_step_are_refused_before_the_first() -> None:
    check_share(Share(0, 4), 2, 1024, 128)
    with pytest.raises(ConfigError, match="1023 pieces; expected at least 1024 for 4 ranks"):
        check_share(Share(0, 4), 2, 1023, 128)
