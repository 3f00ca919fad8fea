"""A corpus comes back from disk as it was written, or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data.numbered import MakeCorpus, numbered_tokenizer

from bertsmith.data import shard_writer, shards
from bertsmith.data.blocks import EncodedDocument
from bertsmith.data.shard_writer import CorpusWriter
from bertsmith.data.shards import Corpus, ShardFacts, open_corpus, open_sound_shards
from bertsmith.errors import (
    DataError,
    FolderInUseError,
    MissingInputError,
    StorageError,
)
from bertsmith.text.wordpiece import Tokenizer

DOCUMENTS = [[3, 4], [5], [200, 300], [7, 8, 9], [400, 100], [2]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(corpus: Corpus, change: Any) -> None:
    """Applies `change` to what corpus.json holds."""
    path = corpus.path / "corpus.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


# ---------------------------------------------------------------------------------- whole


def test_one_thread_at_a_time_parses_the_header_of_an_array(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 fails now and then where two are at it."""
    corpus, load = make_corpus(DOCUMENTS, shard_pieces=400), np.load
    at_it: list[None] = []
    most: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        at_it.append(None)
        time.sleep(0.001)
        most.append(len(at_it))
        at_it.pop()
        return load(*arguments, **options)

    monkeypatch.setattr(np, "load", watched)
    with ThreadPoolExecutor(4) as threads:
        shards = list(threads.map(lambda _: corpus.open_shard("train", 0), range(8)))
    assert len(shards) == 8 and set(most) == {1}


