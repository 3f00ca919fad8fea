"""Real tokens a second of whole pre-training runs, beside the `Trainer` of `transformers`.

    python benchmarks/trainer.py --text ../shared/data/pretrain-en/wikipedia --vocab VOCABULARY

Both learn hidden pieces of the same text with the same model, length limit, rate of dropout and
fused AdamW, data included. Theirs is what its example script for masked models does line by line:
each line, or each sentence, is a row, cut at the limit, and the default collator masks rows and
pads them to the longest of a batch. Ours are the same documents packed into full rows, as many in a
step as theirs has rows. Each runs in a process of its own and stops after some steps
until it is its turn again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from turns import Side  # type: ignore[import-not-found]

from bertsmith.config import (
    BertConfig,
    CorpusConfig,
    ExamplesConfig,
    OptimizerConfig,
    PrepareConfig,
    PretrainConfig,
    bert_of_size,
)
from bertsmith.data.shards import open_corpus
from bertsmith.model.kinds import pretraining_model_of
from bertsmith.model.memory import keep_freed_memory
from bertsmith.recipes.prepare import prepare
from bertsmith.recipes.pretraining.data import StepStream, StreamState
from bertsmith.text.sentences import split_sentences
from bertsmith.text.tokenizer_files import read_tokenizer
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import adamw, warmup_then_decay
from bertsmith.train.pace import by_steps

MOST_STEPS = 100_000  # of a run, which ends long before


@dataclass(frozen=True)
class Job:
    """What both sides are given."""

    text: list[str]
    vocab: str
    shards: str
    size: str
    length: int
    rows: str  # lines or sentences
    batch_size: int
    tokens_per_batch: int  # of ours
    threads: int

    def config(self) -> BertConfig:
        vocabulary = open_corpus(Path(self.shards)).read_tokenizer().vocabulary
        return bert_of_size(self.size, vocab_size=len(vocabulary.pieces))


class Gate:
    """Lets a run make so many steps at a time, and tells how many tokens and seconds they took."""

    def __init__(self, pipe: Connection) -> None:
        self.tokens = 0
        self._pipe = pipe
        self._left = 0
        self._started: float | None = None

    def pass_step(self) -> None:
        """Is called before the first step and after each one; waits where a turn is over."""
        if self._left:
            self._left -= 1
        if not self._left:
            if self._started is not None:
                self._pipe.send((self.tokens, time.perf_counter() - self._started))
            self._left = self._pipe.recv()
            if not self._left:
                sys.exit()
            self.tokens, self._started = 0, time.perf_counter()


# ---------------------------------------------------------------------------------- two sides


def ours(job: Job, gate: Gate) -> None:
    """Trains as `bertsmith pretrain --sentence-task none --layout packed` does."""
    keep_freed_memory()
    run_config = PretrainConfig(
        size=job.size, tokens_per_batch=job.tokens_per_batch, long_sequence_share=0.0
    )
    examples = ExamplesConfig(
        sentence_task="none", layout="packed", sequence_length=job.length, short_seq_prob=0.0
    )
    corpus = open_corpus(Path(job.shards))
    vocabulary = corpus.read_tokenizer().vocabulary
    torch.manual_seed(0)
    model = pretraining_model_of(job.config(), next_sentence=False)
    optimizer = OptimizerConfig(learning_rate=1e-4)
    run = Run(model, adamw(model, optimizer))
    place = torch.device("cpu")
    with StepStream(
        corpus,
        vocabulary,
        run_config,
        examples,
        phase=lambda: 0,
        state=StreamState(),
        device=place,
    ) as stream:

        def counted() -> Iterator[Any]:
            for step in stream:
                gate.tokens += sum(len(part["piece_ids"]) for part in step)
                yield step

        gate.pass_step()
        train(
            run,
            counted(),
            pace=by_steps(MOST_STEPS),
            schedule=warmup_then_decay(optimizer),
            max_gradient_norm=1.0,
            seed=0,
            after_step=lambda run, figures: gate.pass_step(),
        )


def theirs(job: Job, gate: Gate) -> None:
    """Trains as the example script of `transformers` does with `--line_by_line`."""
    import transformers

    class Waits(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate.pass_step()

    tokenizer = transformers.AutoTokenizer.from_pretrained(job.vocab)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    def counted(rows: list[dict[str, Any]]) -> Any:
        gate.tokens += sum(len(row["input_ids"]) for row in rows)
        return collator(rows)

    config = transformers.BertConfig(**job.config().to_mapping(), attn_implementation="sdpa")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=transformers.BertForMaskedLM(config),
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=job.batch_size,
                max_steps=MOST_STEPS,
                learning_rate=1e-4,
                optim="adamw_torch_fused",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                logging_strategy="no",
                remove_unused_columns=False,
            ),
            train_dataset=rows_of(job, tokenizer),
            data_collator=counted,
            callbacks=[Waits()],
        )
        gate.pass_step()
        trainer.train()


def rows_of(job: Job, tokenizer: Any) -> list[dict[str, Any]]:
    """Returns the rows of the text, cut at the length limit."""
    texts = []
    for path in job.text:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        kept = [line for line in lines if line.strip() and not line.startswith(("<doc", "</doc"))]
        if job.rows == "sentences":
            kept = [sentence for line in kept for sentence in split_sentences(line)]
        texts += kept
    encoded = tokenizer(texts, truncation=True, max_length=job.length)
    return [{"input_ids": row} for row in encoded["input_ids"]]


def serve(side: Callable[[Job, Gate], None], job: Job, pipe: Connection) -> None:
    torch.set_num_threads(job.threads)
    side(job, Gate(pipe))


# -------------------------------------------------------------------------------- measuring


def measure(job: Job, rounds: int, steps: int) -> dict[str, Any]:
    sides = {side.__name__: Side(serve, side, job) for side in (theirs, ours)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.run(2)  # warms up
    for number in range(rounds):
        for name, side in sides.items():
            tokens, seconds = side.run(steps)
            rates[name].append(tokens / seconds)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    for side in sides.values():
        side.stop()
    ratios = [our / their for their, our in zip(rates["theirs"], rates["ours"], strict=True)]
    return {
        "rows": job.rows,
        "size": job.size,
        **{name: round(statistics.median(each)) for name, each in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of text files")
    parser.add_argument("--vocab", type=Path, required=True, help="folder of a vocabulary")
    parser.add_argument("--files", type=int, default=2, help="files of the folder that are read")
    parser.add_argument("--sizes", nargs="+", default=["L4-H256"])
    parser.add_argument("--rows", nargs="+", default=["lines", "sentences"])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32, help="rows of theirs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    text = [str(path) for path in sorted(options.text.iterdir())[: options.files]]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        shards = f"{folder}/shards"
        tokenizer = read_tokenizer(options.vocab)
        prepare(text, tokenizer, shards, CorpusConfig(), PrepareConfig(held_out=0.0))
        for size in options.sizes:
            for rows in options.rows:
                job = Job(
                    text=text,
                    vocab=str(options.vocab),
                    shards=shards,
                    size=size,
                    length=options.length,
                    rows=rows,
                    batch_size=options.batch_size,
                    tokens_per_batch=options.batch_size * options.length,
                    threads=options.threads,
                )
                results.append(measure(job, options.rounds, options.steps))
                print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    main()
