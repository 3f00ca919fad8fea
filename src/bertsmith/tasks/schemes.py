"""How tags spell entities: IOB1, IOB2, BIOES, BMES and BILOU, to and from spans of words.

All schemes are read by one set of rules, those by which conlleval finds entities, so that a tag
which its scheme would not allow, as an I- without a B- before it, still means one thing. Written
tags are always as their scheme has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Scheme = Literal["iob1", "iob2", "bioes", "bmes", "bilou"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

OUTSIDE = "O"
# What stands for beginning, inside, end and a single word; IOB knows no ends.
LETTERS: dict[Scheme, tuple[str, str, str, str]] = {
    "iob1": ("B", "I", "I", "B"),
    "iob2": ("B", "I", "I", "B"),
    "bioes": ("B", "I", "E", "S"),
    "bmes": ("B", "M", "E", "S"),
    "bilou": ("B", "I", "L", "U"),
}
READ_AS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
TYPED = re.compile(r"([BIMELSU])-(.+)", re.DOTALL)


class Span(NamedTuple):
    """One entity: the words from `start` up to, and without, `end`."""

    start: int
    end: int
    type: str  # empty where the tags are bare letters, as those that only part words


@dataclass(frozen=True)
class Recognised:
    """What the tags of a file tell of their scheme."""

    scheme: Scheme | None  # None: the tags name no entities, as those of parts of speech
    num_irregular: int = 0  # sentences whose entities that scheme would spell otherwise


def split_tag(tag: str) -> tuple[str, str]:
    """Returns a tag's letter, O or one of B, I, E and S, and its type.

    Raises:
        ValueError: the tag is of no scheme.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    found = TYPED.fullmatch(tag)
    if found:
        return READ_AS[found[1]], found[2]
    if tag in READ_AS:
        return READ_AS[tag], ""
    raise ValueError(tag)


def kinds_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Returns the types that tags name, each once; tags of no scheme are their own types."""
    kinds = {tag if not _is_of_a_scheme(tag) else split_tag(tag)[1] for tag in tags}
    return tuple(sorted(kinds - {"", OUTSIDE}))


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Returns the entities that tags of any scheme spell, in their order.

    Source: conlleval.pl of the CoNLL shared tasks (`startOfChunk`, `endOfChunk`).

    Raises:
        ValueError: a tag is of no scheme; it is the error's only argument.
    """
    spans: list[Span] = []
    start: int | None = None
    last_letter, last_type = OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = (OUTSIDE, "") if tag == OUTSIDE else split_tag(tag)
        goes_on = letter in "IE" and last_letter in "BI" and kind == last_type
        if start is not None and not goes_on:
            spans.append(Span(start, place, last_type))
            start = None
        if letter != OUTSIDE and not goes_on:
            start = place
        last_letter, last_type = letter, kind
    return spans


def tags_of(spans: Iterable[Span], num_words: int, scheme: Scheme) -> list[str]:
    """Returns the tags, one a word, by which a scheme spells entities that do not overlap."""
    begin, inside, end, single = LETTERS[scheme]
    tags = [OUTSIDE] * num_words
    last = Span(0, -1, "")
    for span in spans:
        letters = [single] if span.end - span.start == 1 else [begin, end]
        letters[1:1] = [inside] * (span.end - span.start - 2)
        if scheme == "iob1" and not (last.end == span.start and last.type == span.type):
            letters[0] = inside  # B is for what touches one of its own type
        for place, letter in enumerate(letters, start=span.start):
            tags[place] = f"{letter}-{span.type}" if span.type else letter
        last = span
    return tags


def respelt(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Returns tags of any scheme as another, or the same, spells their entities.

    Raises:
        ValueError: a tag is of no scheme; it is the error's only argument.
    """
    return tags_of(spans_of(tags), len(tags), scheme)


def labels_of(types: Iterable[str], scheme: Scheme) -> list[str]:
    """Returns every tag that a scheme may give to entities of these types, O first."""
    letters = sorted(set(LETTERS[scheme]))
    return [OUTSIDE] + [
        f"{letter}-{kind}" if kind else letter for kind in sorted(set(types)) for letter in letters
    ]


def recognise(sentences: Iterable[Sequence[str]]) -> Recognised:
    """Returns the scheme in which the tags of all sentences are spelt.

    Letters tell BMES, BILOU and BIOES. Where there are B and I alone, it is the one of IOB1 and
    IOB2 that spells fewer sentences otherwise.

    Raises:
        ValueError: some tags are of a scheme and others of none, of which the commonest is the
            error's only argument.
    """
    rows = [tuple(tags) for tags in sentences]
    found = Counter(tag for tags in rows for tag in tags if tag != OUTSIDE)
    strange = [tag for tag, _ in found.most_common() if not _is_of_a_scheme(tag)]
    if not found or len(strange) == len(found) or (strange and not any(map(_is_typed, found))):
        return Recognised(None)
    if strange:
        raise ValueError(strange[0])
    letters = {tag[0] for tag in found}
    if "M" in letters:
        candidates: tuple[Scheme, ...] = ("bmes",)
    elif letters & {"L", "U"}:
        candidates = ("bilou",)
    else:
        candidates = ("bioes",) if letters & {"E", "S"} else ("iob2", "iob1")
    irregular = {
        scheme: sum(list(tags) != respelt(tags, scheme) for tags in rows) for scheme in candidates
    }
    best = min(candidates, key=lambda scheme: irregular[scheme])
    return Recognised(best, irregular[best])


def _is_of_a_scheme(tag: str) -> bool:
    return _is_typed(tag) or tag in READ_AS


def _is_typed(tag: str) -> bool:
    return TYPED.fullmatch(tag) is not None
