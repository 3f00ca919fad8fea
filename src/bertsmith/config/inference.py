"""The settings of who computes a model's states in use, and in what numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Settings):
    """Who computes; in float32 the answers are the same to rounding."""

    engine: Annotated[
        Literal["torch", "onnxruntime", "ctranslate2", "auto"],
        Help("who computes the encoder; auto: the fastest of those installed, on your texts"),
    ] = "torch"
    precision: Annotated[
        Literal["float32", "int8"], Help("numbers of its products; int8 is faster, and not exact")
    ] = "float32"
    int8_bound: Annotated[
        float,
        Ge(0),
        Le(1),
        Help("least likeness to float32 that int8 must have on your texts: see docs/formats.md"),
    ] = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "torch" and self.precision == "int8":
            raise ConfigError(
                "precision is int8, which engine torch has not; expected engine auto, ctranslate2 "
                "or onnxruntime"
            )

    @property
    def needs_sample(self) -> bool:
        """Returns whether the choice is made by measuring on the user's own texts."""
        return self.engine == "auto" or self.precision == "int8"
