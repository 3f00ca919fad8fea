"""The settings of what is taken away from raw text before it is tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from bertsmith.config.settings import Help, Settings
from bertsmith.errors import ConfigError, nearest

FILTERS = ("near-empty", "repeated", "wrong-language")


@dataclass(frozen=True, kw_only=True)
class FilterConfig(Settings):
    """Which lines of a corpus are taken away; by default none."""

    filters: Annotated[
        str | None,
        Help("what takes lines away, in the order named: near-empty,repeated,wrong-language"),
    ] = None
    min_line_words: Annotated[
        int, Ge(0), Help("near-empty: shorter lines go; 5 is the rule of C4")
    ] = 5
    min_document_words: Annotated[
        int, Ge(0), Help("near-empty: documents left with less go; 50 is the rule of Gopher")
    ] = 0
    repeated_unit: Annotated[
        Literal["line", "document"], Help("repeated: what is kept only where it stands first")
    ] = "line"
    min_script_share: Annotated[
        float,
        Ge(0),
        Le(1),
        Help("wrong-language: share of a line's words in the language's script"),
    ] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            if name not in FILTERS:
                raise ConfigError(
                    f"filters is {self.filters!r}: there is no filter {name!r}"
                    f"{nearest(name, FILTERS)}"
                )
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"filters is {self.filters!r}; expected each name once")

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the filters, in the order in which they are used."""
        return tuple(name.strip() for name in self.filters.split(",")) if self.filters else ()
