"""How fast a vocabulary is learnt, in how much memory, and how it cuts other text.

    python benchmarks/vocabulary.py                 # 30,522 pieces from 40 MB, two processes
    python benchmarks/vocabulary.py --algorithm bpe --workers 1

`bertsmith vocab` runs in a process of its own; memory is its peak and the sum with its workers'
largest. `tokenizers`' WordPieceTrainer, which ranks pairs by frequency, learns from the same lines
beside it, with as many threads. Pieces per word are those of the last files, which neither saw.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def learn_ours(request: dict[str, Any]) -> dict[str, Any]:
    """Returns what `bertsmith vocab` reports, and the peak memory of this process."""
    from bertsmith.config import CorpusConfig, VocabConfig
    from bertsmith.recipes.vocabulary import learn

    config = VocabConfig(size=request["size"], algorithm=request["algorithm"])
    out = Path(request["out"])
    report = learn(request["files"], out, config, CorpusConfig(), request["workers"])
    return {"seconds": report["seconds"], "sha256": report["sha256"], **_peaks()}


def learn_theirs(request: dict[str, Any]) -> dict[str, Any]:
    """Returns how long the trainer of `tokenizers` takes for the same, and writes its pieces."""
    os.environ["RAYON_NUM_THREADS"] = str(request["workers"])
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(
        vocab_size=request["size"], min_frequency=2, special_tokens=special, show_progress=False
    )
    begun = time.monotonic()
    tokenizer.train_from_iterator(lines_of(request["files"]), trainer)
    seconds = time.monotonic() - begun
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    out = Path(request["out"])
    out.mkdir()
    content = "".join(f"{piece}\n" for piece, _ in pieces)
    (out / "vocab.txt").write_text(content, encoding="utf-8")
    return {"seconds": round(seconds, 3), **_peaks()}


def _peaks() -> dict[str, float]:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    return {"peak_mb": round(own), "largest_worker_mb": round(workers)}


def lines_of(files: list[str]) -> Iterator[str]:
    for file in files:
        yield from Path(file).read_text(encoding="utf-8").split("\n")


def run_alone(which: str, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the report of one learner in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--run", which],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def fit(vocabulary: Path, held_out: list[str]) -> dict[str, float]:
    """Returns pieces per word and the share of [UNK] on text that was not learnt from."""
    from bertsmith.config import CasingConfig
    from bertsmith.text.learn import count_words, measure_fit
    from bertsmith.text.wordpiece import Tokenizer, Vocabulary

    tokenizer = Tokenizer(Vocabulary.read(vocabulary), CasingConfig())
    measured = measure_fit(tokenizer, count_words(lines_of(held_out), tokenizer.normalizer))
    return {
        "pieces_per_word": round(measured.pieces_per_word, 4),
        "unk_rate": round(measured.unk_rate, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, default=SHARED / "pretrain-en" / "wikipedia")
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--size", type=int, default=30522)
    parser.add_argument("--algorithm", choices=["wordpiece", "bpe"], default="wordpiece")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--run", choices=["ours", "tokenizers"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        learn = learn_ours if arguments.run == "ours" else learn_theirs
        print(json.dumps(learn(json.load(sys.stdin))))
        return
    files, total = [], 0.0
    paths = sorted(path for path in arguments.text.rglob("*") if path.is_file())
    for path in paths:
        if total < arguments.megabytes * 1e6:
            files.append(str(path))
            total += path.stat().st_size
    held_out = [str(path) for path in paths[-5:] if str(path) not in files]
    results = {}
    for which in ("ours", "tokenizers"):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "vocabulary"
            request = {
                "files": files,
                "size": arguments.size,
                "algorithm": arguments.algorithm,
                "workers": arguments.workers,
                "out": str(out),
            }
            results[which] = run_alone(which, request)
            if held_out:
                results[which] |= fit(out / "vocab.txt", held_out)
        print(f"{which:12}", *(f"{name}={value}" for name, value in results[which].items()))
    print(json.dumps({"megabytes": round(total / 1e6, 1), **results}))


if __name__ == "__main__":
    main()
