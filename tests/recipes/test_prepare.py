"""Preparing a corpus: the same bytes for any number of workers, whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bertsmith.config import CasingConfig, CorpusConfig, EngineConfig, PrepareConfig
from bertsmith.data.shards import open_corpus
from bertsmith.errors import BertsmithError, ConfigError, DataError, FolderInUseError
from bertsmith.recipes.prepare import prepare
from bertsmith.text.wordpiece import SPECIAL_PIECES, Tokenizer, Vocabulary

WORDS = [f"{first}{second}" for first in "bdfgklmnprstvz" for second in "aeiou"]
PAIRS = [first + second for first in WORDS for second in WORDS]  # the words of the text
DOCUMENTS = 600


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Returns a tokenizer that cuts each word of the text in two."""
    pieces = [*SPECIAL_PIECES, ".", *WORDS, *(f"##{word}" for word in WORDS)]
    return Tokenizer(Vocabulary(pieces), CasingConfig())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of about five megabytes in two files: three blocks of work."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("text")
    for name in ("a.txt", "b.txt"):
        documents = []
        for _ in range(DOCUMENTS // 2):
            words = rng.choice(PAIRS, size=1700)
            sentences = [" ".join(words[at : at + 17]).capitalize() for at in range(0, 1700, 17)]
            documents.append(".\n".join(sentences) + ".\n")
        (folder / name).write_text("\n".join(documents))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(text: Path, tokenizer: Tokenizer, out: Path, **settings: object) -> dict[str, object]:
    config = PrepareConfig(**{"shard_pieces": 500_000, "held_out": 0.02} | settings)  # type: ignore[arg-type]
    return prepare([str(text)], tokenizer, out, CorpusConfig(), config)


def test_a_worker_s_time_is_a_duration() -> None:
    assert EngineConfig(worker_timeout="1.5m").timeout_seconds == 90
    with pytest.raises(ConfigError, match="worker_timeout is '90'; expected a duration such as"):
        EngineConfig(worker_timeout="90")


def test_a_worker_that_hangs_is_told_with_its_text_and_nothing_is_left(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    message = r"[ab]\.txt:\d+: worker process \d+ had not done its work after 0\.001 seconds"
    with pytest.raises(BertsmithError, match=message):  # none is that fast
        prepare(
            [str(text)],
            tokenizer,
            tmp_path / "out",
            CorpusConfig(),
            PrepareConfig(workers=2),
            engine=EngineConfig(worker_timeout="0.001s"),
        )
    assert list(tmp_path.iterdir()) == []


def test_one_worker_and_two_write_the_same_bytes(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    done: list[int] = []
    one = run(text, tokenizer, tmp_path / "one", workers=1)
    two = prepare(
        [str(text)],
        tokenizer,
        tmp_path / "two",
        CorpusConfig(),
        PrepareConfig(workers=2, shard_pieces=500_000, held_out=0.02),
        on_progress=done.append,
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    varying = {"seconds", "peak_rss_mb", "parent_peak_rss_mb", "out"}
    assert {name: value for name, value in one.items() if name not in varying} == {
        name: value for name, value in two.items() if name not in varying
    }
    assert len(done) >= 3
    assert done == sorted(done)
    assert done[-1] == two["bytes"]


def test_the_report_counts_what_is_on_disk(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    report = run(text, tokenizer, tmp_path / "out", workers=1)
    corpus = open_corpus(tmp_path / "out")
    train, held_out = corpus.total("train"), corpus.total("held_out")
    assert report["documents"] == DOCUMENTS == train.documents + held_out.documents
    assert report["sentences"] == DOCUMENTS * 100
    assert report["tokens"] == DOCUMENTS * 100 * (2 * 17 + 1) == train.pieces + held_out.pieces
    assert report["held_out_documents"] == held_out.documents > 0
    assert report["held_out_tokens"] == held_out.pieces
    size = sum(len(path.read_bytes()) for path in text.iterdir())
    assert (
        size - int(str(report["bytes"])) < 2 * DOCUMENTS
    )  # but for the blank lines between documents
    assert report["out"] == str(tmp_path / "out")
    assert float(str(report["peak_rss_mb"])) > 10
    assert 0 < float(str(report["seconds"])) < 300
    assert len(corpus.shards("train")) > 2
    shard = corpus.open_shard("train", 0)
    words = tokenizer.decode(shard.pieces[:34].tolist())
    first = (text / "a.txt").read_text().split(".", 1)[0]
    assert words == first.lower()


def test_the_same_corpus_is_kept_and_another_is_refused(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (small / "a.txt").write_text("baba dede. Fifi.\n\ngogo.\n" * 50)
    out = tmp_path / "out"
    first = run(small, tokenizer, out)
    before = contents(out)
    again = run(small, tokenizer, out, workers=1)
    assert (first["reused"], again["reused"]) == (False, True)
    assert again["tokens"] == first["tokens"]
    assert contents(out) == before
    with pytest.raises(FolderInUseError, match=r"out: holds a corpus made otherwise .*: prepare\)"):
        run(small, tokenizer, out, held_out=0.5)
    with pytest.raises(FolderInUseError, match=r"differs: tokenizer\)"):
        run(small, Tokenizer(tokenizer.vocabulary, CasingConfig(do_lower_case=False)), out)
    with (small / "a.txt").open("a") as more:
        more.write("mama.\n")
    with pytest.raises(FolderInUseError, match=r"differs: files_sha256\)"):
        run(small, tokenizer, out)
    assert contents(out) == before


def test_bad_text_leaves_nothing_behind(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"baba. " * 100 + b"\xff")
    with pytest.raises(DataError, match=r"a\.txt: byte 0xff at offset 600"):
        run(tmp_path / "a.txt", tokenizer, tmp_path / "out")
    (tmp_path / "b.txt").write_text("\u200b\n")
    with pytest.raises(DataError, match="none of 0 documents with text is left for training"):
        run(tmp_path / "b.txt", tokenizer, tmp_path / "out")
    (tmp_path / "c.txt").write_text("baba\n")
    with pytest.raises(DataError, match="none of 1 documents.*smaller --held-out than 0.99999"):
        run(tmp_path / "c.txt", tokenizer, tmp_path / "out", held_out=0.99999)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]


SCRIPT = """
import signal
import sys
from pathlib import Path
from bertsmith.config import CasingConfig, CorpusConfig, PrepareConfig
from bertsmith.recipes.prepare import prepare
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    tokenizer = Tokenizer(Vocabulary.read(Path(sys.argv[2])), CasingConfig())
    config = PrepareConfig(workers=2)
    report = lambda done: print(done, flush=True)
    sources = [sys.argv[1]] * 40
    prepare(sources, tokenizer, Path(sys.argv[3]), CorpusConfig(), config, on_progress=report)
"""


def started(text: Path, tokenizer: Tokenizer, folder: Path) -> subprocess.Popen[str]:
    """Returns a process that is preparing a long corpus, once its first block is done."""
    (folder / "script.py").write_text(SCRIPT)
    tokenizer.vocabulary.write(folder / "vocab.txt")
    command = [sys.executable, "script.py", str(text), "vocab.txt", "out"]
    source = str(Path(__file__).resolve().parents[2] / "src")
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 0
    return process


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


def is_gone(process: int, *, within_seconds: float) -> bool:
    until = time.monotonic() + within_seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
    return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_ctrl_c_leaves_nothing_half_written(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    process = started(text, tokenizer, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "vocab.txt"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_killed_worker_is_told_and_nothing_is_left(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    process = started(text, tokenizer, tmp_path)
    workers = [
        child
        for child in children(process.pid)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    told = rf"BertsmithError: .*[ab]\.txt:\d+: worker process {workers[-1]} ended .* by SIGKILL"
    assert re.search(told, errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "vocab.txt"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(
    text: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    process = started(text, tokenizer, tmp_path)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.communicate(timeout=60)
    assert all(is_gone(worker, within_seconds=30) for worker in workers)
