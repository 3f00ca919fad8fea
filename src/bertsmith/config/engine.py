"""The settings of who does the work on raw text: processes of this machine, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bertsmith.config.settings import Help, Settings
from bertsmith.config.training import seconds_of


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Settings):
    """Who works on raw text; the result is the same, byte for byte."""

    engine: Annotated[
        Literal["local", "ray"], Help("processes of this machine, or tasks of a Ray cluster")
    ] = "local"
    worker_timeout: Annotated[
        str, Help("how long a worker may take for two million characters, as in 90s, 10m")
    ] = "10m"

    def __post_init__(self) -> None:
        super().__post_init__()
        seconds_of(self.worker_timeout, "worker_timeout")

    @property
    def timeout_seconds(self) -> float:
        """Returns `worker_timeout` in seconds."""
        return seconds_of(self.worker_timeout, "worker_timeout")
