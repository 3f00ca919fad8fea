"""How fast a corpus is prepared, and in how much memory, at several sizes.

    python benchmarks/prepare.py --text ../shared/data/pretrain-en/wikipedia

Each run is a process of its own, from an empty memo. Memory is the peak of the parent and the sum
of all processes' peaks; it must not grow with the corpus. Seconds of the processor are those of all
processes: on idle cores, divided by the workers, they are what the clock shows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def first_megabytes(folder: Path, megabytes: float) -> list[str]:
    """Returns the first files of `folder`, in order of name, that come to so many megabytes."""
    chosen: list[str] = []
    total = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if total >= megabytes * 1e6:
            break
        chosen.append(str(path))
        total += path.stat().st_size
    return chosen


def run_alone(sources: list[str], vocabulary: Path, workers: int) -> dict[str, Any]:
    """Returns the report of `prepare` in a fresh process, and the processor's seconds."""
    request = json.dumps({"sources": sources, "vocabulary": str(vocabulary), "workers": workers})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    done = subprocess.run(
        [sys.executable, __file__, "--run"], input=request, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"cpu_seconds": round(used.ru_utime + used.ru_stime - before, 2)}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the report of `prepare` in this process."""
    from bertsmith.config import CasingConfig, CorpusConfig, PrepareConfig
    from bertsmith.recipes.prepare import prepare
    from bertsmith.text.wordpiece import Tokenizer, Vocabulary

    tokenizer = Tokenizer(Vocabulary.read(Path(request["vocabulary"])), CasingConfig())
    config = PrepareConfig(workers=request["workers"])
    with tempfile.TemporaryDirectory() as folder:
        return prepare(
            request["sources"], tokenizer, Path(folder) / "corpus", CorpusConfig(), config
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text", type=Path, default=SHARED / "pretrain-en" / "wikipedia")
    vocabulary_path = SHARED / "bert-vocab" / "bert-base-uncased-vocab.txt"
    parser.add_argument("--vocab", type=Path, default=vocabulary_path)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10, 40, 80])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(json.loads(sys.stdin.read()))))
        return
    rows = []
    print(
        f"{'MB':>6}{'workers':>9}{'seconds':>9}{'CPU s':>7}"
        f"{'MB/s':>7}{'parent MB':>11}{'all MB':>8}"
    )
    for megabytes in given.megabytes:
        for workers in given.workers:
            report = run_alone(first_megabytes(given.text, megabytes), given.vocab, workers)
            size, seconds = report["bytes"] / 1e6, report["seconds"]
            speed = size / seconds
            peaks = report["parent_peak_rss_mb"], report["peak_rss_mb"]
            print(
                f"{size:6.1f}{workers:9}{seconds:9.1f}{report['cpu_seconds']:7.1f}{speed:7.2f}"
                f"{peaks[0]:11.0f}{peaks[1]:8.0f}",
                flush=True,
            )
            rows.append(
                {"workers": workers, "megabytes_per_second": round(speed, 2), **report, "out": ""}
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
