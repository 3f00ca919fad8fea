"""A few held-out sentences with a word hidden, and what the model puts there as it learns.

Shapes:  T tokens   V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from bertsmith.data.framing import frame
from bertsmith.data.mixture import Mixture
from bertsmith.data.packing import PackedBatch, pack_texts
from bertsmith.data.shards import Corpus
from bertsmith.model.kinds import PretrainingModel
from bertsmith.text.wordpiece import Tokenizer

SENTENCES = 3
TOP = 5  # pieces told of each
LENGTHS = range(6, 31)  # pieces of a sentence that is easily read
LONG_WORD = 4  # letters; shorter words are mostly told by grammar alone


@dataclass(frozen=True)
class HiddenWord:
    """A sentence with one word hidden."""

    text: str  # with [MASK] where the word stood
    word: str
    batch: PackedBatch
    place: int  # of the mask, among the T tokens


def hidden_words(corpus: Corpus | Mixture, tokenizer: Tokenizer, longest: int) -> list[HiddenWord]:
    """Returns the same few held-out sentences every time, of as many documents.

    Of each document it is the first sentence of middling length with a whole word in one piece. It
    is fewer where the held-out text has no more, and none where no text was set aside.

    Args:
        corpus: whose held-out documents are looked through.
        tokenizer: of the corpus.
        longest: pieces that the model reads, special ones included.
    """
    found = []
    for document in _documents(corpus):
        for pieces in document:
            place = _place_to_hide(pieces, tokenizer)
            if place is not None and len(pieces) + 2 <= longest:
                found.append(_hide(pieces, place, tokenizer))
                break
        if len(found) == SENTENCES:
            break
    return found


def fill(
    model: PretrainingModel, hidden: Sequence[HiddenWord], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Returns of each sentence its `text`, the `word` hidden, the likeliest `pieces` and `shares`.

    The model is left in the mode in which it was found.
    """
    device = next(model.parameters()).device
    names = tokenizer.vocabulary.pieces
    was_training = model.training
    model.eval()
    filled = []
    with torch.inference_mode():
        for one in hidden:
            batch = one.batch.to(device)
            scores: Tensor = model.logits(  # [1, V]
                batch.piece_ids,
                batch.segment_ids,
                batch.position_ids,
                batch.sequence_starts,
                torch.tensor([one.place], device=device),
            )
            shares = scores[0, : len(names)].float().softmax(0)  # [V]
            best = shares.topk(min(TOP, len(names)))
            filled.append(
                {
                    "text": one.text,
                    "word": one.word,
                    "pieces": [names[piece] for piece in best.indices.tolist()],
                    "shares": [round(share, 4) for share in best.values.tolist()],
                }
            )
    model.train(was_training)
    return filled


def readable(filled: dict[str, Any]) -> str:
    """Returns what `fill` says of one sentence as a line."""
    guesses = zip(filled["pieces"], filled["shares"], strict=True)
    said = ", ".join(f"{piece} {share:.0%}" for piece, share in guesses)
    return f"{filled['text']}  ({filled['word']}): {said}"


def _documents(corpus: Corpus | Mixture) -> Iterator[Iterator[list[int]]]:
    """Yields the sentences of each held-out document, as piece ids."""
    if isinstance(corpus, Mixture):
        yield from chain.from_iterable(map(_documents, corpus.corpora))
        return
    for number in range(len(corpus.shards("held_out"))):
        shard = corpus.open_shard("held_out", number)
        borders = shard.sentence_starts.tolist()
        documents = shard.document_starts.tolist()
        for first, last in zip(documents, documents[1:], strict=False):
            yield (
                shard.pieces[borders[one] : borders[one + 1]].tolist() for one in range(first, last)
            )


def _place_to_hide(pieces: list[int], tokenizer: Tokenizer) -> int | None:
    """Returns the place of the word to hide: a long one in one piece, nearest to the middle."""
    vocabulary = tokenizer.vocabulary
    if len(pieces) not in LENGTHS or vocabulary.unk_id in pieces:
        return None
    names = [vocabulary.pieces[piece] for piece in pieces]
    whole = [
        place
        for place, (name, after) in enumerate(zip(names, [*names[1:], ""], strict=True))
        if name.isalpha() and not after.startswith("##")
    ]
    long = [place for place in whole if len(names[place]) >= LONG_WORD]
    return min(long or whole, key=lambda place: abs(place - len(pieces) / 2), default=None)


def _hide(pieces: list[int], place: int, tokenizer: Tokenizer) -> HiddenWord:
    vocabulary = tokenizer.vocabulary
    seen = [*pieces[:place], vocabulary.mask_id, *pieces[place + 1 :]]
    framed = frame(seen, None, vocabulary, max_length=len(seen) + 2)
    before, after = (tokenizer.decode(part) for part in (pieces[:place], pieces[place + 1 :]))
    return HiddenWord(
        text=f"{before} [MASK] {after}".strip(),
        word=vocabulary.pieces[pieces[place]],
        batch=pack_texts([framed]),
        place=place + 1,  # after [CLS]
    )
