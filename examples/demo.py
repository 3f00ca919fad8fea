"""The main job, end to end, on text that every Python installation has.

The corpus is the language reference and the docstrings of the standard library, about 2 MB, read
from the files of the running interpreter. From it come a vocabulary, a small encoder pre-trained
for three minutes, filled masks, and a classifier that tells from a docstring which library it
belongs to: fine-tuned twice, from the pre-trained weights and from random ones. The docstrings
that the classifiers are tested on are kept out of the corpus.

    python examples/demo.py --out demo

takes under eight minutes on two cores and leaves demo/report.html.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import random
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_report import write_report

LIBRARIES = 8  # classes: the libraries with the most docstrings
SHORTEST = 40  # characters; a shorter docstring says too little to tell its library
TEST_SHARE = 0.25
MASKED = (
    "Return a [MASK] of the given list.",
    "If the file does not [MASK], an error is raised.",
    "The value must be an integer or a [MASK].",
    "This method is called when the [MASK] is closed.",
)


def main() -> int:
    """Runs the demonstration; returns 0, or the status of the command that failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--budget", default="3m", help="time to pre-train for")
    arguments = parser.parse_args()
    out: Path = arguments.out
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    sizes = write_corpus(out)
    print(
        f"corpus: {sizes['characters'] / 1e6:.1f} MB of documentation; "
        f"labelled docstrings: {sizes['train']} to train on, {sizes['test']} to test on",
        file=sys.stderr,
    )
    try:
        story = run_commands(out, arguments.budget)
    except subprocess.CalledProcessError as error:
        return error.returncode
    story["sizes"] = sizes
    story["seconds"] = time.monotonic() - started
    report = out / "report.html"
    write_report(report, out, story)
    scores = {name: story[name]["scores"]["accuracy"] for name in ("pretrained", "random")}
    print(f"accuracy on {sizes['test']} docstrings never seen, {LIBRARIES} libraries:")
    print(f"  from the pre-trained weights  {scores['pretrained']:.1%}")
    print(f"  from random weights           {scores['random']:.1%}")
    print(f"done in {story['seconds'] / 60:.1f} minutes; open {report}")
    return 0


def run_commands(out: Path, budget: str) -> dict[str, Any]:
    """Runs the commands as a user would type them; returns each one's result by name."""
    commands: list[str] = []

    def bertsmith(*words: str) -> Any:
        commands.append(shlex.join(["bertsmith", *words]))
        print(f"\n$ {commands[-1]}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "bertsmith", *words, "--json"],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return json.loads(done.stdout)

    corpus, vocabulary, run = f"{out}/corpus.txt", f"{out}/vocabulary", f"{out}/run"
    for stale in ("vocabulary", "run", "pretrained", "random"):
        _remove(out / stale)
    story: dict[str, Any] = {"commands": commands}
    story["vocabulary"] = bertsmith("vocab", corpus, "--out", vocabulary, "--size", "2000")
    story["pretraining"] = bertsmith(
        *("pretrain", corpus, "--out", run, "--vocab", vocabulary, "--budget", budget),
        *("--size", "tiny", "--sequence-length", "64", "--long-sequence-share", "0"),
        *("--tokens-per-batch", "1024", "--learning-rate", "1e-3", "--warmup", "0.02"),
        *("--bias-correction", "--dropout", "0", "--masked-lm-prob", "0.4"),
        *("--initialization", "directed"),
        *("--held-out", "0.03", "--evaluate-every", "250"),
    )
    story["filled"] = [
        (text, bertsmith("fill", f"{run}/model", text, "--top", "4")["predictions"])
        for text in MASKED
    ]
    for name, weights in (("pretrained", []), ("random", ["--random-weights"])):
        story[name] = bertsmith(
            *("finetune", "classify", f"{out}/train.csv", "--dev", f"{out}/test.csv"),
            *("--model", f"{run}/model", "--out", f"{out}/{name}", *weights),
            *("--epochs", "4", "--max-length", "64", "--learning-rate", "5e-4"),
        )
    return story


def write_corpus(out: Path) -> dict[str, int]:
    """Writes corpus.txt, train.csv and test.csv to `out`; returns their sizes."""
    from pydoc_data import topics

    by_library: dict[str, list[str]] = defaultdict(list)
    for library, docstring in docstrings():
        by_library[library].append(docstring)
    labelled = sorted(
        by_library,
        key=lambda name: -sum(len(text) >= SHORTEST for text in by_library[name]),
    )[:LIBRARIES]
    rng = random.Random(0)
    train, test = [], set()
    for library in sorted(labelled):
        texts = sorted({text for text in by_library[library] if len(text) >= SHORTEST})
        rng.shuffle(texts)
        cut = int(len(texts) * TEST_SHARE)
        test |= {(library, " ".join(text.split())) for text in texts[:cut]}
        train += [(library, " ".join(text.split())) for text in texts[cut:]]
    unseen = {text for _, text in test}
    train = [(library, text) for library, text in train if text not in unseen]
    _write_rows(out / "train.csv", train)
    _write_rows(out / "test.csv", sorted(test))

    documents = [paragraphs(text) for text in topics.topics.values()]
    for texts in by_library.values():
        kept = [text for text in texts if " ".join(text.split()) not in unseen]
        documents.append([line for text in kept for line in paragraphs(text)])
    corpus = "\n\n".join("\n".join(lines) for lines in documents if lines) + "\n"
    (out / "corpus.txt").write_text(corpus, encoding="utf-8")
    return {"characters": len(corpus), "train": len(train), "test": len(test)}


def docstrings() -> Iterator[tuple[str, str]]:
    """Yields (library, docstring) of the standard library, in the order of its files.

    The files are read, not imported.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0] in ("site-packages", "dist-packages") or {"test", "tests"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # samples that lib2to3 keeps as bad on purpose
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield parts[0].removesuffix(".py"), text


def paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of hard-wrapped documentation, one line each, without code."""
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        line = re.sub(r"\s*[*=~^-]{4,}\s*", " ", " ".join(block.split())).strip()
        if re.search(r"[a-z]{2}", line) and not line.startswith((">>>", "$", "...")):
            found.append(line)
    return found


def _write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((text, library) for library, text in rows)


def _remove(folder: Path) -> None:
    import shutil

    if folder.is_dir():
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
