"""The arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.config import Help

Out = Annotated[Path, Help("folder to write")]
RunOut = Annotated[Path, Help("run folder to write")]
Model = Annotated[Path, Help("model folder")]
TaskName = Annotated[
    Literal["answer", "choose", "classify", "regress", "tag"], Help("what the model is to do")
]
