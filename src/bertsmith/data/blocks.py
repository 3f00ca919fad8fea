"""Documents cut into sentences and encoded, a block at a time: the work that is shared out.

What comes of a block depends on the block alone, and blocks on the text alone, so a corpus has the
same bytes whoever encodes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertsmith.data.corpus import Document
from bertsmith.data.shards import Split, piece_type
from bertsmith.text.sentences import split_sentences
from bertsmith.text.wordpiece import Tokenizer

BLOCK_CHARACTERS = 2_000_000
LONGEST_SENTENCE = 128  # pieces; a longer run without an end mark is kept as several sentences

Block = list[list[str]]  # the paragraphs of each document


@dataclass(frozen=True)
class TextBlock:
    """Documents that are worked on together; `origin` is where they begin, for messages."""

    origin: str
    documents: Block


@dataclass(frozen=True)
class BlockWork:
    """What is the same for every block."""

    tokenizer: Tokenizer
    language: Literal["auto", "en", "zh"]
    held_out: float


@dataclass(frozen=True)
class EncodedDocument:
    """One document, and the split that it belongs to."""

    split: Split
    pieces: NDArray[np.unsignedinteger[Any]]  # [P]
    sentence_lengths: NDArray[np.int32]  # in pieces, none of them zero [S]


@dataclass(frozen=True)
class EncodedBlock:
    """The documents of one block, in order, without those that have no piece at all."""

    pieces: NDArray[np.unsignedinteger[Any]]  # [P]
    sentence_lengths: NDArray[np.int32]  # [S]
    num_pieces: list[int]  # of each document
    num_sentences: list[int]  # of each document
    splits: list[Split]  # of each document
    text_bytes: int  # of the block's text, in UTF-8

    def documents(self) -> Iterator[EncodedDocument]:
        """Yields the documents one by one."""
        piece = sentence = 0
        for split, pieces, sentences in zip(
            self.splits, self.num_pieces, self.num_sentences, strict=True
        ):
            yield EncodedDocument(
                split,
                self.pieces[piece : piece + pieces],
                self.sentence_lengths[sentence : sentence + sentences],
            )
            piece, sentence = piece + pieces, sentence + sentences


def cut_blocks(documents: Iterable[Document]) -> Iterator[TextBlock]:
    """Yields runs of documents of about two million characters."""
    block: Block = []
    origin, size = "", 0
    for document in documents:
        origin = origin or document.origin
        block.append(document.paragraphs)
        size += sum(map(len, document.paragraphs))
        if size >= BLOCK_CHARACTERS:
            yield TextBlock(origin, block)
            block, origin, size = [], "", 0
    if block:
        yield TextBlock(origin, block)


def encode_block(block: Block, work: BlockWork) -> EncodedBlock:
    """Returns the documents of `block` as pieces, sentence by sentence."""
    sentences: list[str] = []
    ends: list[int] = []  # of each document, in sentences
    for paragraphs in block:
        for paragraph in paragraphs:
            sentences += split_sentences(paragraph, work.language)
        ends.append(len(sentences))
    ids, starts = work.tokenizer.encode_many(sentences)
    lengths: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    num_pieces: list[int] = []
    splits: list[Split] = []
    text_bytes = begin = 0
    for paragraphs, end in zip(block, ends, strict=True):
        text = "\n".join(paragraphs).encode()
        text_bytes += len(text)
        parts = in_parts(np.diff(starts[begin : end + 1]))
        begin = end
        if len(parts):  # a text of control characters alone has no piece
            lengths.append(parts)
            num_pieces.append(int(parts.sum()))
            splits.append("held_out" if is_held_out(text, work.held_out) else "train")
    return EncodedBlock(
        pieces=ids.astype(piece_type(len(work.tokenizer.vocabulary.pieces))),
        sentence_lengths=np.concatenate(lengths),
        num_pieces=num_pieces,
        num_sentences=[len(parts) for parts in lengths[1:]],
        splits=splits,
        text_bytes=text_bytes,
    )


def in_parts(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Returns sentence lengths without empty ones, and long ones as parts of near-equal length."""
    parts = -(-lengths // LONGEST_SENTENCE)
    if parts.max(initial=1) > 1 or parts.min(initial=1) < 1:
        sizes, left = np.divmod(lengths, np.maximum(parts, 1))
        place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        lengths = np.repeat(sizes, parts) + (place < np.repeat(left, parts))
    return lengths.astype(np.int32)


def is_held_out(text: bytes, share: float) -> bool:
    """Tells by the text's own hash, so that a document stays where it is as the corpus grows."""
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * (1 << 64)
