"""The settings of who does the work on raw text: processes of this machine, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from bertsmith.config.settings import Help, Settings


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Settings):
    """Who works on raw text; the result is the same, byte for byte."""

    engine: Annotated[
        Literal["local", "ray"], Help("processes of this machine, or tasks of a Ray cluster")
    ] = "local"
    worker_timeout: Annotated[
        float, Gt(0), Help("seconds that a worker may take for a block of two million characters")
    ] = 600.0
