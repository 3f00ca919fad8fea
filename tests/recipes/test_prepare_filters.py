"""Filters as steps of preparing: counted, alike for any number of workers, off by default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.recipes.toy_text import write_text

from bertsmith.config import CorpusConfig, FilterConfig, PrepareConfig
from bertsmith.data import blocks
from bertsmith.data.corpus import read_documents
from bertsmith.data.shards import open_corpus
from bertsmith.errors import DataError, FolderInUseError
from bertsmith.recipes.prepare import prepare
from bertsmith.text.tokenizer_files import read_tokenizer

ALL = FilterConfig(filters="near-empty,repeated,wrong-language", min_line_words=9)
FOREIGN = "Ein Satz in der Sprache der Nachbarn, so lang wie er sein muss."


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a text of many blocks of work with short, repeated and foreign lines."""
    monkeypatch.setattr(blocks, "BLOCK_CHARACTERS", 2000)
    path = write_text(tmp_path / "text.txt", 100)
    documents = path.read_text().split("\n\n")
    for number in range(0, len(documents), 7):
        documents[number] += f"\n{FOREIGN[: 20 + number]}\nHome\n{FOREIGN}"
    path.write_text("\n\n".join([*documents, "Menu", documents[0]]) + "\n")
    return path


def run(text: Path, vocabulary: Path, out: Path, **settings: object) -> dict[str, object]:
    return prepare(
        [str(text)],
        read_tokenizer(vocabulary),
        out,
        CorpusConfig(language="en"),
        PrepareConfig(workers=int(str(settings.pop("workers", 1))), held_out=0.1),
        **settings,  # type: ignore[arg-type]
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_worker_and_two_filter_alike(text: Path, toy_vocabulary: Path, tmp_path: Path) -> None:
    one = run(text, toy_vocabulary, tmp_path / "one", filters=ALL)
    two = run(text, toy_vocabulary, tmp_path / "two", filters=ALL, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one["filtered"] == two["filtered"]


def test_what_was_taken_is_counted_and_kept(
    text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    result = run(text, toy_vocabulary, tmp_path / "out", filters=ALL)
    whole = run(text, toy_vocabulary, tmp_path / "whole")
    filtered = result["filtered"]
    assert isinstance(filtered, dict)
    assert list(filtered) == list(ALL.names)
    assert all(counts["lines"] > 0 for counts in filtered.values())
    taken = {name: sum(counts[name] for counts in filtered.values()) for name in ("documents",)}
    taken["bytes"] = sum(counts["bytes"] for counts in filtered.values())
    assert int(str(result["documents"])) == int(str(whole["documents"])) - taken["documents"]
    assert int(str(result["bytes"])) == int(str(whole["bytes"])) - taken["bytes"]
    manifest = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert manifest["filtered"] == filtered
    assert manifest["origin"]["filters"]["filters"] == ALL.filters
    assert open_corpus(tmp_path / "out").manifest.filtered == filtered


def test_repeats_are_counted_as_by_hand(text: Path, toy_vocabulary: Path, tmp_path: Path) -> None:
    lines = [
        line.lower()
        for document in read_documents([str(text)], CorpusConfig())
        for line in document.paragraphs
    ]
    result = run(
        text, toy_vocabulary, tmp_path / "out", filters=FilterConfig(filters="repeated"), workers=2
    )
    filtered = result["filtered"]
    assert isinstance(filtered, dict)
    assert filtered["repeated"]["lines"] == len(lines) - len(set(lines)) > 0


def test_without_filters_the_corpus_tells_nothing_of_them(
    text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    result = run(text, toy_vocabulary, tmp_path / "plain")
    run(text, toy_vocabulary, tmp_path / "off", filters=FilterConfig(min_line_words=9))
    assert contents(tmp_path / "plain") == contents(tmp_path / "off")
    assert "filtered" not in result
    manifest = json.loads((tmp_path / "plain" / "corpus.json").read_text())
    assert "filtered" not in manifest
    assert "filters" not in manifest["origin"]


def test_a_corpus_filtered_otherwise_is_another(
    text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    first = run(text, toy_vocabulary, tmp_path / "out", filters=ALL)
    again = run(text, toy_vocabulary, tmp_path / "out", filters=ALL)
    assert again["reused"]
    assert again["filtered"] == first["filtered"]
    for filters in (FilterConfig(), FilterConfig(filters="repeated")):
        with pytest.raises(FolderInUseError, match=r"what differs: filters\)"):
            run(text, toy_vocabulary, tmp_path / "out", filters=filters)


def test_filters_that_leave_nothing_are_told(
    text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    all_short = FilterConfig(filters="near-empty", min_line_words=1000)
    with pytest.raises(DataError, match="none of 0 documents with text is left for training"):
        run(text, toy_vocabulary, tmp_path / "out", filters=all_short)
    assert not (tmp_path / "out").exists()


def test_documents_stay_on_their_side_as_a_corpus_grows(
    toy_vocabulary: Path, tmp_path: Path
) -> None:
    """What is held out of a small corpus is held out of a larger one that holds it, too."""
    held_out = []
    for documents in (60, 200):
        text = write_text(tmp_path / f"{documents}.txt", documents)
        out = tmp_path / f"corpus{documents}"
        prepare(
            [str(text)],
            read_tokenizer(toy_vocabulary),
            out,
            CorpusConfig(),
            PrepareConfig(workers=1, held_out=0.2),
        )
        shard = open_corpus(out).open_shard("held_out", 0)
        starts = shard.sentence_starts[shard.document_starts]
        borders = zip(starts, starts[1:], strict=False)
        held_out.append([shard.pieces[begin:end].tolist() for begin, end in borders])
    small, large = held_out
    assert small == large[: len(small)]
    assert len(large) > len(small) > 3
