"""Cleans Unicode, lower-cases, strips accents and splits text into words, as BERT does.

All of it but one corner is done character by character, so a table from each character to what
becomes of it does the whole in one pass. The corner: decomposing puts combining marks in canonical
order, which is seen only where two marks of a few rare scripts meet.

Source: Devlin et al. 2019, `tokenization.py` (BasicTokenizer), in the form in which published
tokenizers are run, `BertNormalizer` and `BertPreTokenizer` of `tokenizers`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from bertsmith.config import CasingConfig
from bertsmith.text import classes
from bertsmith.text.classes import CharacterClass

_PUNCTUATION = CharacterClass(classes.PUNCTUATION)
_NONSPACING_MARKS = CharacterClass(classes.NONSPACING_MARKS)
_CONTROLS = CharacterClass(classes.CONTROLS)
_SPACES = CharacterClass(classes.SPACES)
_CHINESE = CharacterClass(classes.CHINESE)
_ORDERED_MARKS = CharacterClass(classes.ORDERED_MARKS)
_UNDECOMPOSED = CharacterClass(classes.UNDECOMPOSED)
_MARKS_THAT_MEET = re.compile(f"[{_ORDERED_MARKS.pattern()}]{{2}}")
_YOUNG_LOWER = {
    capital: chr(lower + capital - first)
    for first, last, lower in classes.YOUNG_CAPITALS
    for capital in range(first, last + 1)
}

_WINDOW = 4096  # characters looked at together where a caller may stop early
_MOST_REMEMBERED = 100_000  # entries of a table; all of Unicode would take 100 MB


class Word(NamedTuple):
    """A normalised word, and for each of its characters the index of the one it came from."""

    text: str
    origins: tuple[int, ...]


class Normalizer:
    """Turns raw text into normalised words, as a casing asks for.

    Lone surrogates are dropped like control characters; no text raises.
    """

    def __init__(self, casing: CasingConfig) -> None:
        self.casing = casing
        self._strips = (
            casing.do_lower_case if casing.strip_accents is None else casing.strip_accents
        )
        self._plain = _Table(casing, self._strips, spaced=False)
        self._spaced = _Table(casing, self._strips, spaced=True)
        self._lined = _Table(casing, self._strips, spaced=True)
        self._lined[ord("\n")] = "\n"

    def normalize(self, text: str) -> str:
        """Returns the text cleaned, Chinese characters spaced, accents stripped, lower-cased."""
        return self._translate(text, self._plain)

    def words(self, text: str) -> list[str]:
        """Returns the normalised words of the text; a punctuation mark is a word."""
        return self._translate(text, self._spaced).split()

    def space_out(self, lines: str) -> str:
        """Returns the text with spaces between its normalised words; line breaks are kept."""
        return self._translate(lines, self._lined)

    def iterate_words(self, text: str, longest: int) -> Iterator[str]:
        """Yields the words as they are asked for; those longer than `longest` are cut to that.

        Time and memory are those of what is asked for, even where the text is one endless word.
        """
        unfinished = ""
        barren = False  # nothing ended in the window before: look whether anything may in this
        for start, end in _windows(text):
            part = text[start:end]
            if barren and self._ends_nothing(part, len(unfinished), longest):
                continue
            spaced = unfinished + self._translate(part, self._spaced)
            words = spaced.split()
            unfinished = words.pop()[:longest] if words and not spaced.endswith(" ") else ""
            barren = not words
            for word in words:
                yield word[:longest]
        if unfinished:
            yield unfinished

    def words_with_offsets(self, text: str) -> list[Word]:
        """Returns the words and where in the original text their characters come from."""
        return list(self.iterate_words_with_offsets(text, len(text) * 4 + 1))

    def iterate_words_with_offsets(self, text: str, longest: int) -> Iterator[Word]:
        """Yields what `words_with_offsets` returns, as `iterate_words` does.

        The last character of a word that was cut has the origin of the uncut word's last.
        """
        characters: list[str] = []
        origins: list[int] = []
        barren = False
        for start, end in _windows(text):
            part = text[start:end]
            if barren and self._ends_nothing(part, len(characters), longest):
                kept = (index for index in reversed(range(len(part))) if self._keeps(part[index]))
                origins[-1:] = [start + index for index in islice(kept, 1)] or origins[-1:]
                continue
            barren = True
            for character, origin in self._traced(part):
                for made in self._spaced[ord(character)] or "":
                    if made != " ":
                        if len(characters) < longest:
                            characters.append(made)
                            origins.append(start + origin)
                        else:
                            origins[-1] = start + origin
                    elif characters:
                        yield Word("".join(characters), tuple(origins))
                        characters, origins = [], []
                        barren = False
        if characters:
            yield Word("".join(characters), tuple(origins))

    def _keeps(self, character: str) -> bool:
        return self._spaced[ord(character)] is not None

    def _ends_nothing(self, part: str, begun: int, longest: int) -> bool:
        """Returns whether a part of the text surely neither ends nor begins a word.

        `begun` is the length of the word before it. Only which characters there are is looked at.
        """
        if 0 < begun < longest:
            return False
        code_points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32)
        made = {self._spaced[code_point] for code_point in np.unique(code_points).tolist()}
        if begun:
            return not any(" " in characters for characters in made if characters)
        return made == {None}

    def _translate(self, text: str, table: _Table) -> str:
        made = text.translate(table)
        if self._strips and not made.isascii() and _MARKS_THAT_MEET.search(made):
            made = "".join(character for character, _ in _ordered(text)).translate(table)
        return made

    def _traced(self, text: str) -> Iterator[tuple[str, int]]:
        if self._strips and _MARKS_THAT_MEET.search(text.translate(self._plain)):
            return iter(_ordered(text))
        return ((character, index) for index, character in enumerate(text))


class _Table(dict[int, str | None]):
    """What becomes of each character, worked out when it is first met (for `str.translate`)."""

    def __init__(self, casing: CasingConfig, strips: bool, spaced: bool) -> None:
        super().__init__()
        self._casing = casing
        self._strips = strips
        self._isolated = spaced

    def __missing__(self, code_point: int) -> str | None:
        made = self._make(code_point)
        if len(self) < _MOST_REMEMBERED:
            self[code_point] = made
        return made

    def _make(self, code_point: int) -> str | None:
        if code_point in _CONTROLS:
            return None
        if code_point in _SPACES:
            return " "
        made = chr(code_point)
        if self._strips:
            made = "".join(part for part in _decomposed(made) if ord(part) not in _NONSPACING_MARKS)
        if self._casing.do_lower_case:
            made = "".join(_YOUNG_LOWER.get(ord(part)) or part.lower() for part in made)
        if self._isolated:
            made = "".join(f" {part} " if ord(part) in _PUNCTUATION else part for part in made)
        if self._casing.tokenize_chinese_chars and code_point in _CHINESE:
            made = f" {made} "
        return made or None


def _decomposed(character: str) -> str:
    if ord(character) in _UNDECOMPOSED:
        return character
    return unicodedata.normalize("NFD", character)


def _ordered(text: str) -> list[tuple[str, int]]:
    """Returns the text decomposed, marks in canonical order, each character with its origin."""
    parts = [
        (part, index)
        for index, character in enumerate(text)
        if ord(character) not in _CONTROLS
        for part in _decomposed(character)
    ]
    ordered: list[tuple[str, int]] = []
    marks: list[tuple[str, int]] = []
    for part in parts:
        if _combining_class(part[0]):
            marks.append(part)
        else:
            ordered += sorted(marks, key=lambda mark: _combining_class(mark[0]))
            ordered.append(part)
            marks = []
    return ordered + sorted(marks, key=lambda mark: _combining_class(mark[0]))


def _combining_class(character: str) -> int:
    known = ord(character) in _NONSPACING_MARKS or ord(character) in _ORDERED_MARKS
    return unicodedata.combining(character) if known else 0


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of consecutive parts, cut after a space wherever there is one.

    A run of marks that crosses an unspaced cut is put in order on either side of it.
    """
    start = 0
    while start < len(text):
        end = start + _WINDOW
        if end < len(text):
            end = text.rfind(" ", start, end) + 1 or end
        yield start, min(end, len(text))
        start = end
