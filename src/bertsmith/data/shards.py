"""A tokenised corpus on disk: documents, their sentences and pieces, in shards that are mapped.

    corpus/
      corpus.json                      what it is and holds; size and SHA-256 of every file
      vocab.txt                        the vocabulary of the piece ids
      train-00000.pieces.npy           piece ids, uint16, or uint32 above 65,536 pieces       [P]
      train-00000.sentence_starts.npy  int64; sentence s is pieces[starts[s] : starts[s + 1]]
                                       [S + 1]
      train-00000.document_starts.npy  int64; likewise, from documents to sentences       [D + 1]
      held_out-00000...                the documents set aside for evaluation, if any

No document stands in two shards. `shard_writer.py` writes the folder.
"""

from __future__ import annotations

import hashlib
import textwrap
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertsmith.config import CasingConfig
from bertsmith.errors import DataError, MissingInputError
from bertsmith.storage import strict_json
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

FORMAT = "bertsmith-corpus"
VERSION = 1
MANIFEST = "corpus.json"
VOCABULARY = "vocab.txt"

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
ARRAYS = ("pieces", "sentence_starts", "document_starts")

# numpy parses an array's header by `ast`, which in Python 3.11 fails with a SystemError now and
# then when two threads are at it; one reads ahead while another measures.
_PARSING = Lock()
SUMMED_BYTES = 1 << 20


# ---------------------------------------------------------------------------------- the manifest


@dataclass(frozen=True)
class FileFacts:
    """What a file must be to be read."""

    bytes: int
    sha256: str
    crc32: str = ""  # of each megabyte, eight hexadecimal digits: tells where bytes were altered


@dataclass(frozen=True)
class ShardFacts:
    """How much one shard holds; its files are named by its split and its place in the list."""

    documents: int
    sentences: int
    pieces: int


def together(shards: Iterable[ShardFacts]) -> ShardFacts:
    """Returns what several shards hold."""
    facts = list(shards)
    return ShardFacts(
        documents=sum(shard.documents for shard in facts),
        sentences=sum(shard.sentences for shard in facts),
        pieces=sum(shard.pieces for shard in facts),
    )


@dataclass(frozen=True)
class Manifest:
    """What `corpus.json` holds."""

    format: str
    version: int
    tokenizer_fingerprint: str
    vocab_size: int
    casing: dict[str, bool | None]
    origin: dict[str, Any]  # what the corpus was made from: settings and a digest of the sources
    text_bytes: int  # of the text that the pieces were made from, in UTF-8
    shards: dict[Split, list[ShardFacts]]
    files: dict[str, FileFacts]
    filtered: dict[str, dict[str, int]] = field(default_factory=dict)  # what filters took away


