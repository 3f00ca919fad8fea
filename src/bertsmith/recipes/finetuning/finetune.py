"""Fine-tuning: an encoder and labelled rows become a model for one task.

    bertsmith finetune classify train.csv --model run/model --out classifier

On two cores, 10,000 sentences of 25 pieces take a 6-layer encoder of width 384 about two minutes an
epoch. What is expected of BERT_BASE is table 1 of the paper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertsmith.config import (
    BertConfig,
    ColumnsConfig,
    EncoderConfig,
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
    read_settings_file,
)
from bertsmith.errors import ConfigError
from bertsmith.folder import Loaded, load_encoder
from bertsmith.model.kinds import Encoder, draw_anew, matrices_of_blocks, take_pooler
from bertsmith.model.memory import keep_freed_memory
from bertsmith.model.task_heads import TaskModel
from bertsmith.progress import ProgressLine
from bertsmith.recipes.finetuning.data_check import check_before_training
from bertsmith.recipes.finetuning.report import report_run
from bertsmith.recipes.finetuning.rows import Fold, LabelledData, read_labelled, read_steps
from bertsmith.recipes.finetuning.watch import Sitting
from bertsmith.tasks.task import find_task
from bertsmith.text.wordpiece import Tokenizer
from bertsmith.train.loop import Run, train
from bertsmith.train.optimizer import optimizer_of, schedule_of
from bertsmith.train.run_folder import open_run_folder
from bertsmith.train.stopping import stopped_at_once

# The peak rate of a CRF's scores, whatever the encoder's, which is lower the wider it is. A step of
# AdamW moves a weight by about the rate: after a thousand at 5e-5 a transition that never occurs
# would be near the 0 at which it began, and it should be at some -5.
# Source: Su 2020, kexue.fm/archives/7196, "Your CRF layer's learning rate may not be large enough";
# the published code of CLUENER2020 takes 1e-3 for thirty epochs. The number is ours: on 400
# sentences of ATIS, F1 of slots was 79.8 at 0.01, 78.9 at 0.05, and 75.0 without a CRF.
CRF_LEARNING_RATE = 1e-2

# How rows are had for an encoder's tokenizer; what is found on the way is told.
ReadRows = Callable[[Tokenizer, Callable[[str], None]], LabelledData]


def finetune(
    task: str,
    train_file: Path,
    model: Path,
    out: Path,
    config: FinetuneConfig,
    optimizer: OptimizerConfig | None = None,
    columns: ColumnsConfig | None = None,
    options: TaskConfig | None = None,
    *,
    dev: Path | None = None,
    fold: Fold | None = None,
    random_weights: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tunes an encoder on a labelled file, and keeps the best epoch; see `finetune_rows`.

    Without `optimizer`, the rate is what is usual for the encoder's width. With `fold`, that part
    of the rows is the dev set.

    Raises:
        DataError: the rows cannot be learnt from; the message names file and line.
        MissingInputError: a file or a column is not there.
        ConfigError, NotFiniteError, StoppedError: see `finetune_rows`.
    """
    columns, options = columns or ColumnsConfig(), options or TaskConfig()
    optimizer = optimizer or OptimizerConfig(learning_rate=usual_learning_rate(model))

    def read(tokenizer: Tokenizer, say: Callable[[str], None]) -> LabelledData:
        return read_labelled(
            find_task(task), train_file, dev, tokenizer, config, options, columns, say, fold
        )

    settings = config.to_mapping() | optimizer.to_mapping() | columns.to_mapping()
    settings |= options.to_mapping() | {"task": task, "random_weights": random_weights}
    files = {"train": str(train_file), "model": str(model), "dev": str(dev) if dev else None}
    return finetune_rows(read, model, out, config, optimizer, settings, files=files, resume=resume)


