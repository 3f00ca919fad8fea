"""Learns a vocabulary from word counts: characters first, then merges of the best pair, one by one.

`wordpiece` merges the pair that raises the likelihood of the text the most, where the text is taken
for pieces drawn one by one: n(ab) * log(n(ab) * N / (n(a) * n(b))), with n the counts and N their
sum. `bpe` merges the most frequent pair. What comes depends on the counts, not on their order.

Source: Schuster and Nakajima 2012, section 4 (WordPiece); Sennrich et al. 2016, section 3.2 (BPE).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

from bertsmith.config import VocabConfig
from bertsmith.errors import ConfigError, DataError
from bertsmith.text.normalize import Normalizer
from bertsmith.text.wordpiece import CONTINUATION, LONGEST_WORD, PAD, Tokenizer, Vocabulary

MOST_WORDS = 2_000_000  # kinds of word counted before the rarest are forgotten; about 250 MB

_UNUSED_BEFORE_UNK = 99  # in published vocabularies [UNK] is 100 and [MASK] 103
_REFRESH = 200  # merges after which all scores are computed anew


def count_words(texts: Iterable[str], normalizer: Normalizer) -> Counter[str]:
    """Returns how often each normalised word stands in the texts.

    Words of over 100 characters are left out: they are [UNK] whatever the vocabulary.
    """
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(text.replace("\n", " ").split(" "))
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word in normalizer.iterate_words(chunk, LONGEST_WORD + 1):
            if len(word) <= LONGEST_WORD:
                words[word] += count
    return words


def add_counts(total: Counter[str], part: Mapping[str, int]) -> None:
    """Adds `part` to `total` in place; where that grows too large, the rarest words are forgotten.

    Parts added in the same order give the same total, whatever made them.
    """
    for word, count in part.items():
        total[word] += count
    rarest = 1
    while len(total) > MOST_WORDS:
        for word in [word for word, count in total.items() if count <= rarest]:
            del total[word]
        rarest += 1


def learn_vocabulary(counts: Mapping[str, int], config: VocabConfig) -> Vocabulary:
    """Returns the vocabulary learnt from how often each normalised word occurs.

    Laid out as published ones are: [PAD], unused rows, [UNK] [CLS] [SEP] [MASK], unused rows, then
    characters that begin words, characters that continue them, and merges in the order made. It is
    smaller than `config.size` only where no pair is left that occurs `min_frequency` times.

    Raises:
        DataError: there is no word to learn from.
        ConfigError: the special pieces and the characters alone are more than `config.size`.
    """
    if not counts:
        raise DataError("the corpus holds no word; expected text to learn a vocabulary from")
    head = _head(config)
    alphabet = _alphabet(counts, config.character_coverage)
    characters = sorted(alphabet) + sorted(CONTINUATION + character for character in alphabet)
    wanted = config.size - len(head) - len(characters)
    if wanted < 0:
        raise ConfigError(
            f"size is {config.size}, but {len(head)} special and unused pieces and "
            f"{len(alphabet)} characters, each beginning and continuing words, need "
            f"{len(head) + len(characters)}; give that or more, or a lower character_coverage "
            f"than {config.character_coverage}"
        )
    spelt = {
        word: count
        for word, count in counts.items()
        if count >= config.min_frequency and alphabet.issuperset(word)
    }
    taken = set(head) | set(characters)
    merged = _Merges(spelt, characters, config).take(wanted, taken)
    return Vocabulary([*head, *characters, *merged])


@dataclass(frozen=True)
class Fit:
    """How well a vocabulary cuts some text."""

    pieces_per_word: float
    unk_rate: float  # share of the words that become [UNK]


def measure_fit(tokenizer: Tokenizer, counts: Mapping[str, int]) -> Fit:
    """Returns how the words of a text, given by their counts, are cut."""
    words = pieces = unknown = 0
    cut = tokenizer.encode_words(list(counts))
    for count, ids in zip(counts.values(), cut, strict=True):
        words += count
        pieces += count * len(ids)
        unknown += count * (tokenizer.vocabulary.unk_id in ids)
    return Fit(pieces / max(1, words), unknown / max(1, words))


def _head(config: VocabConfig) -> list[str]:
    unused = [f"[unused{number}]" for number in range(_num_unused(config))]
    return [
        PAD,
        *unused[:_UNUSED_BEFORE_UNK],
        *("[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *unused[_UNUSED_BEFORE_UNK:],
    ]


def _num_unused(config: VocabConfig) -> int:
    """Returns the unused rows wanted: 994 as published, fewer where they would cost real pieces."""
    if config.num_unused is not None:
        return config.num_unused
    if config.size >= 20_000:
        return 994
    return _UNUSED_BEFORE_UNK if config.size >= 4_000 else 0


def _alphabet(counts: Mapping[str, int], coverage: float) -> set[str]:
    """Returns the most frequent characters that together make up a share `coverage` of the text."""
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    enough = coverage * characters.total()
    covered = 0
    alphabet = set()
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if covered >= enough:
            break
        alphabet.add(character)
        covered += count
    return alphabet


class _Merges:
    """The words as pieces, and the pairs of neighbours in them by score.

    A heap holds every pair with the score it had when last touched. A merge changes n(a) and n(b),
    and with them the scores of pairs elsewhere; those are caught when they reach the top, and all
    are computed anew after every 200 merges.
    """

    def __init__(
        self, counts: Mapping[str, int], characters: list[str], config: VocabConfig
    ) -> None:
        self._min_frequency = config.min_frequency
        self._by_likelihood = config.algorithm == "wordpiece"
        self._pieces = characters.copy()  # by number
        self._numbers = {piece: number for number, piece in enumerate(characters)}
        self._words: list[list[int]] = []
        self._counts: list[int] = []
        self._piece_counts = [0] * len(characters)
        self._pair_counts: dict[tuple[int, int], int] = defaultdict(int)
        self._found_in: dict[tuple[int, int], list[int]] = defaultdict(list)
        for word in sorted(counts):
            if len(word) > 1:
                self._add(word, counts[word])
        self._total = sum(self._piece_counts)
        self._heap: list[tuple[float, str, str, tuple[int, int]]] = []

    def take(self, wanted: int, taken: set[str]) -> list[str]:
        """Returns up to `wanted` pieces that are not in `taken`, best first."""
        found: list[str] = []
        self._refresh()
        merges = 0
        while len(found) < wanted and self._heap:
            score, _, _, pair = heapq.heappop(self._heap)
            count = self._pair_counts.get(pair, 0)
            if count < self._min_frequency:
                continue
            now = -self._score(pair, count)
            if now > score + 1e-9:  # worse than when it was pushed
                self._push(pair, now)
                continue
            piece = self._merge(pair)
            if piece not in taken:
                taken.add(piece)
                found.append(piece)
            merges += 1
            if merges % _REFRESH == 0 and self._by_likelihood:
                self._refresh()
        return found

    def _add(self, word: str, count: int) -> None:
        place = len(self._words)
        pieces = [self._numbers[word[0]]]
        pieces += [self._numbers[CONTINUATION + character] for character in word[1:]]
        self._words.append(pieces)
        self._counts.append(count)
        for number in pieces:
            self._piece_counts[number] += count
        for pair in zip(pieces, pieces[1:], strict=False):
            self._pair_counts[pair] += count
            self._found_in[pair].append(place)

    def _score(self, pair: tuple[int, int], count: int) -> float:
        if not self._by_likelihood:
            return count
        first, second = pair
        independent = self._piece_counts[first] * self._piece_counts[second] / self._total
        return count * log(count / independent)

    def _push(self, pair: tuple[int, int], score: float) -> None:
        first, second = pair
        heapq.heappush(self._heap, (score, self._pieces[first], self._pieces[second], pair))

    def _refresh(self) -> None:
        self._heap = [
            (-self._score(pair, count), self._pieces[pair[0]], self._pieces[pair[1]], pair)
            for pair, count in self._pair_counts.items()
            if count >= self._min_frequency
        ]
        heapq.heapify(self._heap)

    def _merge(self, pair: tuple[int, int]) -> str:
        """Makes one piece of `pair` wherever it stands; returns the piece."""
        first, second = pair
        piece = self._pieces[first] + self._pieces[second].removeprefix(CONTINUATION)
        number = self._numbers.get(piece)
        if number is None:  # else another pair has made the same piece before
            number = self._numbers[piece] = len(self._pieces)
            self._pieces.append(piece)
            self._piece_counts.append(0)
        changed: dict[tuple[int, int], int] = defaultdict(int)
        for place in dict.fromkeys(self._found_in.pop(pair)):
            self._rewrite(place, pair, number, changed)
        for other, change in changed.items():
            count = self._pair_counts[other] + change
            if count:
                self._pair_counts[other] = count
                self._push(other, -self._score(other, count))
            else:
                del self._pair_counts[other]
        return piece

    def _rewrite(
        self, place: int, pair: tuple[int, int], number: int, changed: dict[tuple[int, int], int]
    ) -> None:
        """Merges `pair` in one word, noting how the counts of its pairs change."""
        first, second = pair
        old, count = self._words[place], self._counts[place]
        new: list[int] = []
        position, last = 0, len(old) - 1
        while position <= last:
            if position < last and old[position] == first and old[position + 1] == second:
                new.append(number)
                position += 2
            else:
                new.append(old[position])
                position += 1
        merged = len(old) - len(new)
        if not merged:  # it stood here once, and another merge has taken it apart
            return
        self._words[place] = new
        self._piece_counts[first] -= merged * count
        self._piece_counts[second] -= merged * count
        self._piece_counts[number] += merged * count
        self._total -= merged * count
        for gone in zip(old, old[1:], strict=False):
            changed[gone] -= count
        for made in zip(new, new[1:], strict=False):
            changed[made] += count
            if number in made:
                self._found_in[made].append(place)
