"""How paragraphs and documents stand in the lines of a plain text file.

The contract is one paragraph or sentence a line and a blank line between documents (`lines`). Books
are often laid out otherwise, and two other layouts are told from the first 64 KB of a file:

`wrapped`: lines are broken at a width. Told by twenty or more lines that another line follows at
    once, of which the median is at least 0.7 of the 95th percentile, that percentile lies between
    25 and 120 characters, and at most half end a sentence. Lines are joined; a paragraph ends at a
    blank line, before an indented line, and after a line of under 3/4 of the width that ends a
    sentence.
`spaced`: one paragraph a line and a blank line after each. Told by eight or more blocks of lines,
    nine tenths of them a single line, where blank lines also come two or more at a time, or where
    most lines are indented. (Without such a sign they are one-line documents, by the contract.)

In these two, a document ends at two or more blank lines, unless it has under 1,000 characters so
far, as a heading has. `CorpusConfig.text_layout` names one of the three where a guess is wrong. In
every layout a document of over 100,000 characters is cut between paragraphs, so that a file of any
size streams, and a book is many documents to draw from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Layout = Literal["lines", "wrapped", "spaced"]

SAMPLE_CHARACTERS = 1 << 16
LONGEST_DOCUMENT = 100_000  # characters
HEADING_CHARACTERS = 1_000

_CLOSERS = "\"'”’»)]}_*」』）"
_ENDS = ".!?…:;。！？：；"


@dataclass(frozen=True)
class Profile:
    """What the first lines of a file show: its layout, and how wide its lines are."""

    layout: Layout
    width: int


def profile_lines(lines: Sequence[str], layout: Literal["auto"] | Layout = "auto") -> Profile:
    """Returns the layout of a file that begins with `lines`; the rules stand at the file's top.

    A `layout` other than auto is kept, and only the width is measured.
    """
    filled = [bool(line.strip()) for line in lines]
    inner = [
        line.strip()
        for line, here, next_ in zip(lines, filled, filled[1:], strict=False)
        if here and next_ and not line[0].isspace()
    ]
    lengths = sorted(map(len, inner)) or [0]
    width = lengths[int(0.95 * len(lengths))]
    if layout != "auto":
        return Profile(layout, width)
    if len(inner) >= 20 and 25 <= width <= 120 and lengths[len(lengths) // 2] >= 0.7 * width:
        ends = sum(map(_ends_sentence, inner))
        if ends <= len(inner) / 2:
            return Profile("wrapped", width)
    blocks, gaps = _runs(filled)
    if len(blocks) >= 8 and blocks.count(1) >= 0.9 * len(blocks):
        indented = [line[0].isspace() for line, here in zip(lines, filled, strict=True) if here]
        if max(gaps, default=0) > 1 or sum(indented) > len(indented) / 2:
            return Profile("spaced", width)
    return Profile("lines", width)


def _runs(filled: Sequence[bool]) -> tuple[list[int], list[int]]:
    """Returns the lengths of the runs of filled lines, and of the blank runs between them."""
    blocks: list[int] = []
    gaps: list[int] = []
    gap = 0
    for before, here in zip([False, *filled], filled, strict=False):
        if here:
            if not before:
                if blocks:
                    gaps.append(gap)
                blocks.append(0)
            blocks[-1] += 1
            gap = 0
        else:
            gap += 1
    return blocks, gaps


def _ends_sentence(line: str) -> bool:
    return line.rstrip().rstrip(_CLOSERS)[-1:] in tuple(_ENDS)


def group_lines(
    lines: Iterable[tuple[int, str]], profile: Profile
) -> Iterator[tuple[int, list[str]]]:
    """Yields the documents in numbered `lines`: the first line's number, and the paragraphs."""
    paragraphs: list[str] = []
    start = size = 0
    for number, blanks, paragraph in _paragraphs(lines, profile):
        if profile.layout == "lines":
            parted = blanks > 0
        else:
            parted = blanks > 1 and size >= HEADING_CHARACTERS
        if paragraphs and (parted or size + len(paragraph) > LONGEST_DOCUMENT):
            yield start, paragraphs
            paragraphs, size = [], 0
        if not paragraphs:
            start = number
        paragraphs.append(paragraph)
        size += len(paragraph)
    if paragraphs:
        yield start, paragraphs


def _paragraphs(
    lines: Iterable[tuple[int, str]], profile: Profile
) -> Iterator[tuple[int, int, str]]:
    """Yields the number of a paragraph's first line, the blank lines before it, and its text."""
    wrapped = profile.layout == "wrapped"
    parts: list[str] = []
    start = blanks = before = size = 0
    for number, line in lines:
        text = line.strip()
        if parts and (not text or not wrapped or line[0].isspace() or size > LONGEST_DOCUMENT // 2):
            yield start, before, _joined(parts)
            parts = []
        if not text:
            blanks += 1
            continue
        if not parts:
            start, before, blanks, size = number, blanks, 0, 0
        parts.append(text)
        size += len(text)
        if wrapped and len(text) < 0.75 * profile.width and _ends_sentence(text):
            yield start, before, _joined(parts)
            parts = []
    if parts:
        yield start, before, _joined(parts)


def _joined(parts: list[str]) -> str:
    """Returns lines as one; without a space inside a hyphenated word and between CJK characters."""
    if len(parts) == 1:
        return parts[0]
    text = [parts[0]]
    for before, after in zip(parts, parts[1:], strict=False):
        hyphenated = before[-1] == "-" and before[-2:-1].isalpha()
        unspaced = ord(before[-1]) >= 0x2E80 and ord(after[0]) >= 0x2E80
        text.append(after if hyphenated or unspaced else " " + after)
    return "".join(text)