def piece_type(vocab_size: int) -> np.dtype[Any]:
    """Returns the smallest type that holds the ids of so many pieces."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def array_name(split: str, number: int, array: str) -> str:
    """Returns the name of the file of one array of shard `number`."""
    return f"{split}-{number:05}.{array}.npy"


def _file_names(shards: dict[Split, list[ShardFacts]]) -> set[str]:
    return {VOCABULARY} | {
        array_name(split, number, array)
        for split, facts in shards.items()
        for number in range(len(facts))
        for array in ARRAYS
    }


# ---------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Shard:
    """The arrays of one shard, mapped from disk and read-only."""

    pieces: NDArray[np.unsignedinteger[Any]]  # [P]
    sentence_starts: NDArray[np.int64]  # into pieces [S + 1]
    document_starts: NDArray[np.int64]  # into sentences [D + 1]


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus; made by `open_corpus` or `open_sound_shards`."""

    path: Path
    manifest: Manifest
    bad: frozenset[tuple[Split, int]] = frozenset()  # shards that are passed over

    @property
    def fingerprint(self) -> str:
        """Returns a digest of every file's own, and so of the whole content that is read."""
        unread = {array_name(*shard, array) for shard in self.bad for array in ARRAYS}
        sums = sorted(
            (name, facts.sha256)
            for name, facts in self.manifest.files.items()
            if name not in unread
        )
        return hashlib.sha256(repr(sums).encode()).hexdigest()

    @property
    def tokenizer_fingerprint(self) -> str:
        """Returns the fingerprint of the tokenizer that made the piece ids."""
        return self.manifest.tokenizer_fingerprint

    @property
    def vocab_size(self) -> int:
        """Returns the number of pieces in that tokenizer's vocabulary."""
        return self.manifest.vocab_size

    def shards(self, split: Split) -> tuple[ShardFacts, ...]:
        """Returns what each shard of `split` holds, in order."""
        shards = self.manifest.shards.get(split, [])
        return tuple(shards[number] for number in self._numbers(split))

    def total(self, split: Split) -> ShardFacts:
        """Returns what all shards of `split` hold together."""
        return together(self.shards(split))

    def lost(self) -> ShardFacts:
        """Returns what the shards that are passed over hold together."""
        facts = [self.manifest.shards[split][number] for split, number in self.bad]
        return together(facts)

    def open_shard(self, split: Split, number: int) -> Shard:
        """Returns the arrays of shard `number` of `split`; they take memory as they are read."""
        found = self._numbers(split)[number]
        return Shard(*(_mapped(self.path / array_name(split, found, array)) for array in ARRAYS))

    def _numbers(self, split: Split) -> list[int]:
        """Returns the numbers in the names of the shards that are read."""
        count = len(self.manifest.shards.get(split, ()))
        return [number for number in range(count) if (split, number) not in self.bad]

    def read_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that made the piece ids, from the vocabulary beside them."""
        vocabulary = Vocabulary.read(self.path / VOCABULARY)
        casing = CasingConfig.from_mapping(self.manifest.casing, where=str(self.path / MANIFEST))
        tokenizer = Tokenizer(vocabulary, casing)
        self.require_tokenizer(tokenizer.fingerprint, "its own vocab.txt and casing")
        return tokenizer

    def require_tokenizer(self, fingerprint: str, owner: str) -> None:
        """Raises DataError, with both fingerprints, unless this tokenizer made the corpus."""
        if fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"{self.path}: made with tokenizer {self.tokenizer_fingerprint[:16]}, but "
                f"{owner} is {fingerprint[:16]}: piece ids would mean other pieces; "
                f"prepare the corpus again with that tokenizer"
            )


def open_corpus(path: Path, *, verify: bool = True) -> Corpus:
    """Returns the corpus in the folder `path`, its files checked against `corpus.json`.

    Sizes are always checked; with `verify`, SHA-256 sums and the arrays' borders too (about a
    second for 1.5 GB).

    Raises:
        MissingInputError: there is no such folder, or it holds no corpus.json.
        DataError: a file is missing, cut short, altered or in another's place, or the manifest is
            not one of this format; the message names the file and what was found.
    """
    manifest = _read_manifest(path)
    for name, facts in sorted(manifest.files.items()):
        _check_file(path / name, facts, verify)
    corpus = Corpus(path, manifest)
    if verify:
        for split in SPLITS:
            for number, shard in enumerate(corpus.shards(split)):
                _check_shard(corpus, split, number, shard)
    return corpus


def open_sound_shards(path: Path, say: Callable[[str], None]) -> Corpus:
    """Returns the corpus in `path` without the shards that do not verify; says what is lost.

    What it cannot do without is the manifest, the vocabulary and one shard to train on.

    Raises:
        MissingInputError: there is no such folder, or it holds no corpus.json.
        DataError: the manifest or the vocabulary is damaged, or every shard of the training text.
    """
    whole = Corpus(path, _read_manifest(path))
    _check_file(path / VOCABULARY, whole.manifest.files[VOCABULARY], True)
    bad: set[tuple[Split, int]] = set()
    for split in SPLITS:
        for number, facts in enumerate(whole.shards(split)):
            try:
                for array in ARRAYS:
                    name = array_name(split, number, array)
                    _check_file(path / name, whole.manifest.files[name], True)
                _check_shard(whole, split, number, facts)
            except DataError as error:
                bad.add((split, number))
                share = facts.pieces / max(1, whole.total(split).pieces)
                say(
                    f"passed over a damaged shard: {error}; lost: {facts.documents:,} documents, "
                    f"{facts.pieces:,} pieces, {share:.2%} of {split}"
                )
    corpus = Corpus(path, whole.manifest, frozenset(bad))
    if whole.shards("train") and not corpus.shards("train"):
        raise DataError(
            f"{path}: none of its {len(whole.shards('train'))} training shards verifies; prepare "
            f"the corpus again"
        )
    return corpus


def _read_manifest(path: Path) -> Manifest:
    from pydantic import TypeAdapter, ValidationError

    where = path / MANIFEST
    try:
        content = where.read_bytes()
    except OSError as error:
        raise MissingInputError(
            f"{where}: cannot be read ({error.strerror}); expected a folder that prepare wrote"
        ) from None
    try:
        values = strict_json(content)
        manifest = TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {place or 'the whole'}: {first['msg'].lower()}") from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); the file is cut short or altered") from None
    if (manifest.format, manifest.version) != (FORMAT, VERSION):
        raise DataError(
            f"{where}: is {manifest.format} version {manifest.version}; "
            f"expected {FORMAT} version {VERSION}"
        )
    odd = set(manifest.files) ^ _file_names(manifest.shards)
    if odd:  # so no name leads out of the folder: each is one that this file makes up
        raise DataError(f"{where}: {min(odd)!r} is listed as a file or a shard but not as both")
    return manifest


def _check_file(path: Path, facts: FileFacts, verify: bool) -> None:
    try:
        if path.is_symlink():
            raise DataError(f"{path}: is a symbolic link; expected a file of the corpus itself")
        size = path.stat().st_size
        if size != facts.bytes:
            short = "the file is cut short" if size < facts.bytes else "something was added to it"
            raise DataError(
                f"{path}: ends at offset {size:,}; expected {facts.bytes:,} bytes: {short}"
            )
        if verify:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != facts.sha256:
                raise DataError(
                    f"{path}: its SHA-256 is {found[:16]}..; expected {facts.sha256[:16]}..: "
                    f"bytes were altered{_altered_place(path, facts)}, or it is another file; "
                    f"prepare the corpus again"
                )
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); it is listed in {MANIFEST}"
        ) from None


def _altered_place(path: Path, facts: FileFacts) -> str:
    """Returns where the first altered byte lies, as far as the manifest tells."""
    with path.open("rb") as file:
        found = [zlib.crc32(part) for part in iter(lambda: file.read(SUMMED_BYTES), b"")]
    expected = textwrap.wrap(facts.crc32, 8)
    for number, (crc, wanted) in enumerate(zip(found, expected, strict=False)):
        if as_text([crc]) != wanted:
            begin = number * SUMMED_BYTES
            end = min(begin + SUMMED_BYTES, facts.bytes)
            return f" between offsets {begin:,} and {end:,}"
    return ""


def as_text(crcs: Iterable[int]) -> str:
    """Returns checksums as eight hexadecimal digits each."""
    return "".join(f"{crc:08x}" for crc in crcs)


def _mapped(path: Path) -> NDArray[Any]:
    try:
        with _PARSING:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped.view(np.ndarray)  # slices of np.memmap itself take five times as long
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an array of numpy ({error})") from None


def _check_shard(corpus: Corpus, split: Split, number: int, facts: ShardFacts) -> None:
    shard = corpus.open_shard(split, number)
    expected = (
        (shard.pieces, facts.pieces, piece_type(corpus.vocab_size)),
        (shard.sentence_starts, facts.sentences + 1, np.dtype(np.int64)),
        (shard.document_starts, facts.documents + 1, np.dtype(np.int64)),
    )
    for name, (array, size, kind) in zip(ARRAYS, expected, strict=True):
        where = corpus.path / array_name(split, number, name)
        if array.shape != (size,) or array.dtype != kind:
            raise DataError(
                f"{where}: holds {array.dtype} {list(array.shape)}; expected {kind} [{size}]"
            )
    for name, starts, end in (
        (ARRAYS[1], shard.sentence_starts, facts.pieces),
        (ARRAYS[2], shard.document_starts, facts.sentences),
    ):
        if starts[0] != 0 or starts[-1] != end or bool((np.diff(starts) < 1).any()):
            raise DataError(
                f"{corpus.path / array_name(split, number, name)}: its borders do not rise from "
                f"0 to {end}"
            )
    if int(shard.pieces.max()) >= corpus.vocab_size:
        raise DataError(
            f"{corpus.path / array_name(split, number, ARRAYS[0])}: holds piece "
            f"{int(shard.pieces.max())}; expected less than the vocabulary's {corpus.vocab_size}"
        )
