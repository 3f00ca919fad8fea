"""What a model folder, or a size, holds and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertsmith.config import bert_of_size
from bertsmith.folder import load_model
from bertsmith.interop.sources import model_folder
from bertsmith.model.accounting import (
    count_parameters,
    flops_per_token,
    memory_bytes,
    on_paper,
    parameters_by_formula,
)
from bertsmith.progress import ProgressLine


def account(model: str, *, sequence_length: int = 128) -> dict[str, Any]:
    """Returns what a model, or a size such as `base` or `L6-H384`, holds and costs.

    A size is that of the encoder with its pre-training heads.

    Returns:
        `config`, `parameters` by part, counted; `formula`, see `parameters_by_formula`;
        `flops_per_token` and `memory_bytes`, each for inference and training.

    Raises:
        ConfigError: it is neither a folder nor a size.
        MissingInputError, CheckpointError: the folder is not a whole model folder.
    """
    if "/" in model or "bert" in model.lower() or Path(model).exists():  # no size
        loaded = load_model(model_folder(model, say=ProgressLine().say)).model
    else:
        loaded = on_paper(bert_of_size(model))
    config = loaded.config
    return {
        "config": config.to_mapping(),
        "parameters": count_parameters(loaded),
        "formula": parameters_by_formula(config),
        "flops_per_token": flops_per_token(loaded, sequence_length=sequence_length),
        "memory_bytes": memory_bytes(loaded, sequence_length=sequence_length),
    }