def finetune_rows(
    read: ReadRows,
    model: Path,
    out: Path,
    config: FinetuneConfig,
    optimizer: OptimizerConfig,
    settings: Mapping[str, Any],
    *,
    files: Mapping[str, str | None],
    resume: bool = False,
    progress: ProgressLine | None = None,
    with_report: bool = True,
) -> dict[str, Any]:
    """Fine-tunes an encoder on rows from wherever they come, and keeps the best epoch.

    A new layer is put on the encoder; all is trained for a few epochs on batches of rows in random
    order, without padding; after each epoch the dev rows are scored. The model with the best score
    (accuracy, or the least squared error) is kept in `out/best`, the last one in `out/model`, and
    `out/report.html` shows how it went. A run that has learnt nothing, so that all dev rows get one
    answer, is begun again with another seed.

    Source: Devlin et al. 2019, section 4.1 and appendix A.3; that small sets need restarts, the
    bias correction and more steps: Mosbach et al. 2021; Zhang et al. 2021, which also has the new
    top layers (`reinit_layers`); `layer_decay` is that of Howard and Ruder 2018, section 3.2.

    Args:
        read: gives the rows.
        model: folder of the encoder.
        out: run folder.
        config, optimizer: of the run.
        settings: all settings, as the model folder shall remember them; where `random_weights` is
            among them the encoder has its shape and vocabulary but nothing that it has learnt.
        files: where rows and encoder come from; a resumed run may have other places.
        resume: go on from the newest checkpoint in `out`.
        progress: where it shows how far it is; by default on standard error.
        with_report: whether `out/report.html` is written, for which dev rows are read once more.

    Raises:
        DataError: the data check finds an error, and `train_anyway` is not set.
        ConfigError: a setting does not fit the encoder.
        NotFiniteError: the loss became NaN or infinite; the best epoch so far is in `out/best`.
        StoppedError: stopped on request; `resume` goes on.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    with (
        stopped_at_once(out),
        open_run_folder(out, resume=resume) as folder,
        progress or ProgressLine() as progress,
    ):
        loaded = load_encoder(model, config.dropout)
        check_fit(config, loaded.config, model)
        data = read(loaded.tokenizer, progress.say)
        _check_segments(data, loaded.config, model)
        unk_id = loaded.tokenizer.vocabulary.unk_id
        findings = check_before_training(data, settings, files, unk_id, progress.say)
        folder.settle(
            {**files, **settings},
            may_change={*files, "threads", "restarts"},
            say=progress.say,
            unnamed={"crf": False},
        )
        sitting = Sitting(folder, progress, data, loaded.tokenizer, config, settings, resume=resume)
        while True:
            seed = config.seed + sitting.standing.restarts
            random_weights = bool(settings.get("random_weights"))
            trained = new_model(data, loaded, config, seed, random_weights)
            scales = rate_scales(trained, config, optimizer.learning_rate)
            matrices = matrices_of_blocks(trained)
            run = Run(trained, optimizer_of(trained, optimizer, scales, matrices=matrices))
            sitting.begin(run)
            with sitting.requests:
                train(
                    run,
                    read_steps(data.task, data.train, config.batch_size, seed, run.step),
                    pace=sitting.pace,
                    schedule=schedule_of(optimizer),
                    max_gradient_norm=optimizer.max_gradient_norm,
                    seed=seed,
                    after_step=sitting.after_step,
                )
            if not sitting.begins_anew():
                break
            # The first one's weights have been trained.
            loaded = load_encoder(model, config.dropout)
        result = sitting.finish(run) | {"learning_rate": optimizer.learning_rate}
        if not with_report:
            return result
        return result | {"report": str(report_run(out, data, findings, result))}


def usual_learning_rate(model: Path) -> float:
    """Returns the peak rate for an encoder of the width that a model folder tells.

    Wide encoders take the paper's rates; narrow ones need the larger rates that were found best
    for them, or they are still learning when the last epoch ends.

    Source: Devlin et al. 2019, appendix A.3 (5e-5, 3e-5, 2e-5); Turc et al. 2019 and the release
    notes of its 24 smaller models (3e-4, 1e-4, 5e-5, 3e-5).
    """
    width = read_settings_file(model / "config.json").get("hidden_size", 768)
    if width <= 256:
        return 3e-4
    if width <= 512:
        return 1e-4
    return 5e-5 if width <= 768 else 3e-5


def usual_max_length(task: str) -> int:
    """Returns how many pieces a task's rows are cut to unless told: paragraphs are long.

    Source: google-research/bert, the README on SQuAD.
    """
    return 384 if task == "answer" else 128


def new_model(
    data: LabelledData,
    loaded: Loaded,
    config: FinetuneConfig,
    seed: int,
    random_weights: bool = False,
) -> TaskModel:
    """Returns the task's model: a layer drawn from `seed` on the loaded encoder or a random one.

    The encoder's last `reinit_layers` blocks, and its pooler with them, are drawn anew; with
    `freeze_encoder` it takes no gradients.
    """
    torch.manual_seed(seed)
    model = data.task.head(loaded.config)
    if not random_weights:
        assert isinstance(loaded.model, Encoder), "load_encoder returns an encoder"
        # Pre-trained without next sentences, it learns to pool here; where nothing is pooled, not.
        if loaded.model.pooler is None or model.encoder.pooler is None:
            take_pooler(loaded.model, model.encoder)
        model.encoder = loaded.model
    if config.reinit_layers:
        new: list[nn.Module] = list(model.encoder.blocks[-config.reinit_layers :])
        if model.encoder.pooler is not None:
            new.append(model.encoder.pooler)
        for part in new:
            draw_anew(part, loaded.config)
    model.encoder.requires_grad_(not config.freeze_encoder)
    return model


def rate_scales(model: TaskModel, config: FinetuneConfig, learning_rate: float) -> dict[str, float]:
    """Returns for each parameter what its learning rate is multiplied by.

    What stands on the encoder has the whole rate, the last block `layer_decay` of it, and every
    block below that share of the rate of the block above; the embeddings are lowest. A CRF has
    a rate of its own, `CRF_LEARNING_RATE`, or the run's `learning_rate` where that is higher.
    """
    depth = len(model.encoder.blocks)
    of_crf = max(1.0, CRF_LEARNING_RATE / learning_rate)
    scales = {}
    for name, _ in model.named_parameters():
        found = re.match(r"encoder\.(?:blocks\.(\d+)\.|(embeddings))", name)
        below = 0 if not found else depth + 1 if found[2] else depth - int(found[1])
        scales[name] = of_crf if name.startswith("crf.") else config.layer_decay**below
    return scales


def check_fit(config: FinetuneConfig, encoder: EncoderConfig, model: Path) -> None:
    """Raises ConfigError where a setting asks for more pieces or blocks than the encoder has."""
    if config.max_length > encoder.max_position_embeddings:
        raise ConfigError(
            f"max_length is {config.max_length}, but {model} reads at most "
            f"{encoder.max_position_embeddings} pieces: give that or less"
        )
    if config.reinit_layers > encoder.num_hidden_layers:
        raise ConfigError(
            f"reinit_layers is {config.reinit_layers}, but {model} has "
            f"{encoder.num_hidden_layers} layers: give that or less"
        )


def _check_segments(data: LabelledData, encoder: EncoderConfig, model: Path) -> None:
    if not isinstance(encoder, BertConfig):
        return  # it reads pairs without segments
    highest = max(
        (int(part.segment_ids[-1]) for row in data.train.features for part in row.sequences),
        default=0,
    )
    if highest >= encoder.type_vocab_size:
        raise ConfigError(
            f"{model}: type_vocab_size is {encoder.type_vocab_size}; expected 2 to read pairs "
            f"of texts: use another encoder, or join the texts in one column"
        )
