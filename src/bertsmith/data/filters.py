"""Filters: named steps that take lines away from a corpus and count what they took.

`near-empty`: lines of fewer words than `min_line_words`, then documents left with fewer than
    `min_document_words`. A Chinese or Japanese character is a word.
`repeated`: lines (or documents) that have stood before anywhere in the corpus, whatever their case;
    the first in the order of the text is kept. A line is known by 64 bits of its BLAKE2b, so that
    among a billion lines the odds are 1 in 37 that a single one is taken for another.
`wrong-language`: lines with less than `min_script_share` of their words in the script of the
    language; English lines of ten words or more without a single common English word, Chinese ones
    with kana; and documents of 50 words or more with fewer than two of the most frequent words.

Every step depends on the text and its order alone, and so does what is left.

Source: for lines of five words and for repeats whatever their case the code that made C4 (Raffel et
al. 2020, section 2.2); for documents of 50 words and two of eight words Gopher (Rae et al. 2021,
appendix A.1.1). The eight Chinese characters and the rules of lines are our own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import FilterConfig
from bertsmith.data.blocks import Block, TextBlock
from bertsmith.errors import ConfigError

Language = Literal["auto", "en", "zh"]

_JUDGED_LINE = 10  # words; a shorter line may well be a title or a list of names
_JUDGED_DOCUMENT = 50  # words; shorter ones are none to Gopher's rule
_WANTED_WORDS = 2
_MOST_KANA = 0.1  # of the characters that are Chinese or kana

_CHARACTER = "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_WORD_OR_CHARACTER = re.compile(f"{_CHARACTER}|(?:(?!{_CHARACTER}).)+", re.DOTALL)
_LETTERS = re.compile(rf"{_CHARACTER}|(?:(?!{_CHARACTER})[^\W\d_])+")
_LATIN = re.compile("[A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")
_BEYOND_LATIN = re.compile("[\u0250-\u1dff\u1f00-\u1fff\u2c00-\ud7ff\uf900-\U0003ffff]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u30fa]")

_GOPHER_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_CHINESE_WORDS = frozenset("的是不了在有和这這")
# Frequent in English and not in its neighbours, as `in`, `to`, `for`, `was` and `is` would be.
_ENGLISH_WORDS = frozenset(
    ("the", "of", "and", "that", "with", "from", "this", "which", "were", "are")
    + ("have", "they", "their", "been", "his", "you", "would", "not", "but")
)


@dataclass(frozen=True)
class Removal:
    """What one filter took away."""

    lines: int = 0
    documents: int = 0  # of which no line was left
    bytes: int = 0  # of text, in UTF-8

    def __add__(self, other: Removal) -> Removal:
        return Removal(
            self.lines + other.lines, self.documents + other.documents, self.bytes + other.bytes
        )


@dataclass(frozen=True)
class FilteredBlock:
    """What is left of a block, and what each filter took from it."""

    block: TextBlock
    removals: dict[str, Removal]  # by the filters' names, in their order


class Filters:
    """Takes lines away from one block of documents after another, in the order of the text.

    Args:
        language: what `wrong-language` holds the right one.
        known: what `repeated` has seen before the first block; it grows with each block.

    Raises:
        ConfigError: `wrong-language` is asked for without a language.
    """

    def __init__(
        self, config: FilterConfig, language: Language, known: KnownHashes | None = None
    ) -> None:
        if "wrong-language" in config.names and language == "auto":
            raise ConfigError(
                "the filter wrong-language cannot tell which language is right; expected "
                "--language en or --language zh beside it"
            )
        self._config = config
        self._language = language
        self._known = KnownHashes() if known is None else known
        self._steps: dict[str, Callable[[Block], Block]] = {
            "near-empty": self._without_near_empty,
            "repeated": self._without_repeated,
            "wrong-language": self._without_wrong_language,
        }

    def __call__(self, block: TextBlock) -> FilteredBlock:
        """Returns what the filters leave of the block; documents left empty are gone."""
        left, removals = self._through(block.documents, self._config.names)
        return FilteredBlock(TextBlock(block.origin, left), removals)

    def hashes(self, block: TextBlock) -> NDArray[np.uint64]:
        """Returns those that `repeated` would look at in this block, each once, rising. [K]"""
        before = self._config.names[: self._config.names.index("repeated")]
        left, _ = self._through(block.documents, before)
        return np.unique(_hashes(_units(left, self._config.repeated_unit)))

    def _through(self, block: Block, names: Sequence[str]) -> tuple[Block, dict[str, Removal]]:
        removals = {}
        for name in names:
            left = self._steps[name](block)
            removals[name] = _removal(block, left)
            block = [document for document in left if document]
        return block, removals

    def _without_near_empty(self, block: Block) -> Block:
        return [self._long_enough(document) for document in block]

    def _long_enough(self, document: list[str]) -> list[str]:
        sizes = [(line, count_words(line)) for line in document]
        kept = [(line, size) for line, size in sizes if size >= self._config.min_line_words]
        if sum(size for _, size in kept) < self._config.min_document_words:
            return []
        return [line for line, _ in kept]

    def _without_repeated(self, block: Block) -> Block:
        unit = self._config.repeated_unit
        is_new = iter(self._known.add_new(_hashes(_units(block, unit))).tolist())
        if unit == "document":
            return [document if next(is_new) else [] for document in block]
        return [[line for line in document if next(is_new)] for document in block]

    def _without_wrong_language(self, block: Block) -> Block:
        of_language = _chinese_lines if self._language == "zh" else _english_lines
        return [of_language(document, self._config.min_script_share) for document in block]


class KnownHashes:
    """A set of 64-bit hashes that grows: eight bytes each, and sixteen while runs are joined.

    They stand in sorted runs, each more than twice as long as the next, so that a look-up searches
    few of them and adding is linear but for a logarithm.
    """

    def __init__(self, hashes: NDArray[np.uint64] | None = None) -> None:
        self._runs: list[NDArray[np.uint64]] = []
        if hashes is not None:
            self.add_new(hashes)

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def values(self) -> NDArray[np.uint64]:
        """Returns the hashes, rising. [K]"""
        return np.sort(np.concatenate([np.zeros(0, np.uint64), *self._runs]))

    def hold(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Returns which of the hashes are in the set. [K]"""
        held = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            held |= run[places] == hashes
        return held

    def add_new(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Adds hashes; returns which were new, of several alike the first alone. [K]"""
        distinct, first = np.unique(hashes, return_index=True)
        new = ~self.hold(distinct)
        self._add_run(distinct[new])
        is_new = np.zeros(len(hashes), dtype=bool)
        is_new[first[new]] = True
        return is_new

    def _add_run(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate((self._runs.pop(), run))
            run.sort(kind="stable")
        if len(run):
            self._runs.append(run)


def count_words(text: str) -> int:
    """Returns the number of words; each Chinese or Japanese character is one."""
    if text.isascii():
        return len(text.split())
    parts = text.split()
    return sum(1 if part.isascii() else len(_WORD_OR_CHARACTER.findall(part)) for part in parts)


def _units(block: Block, unit: Literal["line", "document"]) -> Iterator[str]:
    if unit == "document":
        return ("\n".join(document) for document in block)
    return (line for document in block for line in document)


def _hashes(texts: Iterator[str]) -> NDArray[np.uint64]:
    digests = (hashlib.blake2b(text.lower().encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _removal(before: Block, after: Block) -> Removal:
    removal = Removal()
    for whole, left in zip(before, after, strict=True):
        if len(left) < len(whole):
            removal += Removal(
                lines=len(whole) - len(left),
                documents=int(not left),
                bytes=len("\n".join(whole).encode()) - len("\n".join(left).encode()),
            )
    return removal


# ---------------------------------------------------------------------------------- languages


def _english_lines(document: list[str], share: float) -> list[str]:
    kept: list[str] = []
    common: set[str] = set()
    size = 0
    for line in document:
        words = line.lower().split()
        if _BEYOND_LATIN.search(line) and not _is_written_in(_LATIN, line, share):
            continue
        if len(words) >= _JUDGED_LINE and _ENGLISH_WORDS.isdisjoint(words):
            continue
        kept.append(line)
        size += len(words)
        if len(common) < _WANTED_WORDS:
            common |= _GOPHER_WORDS.intersection(words)
    return kept if size < _JUDGED_DOCUMENT or len(common) >= _WANTED_WORDS else []


def _chinese_lines(document: list[str], share: float) -> list[str]:
    kept: list[str] = []
    common: set[str] = set()
    size = 0
    for line in document:
        chinese, kana = len(_HAN.findall(line)), len(_KANA.findall(line))
        if kana > _MOST_KANA * (chinese + kana) or not _is_written_in(_HAN, line, share):
            continue
        kept.append(line)
        size += chinese
        common |= _CHINESE_WORDS.intersection(line)
    return kept if size < _JUDGED_DOCUMENT or len(common) >= _WANTED_WORDS else []


def _is_written_in(script: re.Pattern[str], line: str, share: float) -> bool:
    """Tells whether at least this share of the words is; a line without letters is."""
    words = _LETTERS.findall(line)
    return sum(script.match(word) is not None for word in words) >= share * len(words)
