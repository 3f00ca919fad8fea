"""How a command's result is printed: aligned lines for a person, one JSON object for a program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from bertsmith.errors import StorageError


def show(result: dict[str, Any], as_json: bool) -> None:
    """Prints `result` on standard output.

    Raises:
        BrokenPipeError: its reader has gone.
        StorageError: it goes to a disk that is full or failing.
    """
    try:
        print(json.dumps(result, ensure_ascii=False) if as_json else _aligned(result), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What could not be written would be tried, and complained of, once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(
            f"standard output: the result cannot be written ({error.strerror}); what the command "
            f"was to do is done"
        ) from error


def _aligned(result: dict[str, Any]) -> str:
    lines = list(_lines(result))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)


def _lines(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, value) of every leaf of a result; what is deep in it shares a line."""
    if isinstance(value, dict) and "." in name and value and not any(map(_is_deep, value.values())):
        yield name, ", ".join(f"{key} {_readable(part)}" for key, part in value.items())
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _lines(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        for number, part in enumerate(value, start=1):
            if isinstance(part, dict) and not any(map(_is_deep, part.values())):
                shown = (_readable(one) for one in part.values() if one != "")
                yield f"{name} {number}", " | ".join(shown)
            else:
                yield from _lines(part, f"{name} {number}")
    elif isinstance(value, list):
        yield name, ", ".join(_readable(part) for part in value)
    else:
        yield name, _readable(value)


def _is_deep(value: Any) -> bool:
    return isinstance(value, dict | list)


def _readable(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