def test_documents_come_back_in_order_across_shards(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(DOCUMENTS, shard_pieces=400)
    assert len(corpus.shards("train")) == 2
    found: list[list[int]] = []
    pieces: list[int] = []
    for number in range(2):
        shard = corpus.open_shard("train", number)
        lengths = np.diff(shard.sentence_starts)
        borders = zip(shard.document_starts, shard.document_starts[1:], strict=False)
        found += [lengths[first:last].tolist() for first, last in borders]
        pieces += shard.pieces.tolist()
    assert found == DOCUMENTS
    assert pieces == [5 + number % 995 for number in range(len(pieces))]
    total = corpus.total("train")
    assert (total.documents, total.sentences, total.pieces) == (6, 11, len(pieces))
    assert corpus.shards("held_out") == ()


def test_no_shard_but_an_only_one_is_small(make_corpus: MakeCorpus) -> None:
    sizes = [
        shard.pieces for shard in make_corpus([[10]] * 1010, shard_pieces=1000).shards("train")
    ]
    assert sum(sizes) == 10_100
    assert min(sizes) >= 500


@pytest.mark.parametrize(("size", "kind"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_piece_ids_take_two_bytes_while_they_can(tmp_path: Path, size: int, kind: type) -> None:
    tokenizer = numbered_tokenizer(size)
    ids: NDArray[Any] = np.array([0, size - 1], dtype=kind)
    with CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer:
        writer.add(EncodedDocument("held_out", ids, np.array([2], dtype=np.int32)))
        writer.finish({}, text_bytes=2)
    shard = open_corpus(tmp_path / "out").open_shard("held_out", 0)
    assert shard.pieces.dtype == kind
    assert shard.pieces.tolist() == [0, size - 1]
    assert not shard.pieces.flags.writeable


def test_the_tokenizer_comes_back(make_corpus: MakeCorpus, tokenizer: Tokenizer) -> None:
    corpus = make_corpus(DOCUMENTS)
    assert corpus.read_tokenizer().fingerprint == tokenizer.fingerprint
    corpus.require_tokenizer(tokenizer.fingerprint, "the model's tokenizer")
    message = f"made with tokenizer {tokenizer.fingerprint[:16]}, but the model's .* is abcd"
    with pytest.raises(DataError, match=message):
        corpus.require_tokenizer("abcd" * 16, "the model's tokenizer")


def test_the_fingerprint_tells_contents_apart(make_corpus: MakeCorpus) -> None:
    one, same = (make_corpus(DOCUMENTS, name=name).fingerprint for name in ("one", "same"))
    assert one == same != make_corpus(DOCUMENTS[:-1], name="other").fingerprint


# ---------------------------------------------------------------------------------- damaged

SHARD = "train-00000.pieces.npy"


@pytest.mark.parametrize("kept", [0, 4, 60, 1000, -1])
def test_a_shard_cut_short_is_named_with_the_offset(make_corpus: MakeCorpus, kept: int) -> None:
    corpus = make_corpus(DOCUMENTS)
    content = (corpus.path / SHARD).read_bytes()[:kept]
    (corpus.path / SHARD).write_bytes(content)
    message = rf"{SHARD}: ends at offset {len(content):,}; expected .* cut short"
    with pytest.raises(DataError, match=message):
        open_corpus(corpus.path, verify=False)


@pytest.mark.parametrize("name", [SHARD, "train-00000.document_starts.npy", "vocab.txt"])
def test_every_flipped_byte_is_found(make_corpus: MakeCorpus, name: str) -> None:
    corpus = make_corpus(DOCUMENTS)
    content = bytearray((corpus.path / name).read_bytes())
    for offset in (0, len(content) // 2, len(content) - 1):
        content[offset] ^= 1
        (corpus.path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: its SHA-256 is .* altered"):
            open_corpus(corpus.path)
        content[offset] ^= 1


def test_altered_bytes_are_placed_within_a_megabyte(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file of many parts, written in one piece or in several, up to its last byte."""
    for module in (shards, shard_writer):
        monkeypatch.setattr(module, "SUMMED_BYTES", 100)
    corpus = make_corpus([[300, 200]] * 4)
    content = bytearray((corpus.path / SHARD).read_bytes())
    size = len(content)
    assert len(corpus.manifest.files[SHARD].crc32) == 8 * -(-size // 100)
    for offset in (0, 99, 100, 1234, size - 1):
        content[offset] ^= 1
        (corpus.path / SHARD).write_bytes(content)
        begin = offset - offset % 100
        place = f"between offsets {begin:,} and {min(begin + 100, size):,}"
        with pytest.raises(DataError, match=rf"{SHARD}: .* bytes were altered {place}, or"):
            open_corpus(corpus.path)
        content[offset] ^= 1


def test_a_corpus_without_checksums_of_megabytes_is_read(make_corpus: MakeCorpus) -> None:
    """As the first ones were written; an altered file is then found but not the place in it."""
    corpus = make_corpus(DOCUMENTS)
    edit(corpus, lambda values: [facts.pop("crc32") for facts in values["files"].values()])
    assert open_corpus(corpus.path).fingerprint == corpus.fingerprint
    damage(corpus.path / SHARD, "flipped")
    with pytest.raises(DataError, match=rf"{SHARD}: its SHA-256 is .*: bytes were altered, or"):
        open_corpus(corpus.path)


def test_a_missing_shard_is_named(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(DOCUMENTS)
    (corpus.path / SHARD).unlink()
    with pytest.raises(DataError, match=rf"{SHARD}: cannot be read \(No such file"):
        open_corpus(corpus.path)


def test_swapped_shards_are_found(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus([[300, 200]] * 6, shard_pieces=1000)
    first, second = corpus.path / SHARD, corpus.path / SHARD.replace("00000", "00001")
    one, two = first.read_bytes(), second.read_bytes()
    assert len(one) == len(two)
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(DataError, match=rf"{SHARD}: its SHA-256 is .* another file"):
        open_corpus(corpus.path)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "cut short":
        path.write_bytes(content[:-1])
    elif how == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.with_name(path.name.replace("00001", "00002")).read_bytes())


@pytest.mark.parametrize("how", ["flipped", "cut short", "deleted", "in another's place"])
@pytest.mark.parametrize("array", ["pieces", "sentence_starts", "document_starts"])
def test_the_shards_that_are_sound_can_be_read_alone(
    make_corpus: MakeCorpus, how: str, array: str
) -> None:
    corpus = make_corpus([[300, 200]] * 8, shard_pieces=1000)
    whole = [corpus.open_shard("train", number).pieces.tolist() for number in range(4)]
    name = f"train-00001.{array}.npy"
    if how == "in another's place" and array != "pieces":
        (corpus.path / name).write_bytes(b"")  # borders of equal shards are alike
    else:
        damage(corpus.path / name, how)
    with pytest.raises(DataError, match=name):
        open_corpus(corpus.path)
    said: list[str] = []
    sound = open_sound_shards(corpus.path, said.append)
    read = [sound.open_shard("train", number).pieces.tolist() for number in range(3)]
    assert read == [whole[0], whole[2], whole[3]]
    assert [facts.pieces for facts in sound.shards("train")] == [1000] * 3
    assert sound.total("train").documents == 6
    assert sound.lost() == corpus.shards("train")[1]
    assert sound.fingerprint != corpus.fingerprint
    assert len(said) == 1
    assert name in said[0]
    assert said[0].endswith("lost: 2 documents, 1,000 pieces, 25.00% of train")


def test_a_sound_corpus_is_read_whole(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(DOCUMENTS)
    sound = open_sound_shards(corpus.path, pytest.fail)
    assert sound == corpus
    assert sound.lost() == ShardFacts(0, 0, 0)


def test_what_a_corpus_cannot_do_without_is_never_skipped(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(DOCUMENTS)
    (corpus.path / SHARD).unlink()
    with pytest.raises(DataError, match="none of its 1 training shards verifies"):
        open_sound_shards(corpus.path, lambda _: None)
    (corpus.path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(DataError, match=r"vocab\.txt: ends at offset"):
        open_sound_shards(corpus.path, lambda _: None)


def test_a_link_out_of_the_folder_is_not_followed(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(DOCUMENTS)
    (corpus.path / SHARD).rename(tmp_path / "elsewhere")
    (corpus.path / SHARD).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{SHARD}: is a symbolic link"):
        open_corpus(corpus.path)


def rename_file(name: str) -> Any:
    return lambda values: values["files"].update({name: values["files"].pop(SHARD)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_file("../outside"), r"'\.\./outside' is listed as a file or a shard but not"),
        (rename_file("/etc/passwd"), "'/etc/passwd' is listed"),
        (lambda values: values["files"].pop(SHARD), f"'{SHARD}' is listed"),
        (lambda values: values["shards"]["train"].pop(), "is listed as a file or a shard"),
        (lambda values: values.update(version=2), "is bertsmith-corpus version 2; expected"),
        (lambda values: values.update(format="x"), "is x version 1; expected bertsmith-corpus"),
        (lambda values: values.pop("vocab_size"), "vocab_size: .*required|vocab_size"),
        (lambda values: values["shards"].update(dev=[]), "shards.dev"),
        (lambda values: values["shards"]["train"][0].update(pieces=7), r"expected uint16 \[7\]"),
        (lambda values: values["shards"]["train"][0].update(documents=9), r"expected int64 \[10\]"),
        (lambda values: values.update(vocab_size=100), "holds piece 999; expected less than"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    make_corpus: MakeCorpus, change: Any, message: str
) -> None:
    corpus = make_corpus([*DOCUMENTS, [300]])
    edit(corpus, change)
    with pytest.raises(DataError, match=message):
        open_corpus(corpus.path)


def test_a_manifest_that_is_no_json_is_refused(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(DOCUMENTS)
    path = corpus.path / "corpus.json"
    content = path.read_text()
    for broken in (content[:100], "", "[]", "[" * 100_000, '{"format": 1, "format": 2}'):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"corpus\.json"):
            open_corpus(corpus.path)


def test_what_is_no_corpus_is_missing_input(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(MissingInputError, match="expected a folder that prepare wrote"):
            open_corpus(path)


# ---------------------------------------------------------------------------------- writing


def add_document(writer: CorpusWriter, pieces: int = 2000) -> None:
    ids = np.full(pieces, 7, dtype=np.uint16)
    writer.add(EncodedDocument("train", ids, np.array([pieces], dtype=np.int32)))


def test_nothing_is_left_behind_by_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer,
    ):
        add_document(writer)
        add_document(writer)
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link"):
        with (
            pytest.raises(FolderInUseError, match=f"{name}: exists; choose another"),
            CorpusWriter(tmp_path / name, tokenizer, shard_pieces=1000),
        ):
            pass
    assert (tmp_path / "folder" / "precious").read_text() == "mine"


def test_an_empty_folder_is_replaced(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "out").mkdir()
    with CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer:
        add_document(writer)
        writer.finish({}, text_bytes=1)
    assert open_corpus(tmp_path / "out").total("train").documents == 1


def test_a_place_taken_meanwhile_is_not_lost(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer:
        add_document(writer)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("mine")
        with pytest.raises(FolderInUseError, match="another process has written it"):
            writer.finish({}, text_bytes=1)
    assert contents(tmp_path / "out") == {"precious": b"mine"}
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    child = os.fork()
    if child == 0:
        writer = CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000).__enter__()
        add_document(writer)
        os._exit(0)
    os.waitpid(child, 0)
    assert [path.name.startswith(".tmp-out-") for path in tmp_path.iterdir()] == [True]
    with CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer:
        add_document(writer)
        writer.finish({}, text_bytes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("limit", [100, 1200, 4000])
def test_a_failing_disk_leaves_nothing_behind(
    tmp_path: Path, tokenizer: Tokenizer, limit: int
) -> None:
    # The limit on file sizes makes a real write fail (EFBIG), in the shard or in the vocabulary.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises(StorageError, match=r"cannot be written \(File too large\)"):
                add_document(writer, limit)
                writer.finish({}, text_bytes=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_tells_what_was_needed_and_free(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        pytest.raises(
            StorageError, match=r"No space left.*free on that disk and about 4,000 are needed"
        ),
        CorpusWriter(tmp_path / "out", tokenizer, shard_pieces=1000) as writer,
    ):
        monkeypatch.setattr(os, "fsync", full)
        add_document(writer)
    assert list(tmp_path.iterdir()) == []
