"""The arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.config import Help

Out = Annotated[Path, Help("folder to write")]
RunOut = Annotated[Path, Help("run folder to write")]
Model = Annotated[
    str, Help("model folder, Google checkpoint, .zip of one, or a hub's name, as bert-base-uncased")
]
TaskName = Annotated[
    Literal["answer", "choose", "classify", "regress", "tag"], Help("what the model is to do")
]


def found(model: str) -> Path:
    """Returns the folder of the model that a user named; see `interop.sources.model_folder`."""
    from bertsmith.interop.sources import model_folder
    from bertsmith.progress import ProgressLine

    return model_folder(model, say=ProgressLine().say)
