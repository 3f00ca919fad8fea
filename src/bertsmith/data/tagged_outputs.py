"""Predicted tags as files: columns as the CoNLL tasks have them, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.data.outputs import excel_safe_cell, new_file
from bertsmith.data.tagged import INTENT_MARK, MARK, TaggedSentence
from bertsmith.errors import DataError

# What the name of a file to write may end in; only the last is written as JSON lines.
SUFFIXES = (".conll", ".txt", ".tsv", ".bmes", ".jsonl")


@dataclass(frozen=True, slots=True)
class TaggedAnswer:
    """What was predicted of one sentence."""

    tags: Sequence[str]  # one a word
    intent: str | None
    probabilities: Sequence[float | None]  # of each tag; None where a word has no piece


def write_tagged(
    path: Path,
    rows: Iterable[tuple[TaggedSentence, TaggedAnswer]],
    *,
    excel_safe: bool = False,
) -> int:
    """Writes sentences with their predicted tags; returns their number.

    A name that ends in .jsonl makes an object a line: the id where there is one, words, tags,
    probabilities and the intent. Any other makes a word a line, a tab and its tag, with a blank
    line after each sentence, `-DOCSTART-` where a document begins, and the intent in a remark above
    its sentence. What is written can be read again, word for word, except with `excel_safe`, which
    puts a quote before the words of columns that a spreadsheet would run (`excel_safe_cell`).

    Raises:
        DataError: a word holds a tab or a line break, which columns cannot hold.
        StorageError: it cannot be written; what stood at `path` still stands.
    """
    count = document = 0
    with new_file(path, "w") as file:
        for sentence, answer in rows:
            count += 1
            if path.suffix.lower() == ".jsonl":
                file.write(json.dumps(_object(sentence, answer), ensure_ascii=False) + "\n")
                continue
            if sentence.document is not None and sentence.document != document:
                document = sentence.document
                file.write(f"{MARK}\tO\n\n")
            file.write(_columns(sentence, answer, excel_safe))
    return count


def _object(sentence: TaggedSentence, answer: TaggedAnswer) -> dict[str, Any]:
    cells: dict[str, Any] = {} if sentence.id is None else {"id": sentence.id}
    cells |= {"words": sentence.words, "tags": answer.tags, "probabilities": answer.probabilities}
    return cells if answer.intent is None else cells | {"intent": answer.intent}


def _columns(sentence: TaggedSentence, answer: TaggedAnswer, excel_safe: bool) -> str:
    lines = [] if answer.intent is None else [f"{INTENT_MARK}{answer.intent}\n"]
    for place, (word, tag) in enumerate(zip(sentence.words, answer.tags, strict=True)):
        # What follows a carriage return is the beginning of a cell to a spreadsheet.
        if "\t" in word or "\n" in word or (excel_safe and "\r" in word):
            raise DataError(
                f"{sentence.where_of(place)}: the word {word[:40]!r} holds a tab or a line break, "
                f"which columns cannot hold; write a file that ends in .jsonl"
            )
        cells = map(excel_safe_cell, (word, tag)) if excel_safe else (word, tag)
        lines.append("\t".join(cells) + "\n")
    return "".join(lines) + "\n"
