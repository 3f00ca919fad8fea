"""A vocabulary from text files: the same for any number of workers, whatever stands in them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.recipes.toy_text import write_text

from bertsmith.config import CorpusConfig, VocabConfig
from bertsmith.data import blocks
from bertsmith.errors import ConfigError, DataError
from bertsmith.recipes.vocabulary import learn


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_worker_and_two_learn_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CHARACTERS", 2000)
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", 60, seed=number)
    sources = [str(tmp_path / "*.txt")]
    results = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        result = learn(sources, out, VocabConfig(size=80), CorpusConfig(), workers)
        results.append((contents(out), result["sha256"], result["words"], result["measured_on"]))
    assert results[0] == results[1]
    assert results[0][3] == "held_out"


def test_a_line_without_an_end_takes_little_time(tmp_path: Path) -> None:
    """Ten million characters without a space are no word, and the others are learnt."""
    write_text(tmp_path / "a.txt", 60)
    (tmp_path / "b.txt").write_text("x" * 10_000_000 + "\n" + "." * 1_000_000)
    started = time.process_time()
    learn([str(tmp_path)], tmp_path / "both", VocabConfig(size=60), CorpusConfig(), 1)
    assert time.process_time() - started < 10
    pieces = (tmp_path / "both" / "vocab.txt").read_text().splitlines()
    assert "the" in pieces
    assert not any("xx" in piece for piece in pieces)


def test_corpora_that_give_no_vocabulary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"empty\.txt: the corpus holds no text"):
        learn([str(tmp_path / "empty.txt")], tmp_path / "out", VocabConfig(), CorpusConfig())
    text = write_text(tmp_path / "a.txt", 20)
    with pytest.raises(ConfigError, match="alphabet|characters"):
        learn([str(text)], tmp_path / "out", VocabConfig(size=20), CorpusConfig())
    text.write_bytes(b"\xff\xfe" + "caf\u00e9".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"a\.txt: .* offset .* utf-16"):
        learn([str(text)], tmp_path / "out", VocabConfig(), CorpusConfig())
    assert not (tmp_path / "out").exists()
