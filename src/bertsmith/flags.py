"""Settings to flags: each command takes the settings of its stages as flags, or from a TOML file.

A command is a plain function. Its first argument, `given`, hands over the settings that the user
set; its other arguments become flags of their own. A flag wins over the settings file, the file
over the default. Nothing here knows any command.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import App, Group, Parameter

from bertsmith.config import Help, Settings, read_settings_file, setting_names
from bertsmith.errors import ConfigError, nearest

Result = dict[str, Any]
Show = Callable[[Result, bool], None]
Stage = TypeVar("Stage", bound=Settings)

_SETTINGS_FILE = "config"
_AS_JSON = "json"
_ARGUMENTS = Group("Input", sort_key=0)
_OPTIONS = Group("This command", sort_key=1)
_COMMON = Group("Output and settings file", sort_key=99)


@dataclass(frozen=True)
class Given:
    """The settings that the user has set, by flag or in the settings file, over all stages."""

    values: Mapping[str, Any]
    where: str

    def over(self, defaults: Mapping[str, Any]) -> Given:
        """Returns what was given, and `defaults` for what was not, over all stages."""
        return Given({**defaults, **self.values}, self.where)

    def stage(self, settings: type[Stage], **defaults: Any) -> Stage:
        """Returns the settings of one stage: what was given, else `defaults`, else its own.

        Raises:
            ConfigError: a value does not fit, or two contradict each other.
        """
        known = setting_names(settings)
        given = {name: value for name, value in self.values.items() if name in known}
        return settings.from_mapping(defaults | given, where=self.where)


def add_command(
    app: App,
    function: Callable[..., Result],
    stages: tuple[type[Settings], ...],
    show: Show,
) -> None:
    """Adds `function` to `app` as a command of its name, with the settings of `stages` as flags.

    `show` prints the result; its second argument says whether as JSON. The app returns the result.
    """
    arguments = list(inspect.signature(function).parameters.values())[1:]
    hints = get_type_hints(function, include_extras=True)
    settings = _settings(stages)

    def run(*positional: Any, **keywords: Any) -> Result:
        names = [argument.name for argument in arguments if _is_positional(argument)]
        flags = dict(zip(names, positional, strict=False)) | keywords
        as_json = bool(flags.pop(_AS_JSON, False))
        path: Path | None = flags.pop(_SETTINGS_FILE, None)
        given = {name: value for name, value in flags.items() if value is not None}
        where = "command line"
        if path is not None:
            where = str(path)
            known = {argument.name for argument in arguments} | settings.keys()
            given = _from_file(path, known) | given
        own = {
            argument.name: _value_of(argument, hints[argument.name], given, where)
            for argument in arguments
        }
        rest = {name: value for name, value in given.items() if name in settings}
        result = function(Given(rest, where), **own)
        if result:  # of several ranks, the first has it
            show(result, as_json)
        return result

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_own_flag(argument, hints[argument.name]) for argument in arguments]
        + [_setting_flag(name, *setting) for name, setting in settings.items()]
        + [
            _flag(_SETTINGS_FILE, Path, "TOML file that holds any of these flags", _COMMON),
            _flag(_AS_JSON, bool, "print the result as one JSON object", _COMMON, negative=""),
        ]
    )
    run.__doc__ = function.__doc__
    app.command(run, name=function.__name__)


def _settings(stages: tuple[type[Settings], ...]) -> dict[str, tuple[Any, Any, Group]]:
    """Returns annotation, default and group of every setting of `stages`, by name."""
    found: dict[str, tuple[Any, Any, Group]] = {}
    for order, stage in enumerate(stages):
        group = Group(stage.__name__.removesuffix("Config"), sort_key=order + 2)
        hints = get_type_hints(stage, include_extras=True)
        for field in dataclasses.fields(stage):
            assert field.name not in found, f"{field.name} is a setting of two stages"
            found[field.name] = (hints[field.name], field.default, group)
    return found


def _is_positional(argument: inspect.Parameter) -> bool:
    return argument.kind is not inspect.Parameter.KEYWORD_ONLY


def _own_flag(argument: inspect.Parameter, hint: Any) -> inspect.Parameter:
    group = _ARGUMENTS if _is_positional(argument) else _OPTIONS
    kind, text, _ = _unpack(hint)
    required = argument.default is inspect.Parameter.empty
    return _flag(
        argument.name,
        kind,
        f"{text} [required]" if required else text + _shown(argument.default),
        group,
        positional=_is_positional(argument),
        negative="",
    )


def _setting_flag(name: str, hint: Any, default: Any, group: Group) -> inspect.Parameter:
    kind, text, note = _unpack(hint)
    text += _shown(note.default or default)
    opposite = f"--{name[3:]}" if name.startswith("no_") else None  # of --no-header: --header
    return _flag(name, kind, text, group, negative=opposite, alias=note.alias)


def _flag(
    name: str,
    kind: Any,
    text: str,
    group: Group,
    *,
    positional: bool = False,
    negative: str | None = None,
    alias: str | None = None,
) -> inspect.Parameter:
    """Returns a flag that is None unless given, so that a settings file can speak for it."""
    shape = inspect.Parameter
    return shape(
        name,
        shape.POSITIONAL_ONLY if positional else shape.KEYWORD_ONLY,
        annotation=Annotated[
            kind | None,
            Parameter(
                help=text,
                show_default=False,
                group=group,
                negative=negative,
                alias=f"--{alias}" if alias else None,
            ),
        ],
        default=None,
    )


def _unpack(hint: Any) -> tuple[Any, str, Help]:
    """Returns the bare type of an annotated setting, its help in words, and whole."""
    if get_origin(hint) is not Annotated:
        return hint, "", Help("")
    kind, *notes = get_args(hint)
    helps = [note for note in notes if isinstance(note, Help)]
    return kind, " ".join(note.text for note in helps), helps[0] if helps else Help("")


def _shown(default: Any) -> str:
    if default is None or default is False:
        return ""
    return f" [default: {'yes' if default is True else default}]"


def _from_file(path: Path, known: set[str]) -> dict[str, Any]:
    values = {}
    for key, value in read_settings_file(path).items():
        name = key.replace("-", "_")
        if iskeyword(name):  # as the setting of the flag --from
            name += "_"
        if name not in known:
            raise ConfigError(f"{path}: there is no setting {key!r} here{nearest(name, known)}")
        if value is not None:
            values[name] = value
    return values


def _value_of(argument: inspect.Parameter, hint: Any, given: dict[str, Any], where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError  # takes 0.1 s to load: not for --help

    if argument.name not in given:
        if argument.default is not inspect.Parameter.empty:
            return argument.default
        flag = argument.name.replace("_", "-")
        shown = flag.upper() if _is_positional(argument) else f"--{flag}"
        raise ConfigError(f"{where}: {shown} is missing; give it (see --help)")
    try:
        return TypeAdapter(hint).validate_python(given[argument.name])
    except ValidationError as error:
        raise ConfigError(
            f"{where}: {argument.name} is {given[argument.name]!r}; "
            f"expected {error.errors()[0]['msg'].removeprefix('Input should be ')}"
        ) from None
