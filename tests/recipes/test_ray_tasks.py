"""A vocabulary and a corpus made on a cluster have the bytes of those made here.

Each test runs with Ray where it is installed. Elsewhere a stand-in shows that the work is cut, sent
and put together rightly; what it cannot show is said in `standing_in.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.recipes.pretraining.standing_in import RayError, StandIn
from tests.recipes.toy_text import write_text

from bertsmith.config import (
    CorpusConfig,
    EngineConfig,
    FilterConfig,
    PrepareConfig,
    VocabConfig,
)
from bertsmith.data import files as files_module
from bertsmith.data.shards import open_corpus
from bertsmith.errors import BertsmithError, ConfigError, DataError, MissingInputError
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.ray_tasks import map_parts
from bertsmith.recipes.vocabulary import learn
from bertsmith.text import learn as learn_module
from bertsmith.text.tokenizer_files import read_tokenizer

RAY = EngineConfig(engine="ray")
IS_INSTALLED = importlib.util.find_spec("ray") is not None


@pytest.fixture(
    params=[
        "stand-in",
        pytest.param("ray", marks=pytest.mark.skipif(not IS_INSTALLED, reason="needs Ray")),
    ]
)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yields Ray, or what stands in for it."""
    if request.param == "stand-in":
        stand_in = StandIn()
        monkeypatch.setitem(sys.modules, "ray", stand_in)
        yield stand_in
    else:
        import ray

        ray.init(num_cpus=2, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder of seven files, each a task of its own."""
    monkeypatch.setattr(files_module, "PART_BYTES", 1)
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(7):
        write_text(folder / f"{number}.txt", 30, seed=number)
    (folder / "empty.txt").write_text("\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("names", [None, "repeated", "near-empty,repeated,wrong-language"])
def test_a_corpus_has_the_same_bytes(
    names: str | None, engine: Any, text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    made = []
    for name, config in (("here", EngineConfig()), ("ray", RAY)):
        result = prepare(
            [str(text)],
            read_tokenizer(toy_vocabulary),
            tmp_path / name,
            CorpusConfig(language="en"),
            PrepareConfig(workers=1, held_out=0.1, shard_pieces=1000),
            filters=FilterConfig(filters=names, min_line_words=9, min_document_words=10),
            engine=config,
        )
        filtered = result.get("filtered")
        made.append((contents(tmp_path / name), result["tokens"], filtered))
    assert made[0] == made[1]
    if filtered:
        assert filtered["repeated"]["lines"] > 0
    else:
        assert len(open_corpus(tmp_path / "ray").shards("train")) > 1


@pytest.mark.parametrize("most_words", [2_000_000, 40])
def test_a_vocabulary_has_the_same_bytes(
    most_words: int,
    engine: Any,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where rare words were forgotten on the way."""
    monkeypatch.setattr(learn_module, "MOST_WORDS", most_words)
    for name, config in (("here", EngineConfig()), ("ray", RAY)):
        learn(
            [str(text)],
            tmp_path / name,
            VocabConfig(size=60),
            CorpusConfig(),
            workers=1,
            engine=config,
        )
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")


def test_each_file_is_a_task(
    text: Path, toy_vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    prepare(
        [str(text)],
        read_tokenizer(toy_vocabulary),
        tmp_path / "out",
        CorpusConfig(),
        PrepareConfig(),
        engine=RAY,
    )
    assert stand_in.tasks == 8


def test_what_a_task_raises_is_raised_here(
    engine: Any, text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    (text / "3.txt").write_bytes(b"the cat \xff")
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"3\.txt: byte 0xff at offset 8 is not utf-8"):
        prepare(
            [str(text)],
            read_tokenizer(toy_vocabulary),
            tmp_path / "out",
            CorpusConfig(),
            PrepareConfig(),
            engine=RAY,
        )
    assert set(tmp_path.iterdir()) == before


def test_no_text_and_settings_that_cannot_be_are_refused(
    engine: Any, toy_vocabulary: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("\n")
    arguments = ([str(tmp_path / "a.txt")], read_tokenizer(toy_vocabulary), tmp_path / "out")
    with pytest.raises(DataError, match="the corpus holds no text"):
        prepare(*arguments, CorpusConfig(), PrepareConfig(), engine=RAY)
    with pytest.raises(ConfigError, match="expected --language en"):
        prepare(
            *arguments,
            CorpusConfig(),
            PrepareConfig(),
            filters=FilterConfig(filters="wrong-language"),
            engine=RAY,
        )


def lost(part: list[int]) -> Iterator[int]:
    yield from part
    raise RayError("the node is gone")


def test_a_lost_or_silent_task_is_told_with_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    parts = [[1, 2], [3], [4], [5]]
    with pytest.raises(BertsmithError, match=r"^part 1: a task of Ray was lost \(the node is gone"):
        list(map_parts(lost, parts, lambda part: f"part {part[0]}", 5.0))
    assert stand_in.cancelled == 2  # both that were begun
    stand_in.ready = False
    with pytest.raises(BertsmithError, match=r"^part 1: a task of Ray gave nothing for 5 seconds"):
        list(map_parts(lost, parts, lambda part: f"part {part[0]}", 5.0))


@pytest.mark.skipif(IS_INSTALLED, reason="Ray is installed")
def test_without_ray_the_engine_says_what_to_install(
    text: Path, toy_vocabulary: Path, tmp_path: Path
) -> None:
    message = r"engine is ray, which is not installed; pip install 'bertsmith\[ray\]'"
    tokenizer = read_tokenizer(toy_vocabulary)
    sources = [str(text)]
    with pytest.raises(MissingInputError, match=message):
        prepare(sources, tokenizer, tmp_path / "out", CorpusConfig(), PrepareConfig(), engine=RAY)
    with pytest.raises(MissingInputError, match=message):
        learn(sources, tmp_path / "vocab", VocabConfig(), CorpusConfig(), engine=RAY)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_small_files_are_worked_on_together(tmp_path: Path) -> None:
    sizes = np.array([1, 2, 5_000_000, 3, 4_000_000, 200_000, 10])
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * size)
    found = files_module.in_parts(files_module.find_files([str(tmp_path)]))
    assert [[file.size() for file in part] for part in found] == [
        [1, 2],
        [5_000_000],
        [3, 4_000_000],
        [200_000, 10],
    ]
