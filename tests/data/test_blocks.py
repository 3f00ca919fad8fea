"""Documents become pieces sentence by sentence, and stay in their split."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.data.blocks import (
    BLOCK_CHARACTERS,
    LONGEST_SENTENCE,
    BlockWork,
    cut_blocks,
    encode_block,
    in_parts,
    is_held_out,
)
from bertsmith.data.corpus import Document
from bertsmith.text.wordpiece import Tokenizer

BLOCK = [
    ["w10 w11. W12 w13 w14!", "w15"],
    ["\u200b\u0007"],
    [" ".join(["w9"] * 300)],
]


def test_sentences_and_documents_keep_their_pieces(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    encoded = encode_block(BLOCK, BlockWork(tokenizer, "en", 0.0))
    first, second = encoded.documents()  # the text of control characters has no piece
    unknown = vocabulary.unk_id  # the full stop and the exclamation mark
    assert first.pieces.tolist() == [10, 11, unknown, 12, 13, 14, unknown, 15]
    assert first.sentence_lengths.tolist() == [3, 4, 1]
    assert second.pieces.tolist() == [9] * 300
    assert second.sentence_lengths.tolist() == [100, 100, 100]
    assert {first.split, second.split} == {"train"}
    assert encoded.text_bytes == sum(len("\n".join(document).encode()) for document in BLOCK)


def test_a_block_of_nothing_has_no_document(tokenizer: Tokenizer) -> None:
    encoded = encode_block([["\u200b"]], BlockWork(tokenizer, "auto", 0.5))
    assert list(encoded.documents()) == []
    assert encoded.text_bytes == 3


@given(st.lists(st.integers(0, 1000), max_size=30))
def test_long_sentences_are_parted_evenly_and_empty_ones_left_out(lengths: list[int]) -> None:
    expected = []
    for length in lengths:
        parts = -(-length // LONGEST_SENTENCE)
        expected += [length // parts + (part < length % parts) for part in range(parts)]
    assert in_parts(np.array(lengths, dtype=np.int64)).tolist() == expected


def test_the_share_held_out_is_that_asked_for_and_stays_as_it_grows() -> None:
    texts = [f"document {number}".encode() for number in range(20_000)]
    small, large = ([is_held_out(text, share) for text in texts] for share in (0.01, 0.05))
    assert abs(sum(small) / len(texts) - 0.01) < 3 * (0.01 * 0.99 / len(texts)) ** 0.5
    assert abs(sum(large) / len(texts) - 0.05) < 3 * (0.05 * 0.95 / len(texts)) ** 0.5
    assert all(larger for smaller, larger in zip(small, large, strict=True) if smaller)
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_blocks_hold_all_documents_in_order() -> None:
    paragraph = "x" * 90_000
    documents = [Document([f"{number} {paragraph}"], "file:1") for number in range(60)]
    blocks = list(cut_blocks(documents))
    assert [document for block in blocks for document in block.documents] == [
        document.paragraphs for document in documents
    ]
    sizes = [
        sum(len(part) for document in block.documents for part in document) for block in blocks
    ]
    assert all(size < BLOCK_CHARACTERS + 100_000 for size in sizes)
    assert all(size >= BLOCK_CHARACTERS for size in sizes[:-1])
    assert {block.origin for block in blocks} == {"file:1"}
