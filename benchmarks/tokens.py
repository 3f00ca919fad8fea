"""How fast text is cut into pieces, and whether the pieces are those of `tokenizers`.

    python benchmarks/tokens.py                 # speed, one thread each, interleaved: two minutes
    python benchmarks/tokens.py --agreement     # all real text, three published vocabularies

Speed is that of one pass over the lines of `--text`, from an empty memo each time, beside
`encode_batch_fast` in batches of 10,000 lines; "seen" is a second pass with the memo of the first.
Two processes share the files between them; the scaling is their speed over that of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # read when tokenizers is loaded
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from bertsmith.config import CasingConfig
from bertsmith.text.wordpiece import Tokenizer, Vocabulary

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PUBLISHED = {
    "bert-base-uncased-vocab.txt": CasingConfig(),
    "bert-base-cased-vocab.txt": CasingConfig(do_lower_case=False),
    "bert-base-chinese-vocab.txt": CasingConfig(),
}
COMPARED = ("pretrain-en", "pretrain-zh", "glue", "disaster-tweets")
BATCH = 10_000


def lines_of(paths: list[Path]) -> list[str]:
    """Returns the lines of files; bytes that are not UTF-8 become replacement characters."""
    return [
        line
        for path in paths
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n")
    ]


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def reference(vocabulary: Vocabulary, casing: CasingConfig) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(
        WordPiece(vocabulary.ids, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = BertNormalizer(lowercase=casing.do_lower_case)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def batches(lines: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(lines), BATCH):
        yield lines[start : start + BATCH]


def encode_batches(tokenizer: tokenizers.Tokenizer, lines: list[str]) -> None:
    for batch in batches(lines):
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Returns the processor time of `work`, which has one thread; what else runs counts little."""
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def encode_share(paths: list[Path], vocabulary: Path, start: float) -> float:
    """Returns when this process was done with its files; it begins at the time `start`."""
    lines = lines_of(paths)
    tokenizer = Tokenizer(Vocabulary.read(vocabulary), CasingConfig())
    late = time.time() - start
    if late > 0:
        raise SystemExit(f"the processes began {late:.1f} s late: give --wait more seconds")
    time.sleep(-late)
    tokenizer.encode_many(lines)
    return time.time()


def scaling(paths: list[Path], vocabulary: Path, rounds: int, wait: float) -> float:
    """Returns how many times as fast two processes are as one, on the same files."""
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in took:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                start = time.time() + wait
                shares = [paths[worker::workers] for worker in range(workers)]
                runs = [pool.submit(encode_share, share, vocabulary, start) for share in shares]
                took[workers].append(max(run.result() for run in runs) - start)
    return median(took[1]) / median(took[2])


def speed(paths: list[Path], vocabulary: Path, rounds: int, wait: float) -> dict[str, Any]:
    """Returns megabytes a second of both, and their ratio in each round."""
    lines = lines_of(paths)
    megabytes = sum(len(line.encode("utf-8")) + 1 for line in lines) / 1e6
    theirs = reference(Vocabulary.read(vocabulary), CasingConfig())
    rows: dict[str, list[float]] = {"ours": [], "seen": [], "tokenizers": [], "ratio": []}
    for _ in range(rounds):
        ours = Tokenizer(Vocabulary.read(vocabulary), CasingConfig())
        rows["ours"].append(megabytes / seconds(ours.encode_many, lines))
        rows["seen"].append(megabytes / seconds(ours.encode_many, lines))
        rows["tokenizers"].append(megabytes / seconds(encode_batches, theirs, lines))
        rows["ratio"].append(rows["ours"][-1] / rows["tokenizers"][-1])
    result: dict[str, Any] = {name: round(median(row), 2) for name, row in rows.items()}
    result["ratios"] = [round(ratio, 2) for ratio in rows["ratio"]]
    return {
        "megabytes": round(megabytes, 1),
        **result,
        "two_processes": round(scaling(paths, vocabulary, rounds, wait), 2),
    }


def agreement(shared: Path) -> list[dict[str, Any]]:
    """Returns, for each folder and vocabulary, how many texts were compared and how many differ."""
    rows = []
    for name, casing in PUBLISHED.items():
        vocabulary = Vocabulary.read(shared / "bert-vocab" / name)
        ours, theirs = Tokenizer(vocabulary, casing), reference(vocabulary, casing)
        for folder in COMPARED:
            lines = lines_of(files_under(shared / folder))
            pieces = differing = 0
            for batch in batches(lines):
                ids, starts = ours.encode_many(batch)
                pieces += len(ids)
                encoded = theirs.encode_batch_fast(batch, add_special_tokens=False)
                differing += sum(
                    ids[starts[i] : starts[i + 1]].tolist() != encoding.ids
                    for i, encoding in enumerate(encoded)
                )
            rows.append(
                {
                    "vocabulary": name,
                    "folder": folder,
                    "texts": len(lines),
                    "pieces": pieces,
                    "differing": differing,
                }
            )
            print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, default=SHARED / "pretrain-en" / "wikipedia")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument(
        "--vocabulary", type=Path, default=SHARED / "bert-vocab" / "bert-base-uncased-vocab.txt"
    )
    parser.add_argument("--files", type=int, help="read only so many files")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wait", type=float, default=8.0, help="seconds for processes to start")
    parser.add_argument("--agreement", action="store_true", help="compare pieces, not speed")
    arguments = parser.parse_args()
    if arguments.agreement:
        print(json.dumps({"agreement": agreement(arguments.shared)}))
        return
    paths = files_under(arguments.text)[: arguments.files]
    result = speed(paths, arguments.vocabulary, arguments.rounds, arguments.wait)
    print(f"ours, empty memo   {result['ours']:8.2f} MB/s")
    print(f"ours, all seen     {result['seen']:8.2f} MB/s")
    print(f"encode_batch_fast  {result['tokenizers']:8.2f} MB/s")
    print(f"ratio              {result['ratio']:8.2f}")
    print(f"two processes      {result['two_processes']:8.2f} times one")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
