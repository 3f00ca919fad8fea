"""Words to pieces to ids and back: the vocabulary, and the tokenizer that cuts by it.

Source: Devlin et al. 2019, `tokenization.py` (WordpieceTokenizer): greedy, longest piece first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from bertsmith.config import CasingConfig
from bertsmith.errors import DataError, MissingInputError
from bertsmith.text.bulk import BulkEncoder
from bertsmith.text.greedy import GreedyCutter
from bertsmith.text.normalize import Normalizer

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_PIECES = (PAD, UNK, CLS, SEP, MASK)
CONTINUATION = "##"  # stands before a piece that does not begin a word

LONGEST_WORD = 100  # characters; longer words are [UNK], as published
_MOST_REMEMBERED_WORDS = 300_000  # about 60 MB
_FEWEST_BULK_CHARACTERS = 4000  # in fewer, encoding text by text is the faster way


class Encoded(NamedTuple):
    """The pieces of a text, and for each the characters [start, end) of the original text."""

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Vocabulary:
    """The pieces and their ids, in the order of the file; never changed once made."""

    def __init__(self, pieces: Iterable[str], *, where: str = "vocabulary") -> None:
        """Checks and takes in the pieces; `where` is named in messages.

        Raises:
            DataError: a piece stands twice, is empty, holds white space at an end or a line
                break, cannot be written as UTF-8, or a special piece is missing.
        """
        self.pieces = tuple(pieces)
        self.ids = _checked_ids(self.pieces, where)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self.ids[piece] for piece in SPECIAL_PIECES
        )
        self.special_ids = frozenset(self.ids[piece] for piece in SPECIAL_PIECES)
        self._content = "".join(f"{piece}\n" for piece in self.pieces).encode("utf-8")
        self.sha256 = hashlib.sha256(self._content).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Returns the vocabulary of a `vocab.txt`: one piece a line, its id the number of the line.

        A byte order mark and CRLF line ends are taken away.

        Raises:
            MissingInputError: there is no such file.
            DataError: it is not such a file; the message names file and line.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: byte {error.start} is not UTF-8; expected a vocabulary, one piece a line"
            ) from None
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        if lines and all(line.endswith("\r") for line in lines):
            lines = [line[:-1] for line in lines]
        return cls(lines, where=str(path))

    def write(self, path: Path) -> None:
        """Writes the vocabulary as `vocab.txt`."""
        path.write_bytes(self._content)

    def __len__(self) -> int:
        return len(self.pieces)

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[tuple[str, ...]]]:
        return Vocabulary, (self.pieces,)


def _checked_ids(pieces: tuple[str, ...], where: str) -> dict[str, int]:
    ids = dict(zip(pieces, range(len(pieces)), strict=True))
    if len(ids) < len(pieces) or not _are_sound(pieces):
        _refuse_pieces(pieces, where)
    for piece in SPECIAL_PIECES:
        if piece not in ids:
            raise DataError(
                f"{where}: {piece!r} is missing among {len(pieces)} pieces; "
                f"expected all of {' '.join(SPECIAL_PIECES)}, each on a line of its own"
            )
    return ids


def _are_sound(pieces: tuple[str, ...]) -> bool:
    """Returns whether each of the pieces may be one; all at once, for there are many."""
    content = "\n".join(pieces)
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        return False
    bare = [piece.strip(" \t\r\n") for piece in pieces]
    return content.count("\n") == len(pieces) - 1 and all(bare) and bare == list(pieces)


def _refuse_pieces(pieces: tuple[str, ...], where: str) -> None:
    """Raises DataError for the first piece that is not one."""
    ids: dict[str, int] = {}
    for line, piece in enumerate(pieces, start=1):
        if not piece:
            raise DataError(f"{where}:{line}: the line is blank; expected one piece")
        if piece != piece.strip(" \t\r\n") or "\n" in piece:
            raise DataError(
                f"{where}:{line}: {piece!r} begins or ends with white space; expected a bare piece"
            )
        if ids.setdefault(piece, line - 1) != line - 1:
            raise DataError(
                f"{where}:{line}: {piece!r} stands already at line {ids[piece] + 1}; "
                f"each piece has one id, so delete one of the two"
            )
        if not piece.isascii() and any("\ud800" <= character <= "\udfff" for character in piece):
            raise DataError(f"{where}:{line}: {piece!r} holds half a character; expected UTF-8")


class Tokenizer:
    """Cuts text into pieces; a memo from words to ids makes it fast on natural text."""

    def __init__(self, vocabulary: Vocabulary, casing: CasingConfig) -> None:
        self.vocabulary = vocabulary
        self.casing = casing
        self.normalizer = Normalizer(casing)
        described = json.dumps({"vocabulary": vocabulary.sha256} | casing.to_mapping())
        self.fingerprint = hashlib.sha256(described.encode("utf-8")).hexdigest()
        self._first = dict(vocabulary.ids)
        self._later = {  # continuation pieces, without their mark
            piece[len(CONTINUATION) :]: number
            for piece, number in vocabulary.ids.items()
            if piece.startswith(CONTINUATION)
        }
        self._longest = max(map(len, vocabulary.pieces))
        self._memo: dict[str, tuple[int, ...]] = {}
        self._texts: dict[str, list[int]] = {}
        self._bulk_lock = Lock()  # the memos of many texts are for one thread at a time
        self._special = re.compile("(" + "|".join(map(re.escape, SPECIAL_PIECES)) + ")")

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Vocabulary, CasingConfig]]:
        return Tokenizer, (self.vocabulary, self.casing)

    def encode(
        self, text: str, *, max_pieces: int | None = None, with_special: bool = False
    ) -> list[int]:
        """Returns the ids of the text's pieces, without [CLS] and [SEP].

        With `max_pieces` no more than that many, and no more work than they need. With
        `with_special` the strings "[MASK]", "[SEP]" and so on in the text become their ids;
        without, they are text like any other.
        """
        if with_special:
            return self._encode_with_special(text, max_pieces)
        if self._texts and text in self._texts:
            return self._texts[text][:max_pieces]
        ids: list[int] = []
        if max_pieces is None:
            for word in self.normalizer.words(text):
                ids += self._word_ids(word)
            return ids
        for word in self.normalizer.iterate_words(text, LONGEST_WORD + 1):
            if len(ids) >= max_pieces:
                break
            ids += self._word_ids(word)
        return ids[:max_pieces]

    def _encode_with_special(self, text: str, max_pieces: int | None) -> list[int]:
        ids: list[int] = []
        end = 0
        for found in self._special.finditer(text):
            left = None if max_pieces is None else max_pieces - len(ids)
            ids += self.encode(text[end : found.start()], max_pieces=left)
            ids.append(self.vocabulary.ids[found[0]])
            end = found.end()
            if max_pieces is not None and len(ids) >= max_pieces:
                return ids[:max_pieces]
        left = None if max_pieces is None else max_pieces - len(ids)
        return ids + self.encode(text[end:], max_pieces=left)

    def encode_with_offsets(self, text: str, *, max_pieces: int | None = None) -> Encoded:
        """Returns the ids and the characters of the original text that each piece covers."""
        encoded = Encoded([], [], [])
        for word in self.normalizer.iterate_words_with_offsets(text, LONGEST_WORD + 1):
            if max_pieces is not None and len(encoded.ids) >= max_pieces:
                break
            ids = self._word_ids(word.text)
            position = 0
            for number in ids:
                mark = len(CONTINUATION) if position else 0
                length = len(self.vocabulary.pieces[number]) - mark
                if number == self.vocabulary.unk_id:
                    length = len(word.text)
                encoded.ids.append(number)
                encoded.starts.append(word.origins[position])
                encoded.ends.append(word.origins[position + length - 1] + 1)
                position += length
        return Encoded(*(column[:max_pieces] for column in encoded))

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each of the given words; a word of control characters has none."""
        return [self.encode(word) for word in words]

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts in one array, and where each text begins in it.

        The ids are int32 [P]; the starts int64 [N + 1], so that text i has ids[starts[i] :
        starts[i + 1]].
        """
        if sum(map(len, texts)) >= _FEWEST_BULK_CHARACTERS:
            with self._bulk_lock:
                return self._bulk.encode(texts)
        encoded = [self.encode(text) for text in texts]
        starts = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in encoded], out=starts[1:])
        flat = [number for ids in encoded for number in ids]
        return np.array(flat, dtype=np.int32), starts

    def with_texts(self, texts: Sequence[str]) -> Tokenizer:
        """Returns a tokenizer of the same memos that has encoded these texts, all at once.

        It encodes as this one does, and any of them sooner.
        """
        ids, starts = self.encode_many(texts)
        bounds, flat = starts.tolist(), ids.tolist()
        twin = object.__new__(Tokenizer)
        twin.__dict__.update(self.__dict__)
        twin._texts = {
            text: flat[bounds[place] : bounds[place + 1]] for place, text in enumerate(texts)
        }
        return twin

    @cached_property
    def _bulk(self) -> BulkEncoder:
        return BulkEncoder(
            lowers=self.casing.do_lower_case,
            space_out=self.normalizer.space_out,
            cutter=GreedyCutter(self._first, self._later, self.vocabulary.unk_id),
            word_ids=self._word_ids,
        )

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of the pieces: continuations joined on, all else a space apart.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        parts: list[str] = []
        for number in map(int, ids):
            if not 0 <= number < len(self.vocabulary):
                raise DataError(
                    f"id {number} is not in the vocabulary; "
                    f"expected 0 to {len(self.vocabulary) - 1}, so another vocabulary made it"
                )
            if skip_special and number in self.vocabulary.special_ids:
                continue
            piece = self.vocabulary.pieces[number]
            if not parts:
                parts.append(piece)
            elif piece.startswith(CONTINUATION):
                parts.append(piece[len(CONTINUATION) :])
            else:
                parts.append(f" {piece}")
        return "".join(parts)

    def _word_ids(self, word: str) -> tuple[int, ...]:
        ids = self._memo.get(word)
        if ids is None:
            ids = self._cut(word)
            if len(self._memo) >= _MOST_REMEMBERED_WORDS:
                self._memo.clear()
            if len(word) <= LONGEST_WORD:
                self._memo[word] = ids
        return ids

    def _cut(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self.vocabulary.unk_id,)
        ids: list[int] = []
        known = self._first
        start = 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                number = known.get(word[start:end])
                if number is not None:
                    break
            else:
                return (self.vocabulary.unk_id,)
            ids.append(number)
            start = end
            known = self._later
        return tuple(ids)
