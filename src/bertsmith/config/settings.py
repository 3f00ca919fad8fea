"""What all settings share: how they are checked, named, and read from files."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

from bertsmith.errors import ConfigError, DataError, MissingInputError, nearest


@dataclass(frozen=True)
class Help:
    """The one sentence that `--help` and the documentation show for a setting."""

    text: str
    default: str | None = None  # in words, where commands have a default of their own
    alias: str | None = None  # another name of the flag


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every stage's settings share: checked when made, read from and written to mappings."""

    def __post_init__(self) -> None:
        stage: type = type(self)
        for name, adapter in _adapters(stage).items():
            _check(adapter, f"{stage.__name__}.{name}", getattr(self, name))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Returns the settings that a TOML or JSON file holds; dashes in keys count as underscores.

        Raises:
            ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
        """
        known = setting_names(cls)
        given = {}
        for key, value in values.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ConfigError(
                    f"{where}: {cls.__name__} has no setting {key!r}{nearest(name, known)}"
                )
            given[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**given)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """Returns the settings as plain values that JSON can hold, in the order of declaration."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }


def setting_names(settings: type[Settings]) -> tuple[str, ...]:
    """Returns the names of the settings of one stage, in the order of declaration."""
    return tuple(field.name for field in dataclasses.fields(settings))


@functools.cache
def _adapters(settings: type) -> dict[str, Any]:
    from pydantic import TypeAdapter  # takes 0.1 s to load: not for --help

    hints = get_type_hints(settings, include_extras=True)
    return {name: TypeAdapter(hints[name]) for name in setting_names(settings)}


def _check(adapter: Any, where: str, value: object) -> None:
    from pydantic import ValidationError

    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        reasons = " or ".join(
            dict.fromkeys(
                part["msg"].removeprefix("Input should be ").lower() for part in error.errors()
            )
        )
        raise ConfigError(f"{where} is {value!r}; expected {reasons}") from None


def read_settings_file(path: Path) -> dict[str, Any]:
    """Returns the keys of a TOML file of settings, or of the JSON that a run has left.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is not well-formed; the message names the place.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if path.suffix == ".json":
            values = json.loads(content)
        else:
            values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {type(values).__name__}; expected a table of settings")
    return values
