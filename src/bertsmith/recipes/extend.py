"""Words of a domain become pieces of a model: `bertsmith extend MODEL --words FILE --out DIR`.

A word that was cut into several pieces becomes one. Its row of the piece embeddings is the mean of
the rows of the pieces that it was cut into, and so is its bias in the head that predicts pieces.
All other weights stay bit for bit as they are; pre-training on the domain's text teaches the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertsmith.data.lines import text_lines
from bertsmith.errors import DataError
from bertsmith.folder import Loaded, load_model, save_model
from bertsmith.interop.sentence_transformers import pooling_facts
from bertsmith.model.names import to_published
from bertsmith.model.published import config_of, model_of, names_of, published_config
from bertsmith.text.wordpiece import LONGEST_WORD, SPECIAL_PIECES, Tokenizer, Vocabulary

# The parameters that have a row, or a number, for every piece; the output weight is the first.
_BY_PIECE = ("embeddings.pieces.weight", "masked.bias")
_UNUSED = re.compile(r"\[unused[0-9]+\]")  # slots that published vocabularies keep free


@dataclass(frozen=True)
class Plan:
    """Where new pieces go, and what their rows are the mean of."""

    pieces: tuple[str, ...]  # the new vocabulary
    parts: dict[int, list[int]]  # id of a new piece: ids of the pieces that the word was cut into


def extend(folder: Path, words: Path, out: Path) -> dict[str, Any]:
    """Writes the model of `folder` to `out`, with the words of a file as pieces of their own.

    The file holds one word a line. It is normalised as the model's text is; words that are pieces
    already, and words that stand there twice, are passed over.

    Returns:
        `added` pieces, of which `unused_slots` took the place of an [unused] piece and the others
        a new row; words `known` before; `pieces_per_word_before` and `..._after` of all the words;
        `unknown_before`, how many held what no piece is of; `vocab_size` and `out`.

    Raises:
        MissingInputError: the file or the model is not there.
        DataError: a line is not one word, or there is none; the message names file and line.
        FolderInUseError, StorageError: `out` cannot be written.
    """
    loaded = load_model(folder)
    tokenizer = loaded.tokenizer
    wanted = read_words(words, tokenizer)
    before = {word: tokenizer.encode(word) for word in wanted}
    new = [word for word in wanted if word not in tokenizer.vocabulary.ids]
    plan = plan_pieces(tokenizer.vocabulary, new, before)
    grown = Tokenizer(Vocabulary(plan.pieces, where=str(words)), tokenizer.casing)
    extended = _grown(loaded, plan)
    facts = (
        pooling_facts(folder) | loaded.facts | {"tokenizer": grown.fingerprint, "extended_by": new}
    )
    save_model(out, extended.model, grown, facts)
    appended = len(plan.pieces) - len(tokenizer.vocabulary)
    unknown = tokenizer.vocabulary.unk_id
    return {
        "added": len(new),
        "unused_slots": len(new) - appended,
        "known": len(wanted) - len(new),
        "pieces_per_word_before": round(_mean([len(ids) for ids in before.values()]), 4),
        "pieces_per_word_after": round(_mean([len(grown.encode(word)) for word in wanted]), 4),
        "unknown_before": sum(unknown in ids for ids in before.values()),
        "vocab_size": extended.config.vocab_size,
        "out": str(out),
    }


def read_words(path: Path, tokenizer: Tokenizer) -> list[str]:
    """Returns the words of a file as the tokenizer normalises them, each once, in their order.

    Raises:
        MissingInputError: it cannot be read.
        DataError: a line holds several words once it is normalised, or a word that is too long.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(text_lines(path, "utf-8"), start=1):
        if not line.strip():
            continue
        text = line.strip()
        normalized = tokenizer.normalizer.words(text)
        if len(normalized) != 1:
            shown = " ".join(normalized)[:80] or "nothing"
            raise DataError(
                f"{path}:{number}: {text[:80]!r} is read as {len(normalized)} words ({shown}); "
                f"expected one word a line, without spaces and punctuation"
            )
        [word] = normalized
        if len(word) > LONGEST_WORD:
            raise DataError(
                f"{path}:{number}: the word has {len(word)} characters; expected at most "
                f"{LONGEST_WORD}, since longer ones are [UNK]"
            )
        found[word] = None
    if not found:
        raise DataError(f"{path}: holds no word; expected one a line")
    return list(found)


def plan_pieces(vocabulary: Vocabulary, new: Sequence[str], before: dict[str, list[int]]) -> Plan:
    """Returns where new words go: into [unused] slots in their order, and then behind the last."""
    pieces = list(vocabulary.pieces)
    free = [
        number
        for number, piece in enumerate(pieces)
        if _UNUSED.fullmatch(piece) and piece not in SPECIAL_PIECES
    ]
    parts = {}
    for position, word in enumerate(new):
        if position < len(free):
            number = free[position]
            pieces[number] = word
        else:
            number = len(pieces)
            pieces.append(word)
        parts[number] = before[word]
    return Plan(tuple(pieces), parts)


def _grown(loaded: Loaded, plan: Plan) -> Loaded:
    """Returns the model with a row for every piece; rows that stood there beyond them are kept."""
    size = max(loaded.config.vocab_size, len(plan.pieces))
    old = loaded.model.state_dict()
    ids = loaded.tokenizer.vocabulary.ids
    special = {name: ids[f"[{name.upper()}]"] for name in ("pad", "cls", "sep")}
    published = published_config(loaded.model, loaded.facts, special) | {"vocab_size": size}
    where = "the extended model"
    config = config_of(published, where)
    # The names alone are read: they tell which heads there are.
    shell, _ = model_of(published, config, to_published(old, names_of(config)), where)
    state = {
        name: with_means(tensor, plan.parts, size) if name.endswith(_BY_PIECE) else tensor
        for name, tensor in old.items()
    }
    shell.load_state_dict(state, assign=True)
    return replace(loaded, model=shell.eval(), config=config)


def with_means(table: Tensor, parts: dict[int, list[int]], size: int) -> Tensor:
    """Returns a table of `size` rows: the old ones, and at each new id the mean of its old parts.

    Shapes: [V] or [V, H] -> [size] or [size, H]
    """
    grown = table.new_zeros(size, *table.shape[1:])
    grown[: len(table)] = table
    for number, old in parts.items():
        grown[number] = table[torch.tensor(old)].mean(0)
    return grown


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers)
