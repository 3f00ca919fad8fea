"""Tagging on frozen features as a run: the encoder is read once, and a BiLSTM learns from it.

    bertsmith finetune tag train.conll --model run/model --out tagger \
        --feature-based last-four-concatenated

The run folder is that of fine-tuning: settings, metrics, report, and a model folder that `predict`
and `evaluate` take.

Source: Devlin et al. 2019, section 5.3 and table 7.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from bertsmith.config import (
    ColumnsConfig,
    FeatureTaggerConfig,
    FinetuneConfig,
    OptimizerConfig,
    Settings,
    TaskConfig,
)
from bertsmith.errors import ConfigError
from bertsmith.folder import Loaded, load_encoder, save_model
from bertsmith.model.bilstm import BertForFeatureTagging, BiLstmTagger
from bertsmith.model.kinds import Encoder, take_pooler
from bertsmith.progress import ProgressLine
from bertsmith.recipes.feature_tagger import FEATURE_OPTIMIZER, freeze, train_feature_tagger
from bertsmith.recipes.finetuning.data_check import check_before_training
from bertsmith.recipes.finetuning.finetune import check_fit
from bertsmith.recipes.finetuning.report import report_run
from bertsmith.recipes.finetuning.rows import LabelledData, label_rows, read_labelled
from bertsmith.tasks.layers import parse_layers
from bertsmith.tasks.tag import Tag
from bertsmith.train.run_folder import RunFolder, open_run_folder

STATES = "states"  # folder inside the run's, for the time of the run
# Settings of fine-tuning that mean nothing where the encoder is not trained.
NOT_HERE = (
    *("dropout", "layer_decay", "reinit_layers", "evaluations_per_epoch", "early_stopping"),
    *("optimizer", "crf"),
)


def finetune_frozen(
    train_file: Path,
    model: Path,
    out: Path,
    config: FinetuneConfig,
    tagger: FeatureTaggerConfig,
    optimizer: OptimizerConfig = FEATURE_OPTIMIZER,
    columns: ColumnsConfig | None = None,
    options: TaskConfig | None = None,
    *,
    dev: Path | None = None,
    feature_based: str | None = None,
) -> dict[str, Any]:
    """Trains a BiLSTM on states of an encoder that stays as it is, and keeps the best epoch.

    Returns what `finetune` does, with `layers` and, where they are mixed, `shares`: how much each
    of them counts. Intents are not learnt. The best epoch's model is in `out/best` and `out/model`.

    Args:
        train_file: tagged words.
        model: folder of the encoder.
        out: run folder, new or empty. The states of the layers that are read wait in it, 4 bytes a
            number, until the run ends.
        config: of it the length, epochs, batch size, seeds and dev share are used.
        tagger, optimizer: of what is trained.
        columns, options: how rows are read.
        dev: tagged words that the best epoch is chosen by; without them a share is split off.
        feature_based: the name of the combination of layers, for `settings.json`.

    Raises:
        ConfigError: there are no such layers, or a setting is for fine-tuning alone.
        DataError: the rows cannot be learnt from; the message names file and line.
        MissingInputError: a file or a column is not there.
        FolderInUseError: `out` holds something.
        NotFiniteError: the loss became NaN or infinite.
        StorageError: the states or the model cannot be written.
    """
    columns, options = columns or ColumnsConfig(), options or TaskConfig()
    for stage in (config, optimizer, options):
        _refuse_what_is_for_fine_tuning(stage)
    if config.threads:
        torch.set_num_threads(config.threads)
    settings: dict[str, Any] = {"task": "tag", "feature_based": feature_based}
    for settled in (config, optimizer, columns, options, tagger):
        settings |= settled.to_mapping()
    files = {"train": str(train_file), "model": str(model), "dev": str(dev) if dev else None}
    with open_run_folder(out, resume=False) as folder, ProgressLine() as progress:
        loaded = load_encoder(model)
        check_fit(config, loaded.config, model)
        layers = parse_layers(tagger.layers, loaded.config.num_hidden_layers)
        tokenizer = loaded.tokenizer
        data = read_labelled(
            Tag, train_file, dev, tokenizer, config, options, columns, progress.say
        )
        data = _of_tags_alone(data, loaded, config, progress.say)
        unk_id = tokenizer.vocabulary.unk_id
        findings = check_before_training(data, settings, files, unk_id, progress.say)
        folder.settle({**files, **settings}, may_change=(), say=progress.say)
        trained, found = _train(folder, data, loaded, config, tagger, optimizer, layers, progress)
        _keep(folder, trained, data, loaded, config, tagger, layers, found, settings)
        tokens = data.train.num_tokens * config.epochs
        result = found | {
            "chosen_by": data.task.chosen_by,
            "tokens_per_second": tokens / found["seconds"],
            "out": str(out),
            "train_rows": len(data.train),
            "dev_rows": len(data.dev),
            "cut_texts": data.train.num_cut,
            "restarts": 0,
            "learning_rate": optimizer.learning_rate,
            "layers": list(layers),
        }
        return result | {"report": str(report_run(out, data, findings, result))}


def _train(
    folder: RunFolder,
    data: LabelledData,
    loaded: Loaded,
    config: FinetuneConfig,
    tagger: FeatureTaggerConfig,
    optimizer: OptimizerConfig,
    layers: tuple[int, ...],
    progress: ProgressLine,
) -> tuple[BiLstmTagger, dict[str, Any]]:
    """Lets the encoder read all rows, then trains the tagger; the states are removed again."""
    assert isinstance(loaded.model, Encoder), "load_encoder returns an encoder"
    assert isinstance(data.task, Tag)
    pieces = data.train.num_tokens + data.dev.num_tokens
    size = 4 * pieces * len(set(layers)) * loaded.config.hidden_size
    progress.say(
        f"the encoder reads {pieces:,} pieces once; their states in layers "
        f"{', '.join(map(str, layers))} take {size / 2**20:,.0f} MB on disk until the end"
    )
    states = folder.path / STATES
    states.mkdir()
    try:
        kept = tuple(dict.fromkeys(layers))
        return train_feature_tagger(
            data.task,
            *freeze(data, loaded.model, states, kept),
            config,
            tagger,
            optimizer,
            say=progress.say,
            log=folder.log,
        )
    finally:
        shutil.rmtree(states)


def _keep(
    folder: RunFolder,
    trained: BiLstmTagger,
    data: LabelledData,
    loaded: Loaded,
    config: FinetuneConfig,
    tagger: FeatureTaggerConfig,
    layers: tuple[int, ...],
    found: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Writes the tagger with its encoder as model folders."""
    assert isinstance(data.task, Tag)
    assert isinstance(loaded.model, Encoder), "load_encoder returns an encoder"
    whole = BertForFeatureTagging(loaded.config, len(data.task.labels), layers, tagger).eval()
    take_pooler(loaded.model, whole.encoder)  # none, which tags do not read
    whole.encoder, whole.tagger = loaded.model, trained
    facts = data.task.facts() | data.facts
    facts |= {"max_length": config.max_length, "settings": settings, "scores": found["scores"]}
    facts["epoch"] = found["best_epoch"]
    for place in (folder.path / "best", folder.model):
        save_model(place, whole, loaded.tokenizer, facts)


def _of_tags_alone(
    data: LabelledData, loaded: Loaded, config: FinetuneConfig, say: Callable[[str], None]
) -> LabelledData:
    """Returns the rows without intents, which frozen features are not read for."""
    task = data.task
    assert isinstance(task, Tag), "tagged words were read"
    if not task.intents:
        return data
    say("intents are not learnt on frozen features: tags alone are")
    rows = (data.train.examples, data.dev.examples)
    quiet = replace(task, intents=())
    return label_rows(quiet, data.facts, *rows, loaded.tokenizer, config, lambda line: None)


def _refuse_what_is_for_fine_tuning(stage: Settings) -> None:
    for field in fields(stage):
        if field.name in NOT_HERE and getattr(stage, field.name) != field.default:
            raise ConfigError(
                f"{field.name} is {getattr(stage, field.name)!r}, which is for fine-tuning; a "
                f"tagger on frozen features knows none: leave it out"
            )
