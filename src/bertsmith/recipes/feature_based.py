"""The paper's feature-based tagging: an encoder reads, is not trained, and a BiLSTM learns from it.

    bertsmith tag-features eng.train --dev eng.testa --model MODEL --out tagger --combine mix

Source: Devlin et al. 2019, section 5.3.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bertsmith.config import (
    ColumnsConfig,
    FeatureTaggerConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bertsmith.errors import FolderInUseError
from bertsmith.folder import load_encoder
from bertsmith.model.bilstm import BiLstmTagger
from bertsmith.progress import ProgressLine
from bertsmith.recipes.feature_tagger import (
    FrozenRows,
    freeze,
    predictions,
    train_feature_tagger,
)
from bertsmith.recipes.finetuning.rows import LabelledData, Rows, read_labelled
from bertsmith.storage import replace_file
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.tag import Tag
from bertsmith.text.wordpiece import Tokenizer

RESULT = "result.json"
DEV_TAGS, TEST_TAGS = "dev.conll", "test.conll"


def tag_features(
    train: Path,
    model: Path,
    out: Path,
    config: FinetuneConfig,
    optimizer: OptimizerConfig,
    tagger: FeatureTaggerConfig,
    columns: ColumnsConfig | None = None,
    options: TaskConfig | None = None,
    *,
    dev: Path | None = None,
    test: Path | None = None,
) -> dict[str, Any]:
    """Trains a BiLSTM on states of a frozen encoder, and writes what it says of dev and test rows.

    The states of all pieces wait in a temporary folder: 4 bytes for each number of each layer.

    Args:
        train: tagged words, in a form that `finetune tag` takes.
        model: folder of the encoder.
        out: new folder: `dev.conll`, `test.conll` and `result.json`.
        config: of it `epochs`, `batch_size`, `max_length`, `dev_share` and seeds are used.
        optimizer, tagger: of what is trained.
        dev: rows that the best epoch is chosen by; by default a share of the training rows.
        test: words to be tagged, with or without tags.

    Returns:
        `scores` of the dev rows, `chosen_by`, `best_epoch`, `seconds`, the number of rows, and
        `shares`, how much each layer counts, where layers are mixed.

    Raises:
        FolderInUseError: `out` holds something.
        ConfigError: the encoder does not have those layers.
        DataError, MissingInputError: a file is not there or not as it must be.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderInUseError(f"{out}: is there and not empty; expected a new folder")
    columns, options = columns or ColumnsConfig(), options or TaskConfig()
    loaded = load_encoder(model)
    layers = parse_layers(tagger.layers, loaded.config.num_hidden_layers)
    encoder: Any = loaded.model
    with ProgressLine() as progress, TemporaryDirectory(prefix="bertsmith-") as place:
        data = read_labelled(
            Tag, train, dev, loaded.tokenizer, config, options, columns, progress.say
        )
        task: Any = data.task
        test_rows = _test_rows(test, data, loaded.tokenizer, config, columns)
        progress.say(f"the encoder reads {data.train.num_tokens + data.dev.num_tokens:,} pieces")
        train_rows, dev_rows = freeze(data, encoder, Path(place))
        trained, found = train_feature_tagger(
            task, train_rows, dev_rows, config, tagger, optimizer, say=progress.say
        )
        out.mkdir(parents=True, exist_ok=True)
        _write(out / DEV_TAGS, trained, task, dev_rows, layers)
        if test_rows is not None:
            frozen = FrozenRows.compute(Path(place) / "test.npy", test_rows, encoder)
            found["test_rows"] = _write(out / TEST_TAGS, trained, task, frozen, layers)
    found |= {
        "chosen_by": task.chosen_by,
        "layers": list(layers),
        "train_rows": len(data.train),
        "dev_rows": len(data.dev),
        "out": str(out),
    }
    replace_file(out / RESULT, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _test_rows(
    path: Path | None,
    data: LabelledData,
    tokenizer: Tokenizer,
    config: FinetuneConfig,
    columns: ColumnsConfig,
) -> Rows | None:
    """Returns the rows of a file to be tagged; whatever tags it has are not read."""
    if path is None:
        return None
    examples = list(data.task.read(path, columns, data.facts, labelled=False).examples)
    features = [data.task.features(one, tokenizer, config.max_length) for one in examples]
    return Rows(examples, features, [None] * len(examples))


def _write(
    path: Path, model: BiLstmTagger, task: Tag, rows: FrozenRows, layers: tuple[int, ...]
) -> int:
    """Writes the rows' words with the tags that the model gives them, in their order."""
    found = dict(predictions(model, task, rows, layers))
    answered = ((example, found[place]) for place, example in enumerate(rows.rows.examples))
    return task.write(path, answered, None)
