"""Layers of an encoder as a user names them: '-1', '0,6,12' or '-4:-1'."""

from __future__ import annotations

import re
from functools import cache

from bertsmith.errors import ConfigError


@cache
def parse_layers(chosen: str, num_layers: int) -> tuple[int, ...]:
    """Returns the layers that a text such as '-4:-1' or '0,6,12' names, counted from 0.

    0 are the embeddings, 1 the first block, -1 the last one. A range holds both its ends, so that
    '-4:-1' are the last four; an end that is left out is the first or the last layer.

    Raises:
        ConfigError: it is not of that form, or names a layer that the model does not have.
    """
    layers: list[int] = []
    for part in chosen.split(","):
        found = re.fullmatch(r"\s*(-?\d{1,4})?\s*(:)?\s*(-?\d{1,4})?\s*", part)
        if not found or not any(found.groups()) or (found[3] and not found[2]):
            raise ConfigError(
                f"layers is {chosen!r}; expected numbers or ranges, as in '-1', '0,6,12' or '-4:-1'"
            )
        first = _layer(found[1] or "0", num_layers, chosen)
        last = first if not found[2] else _layer(found[3] or "-1", num_layers, chosen)
        if last < first:
            raise ConfigError(f"layers is {chosen!r}, where {part.strip()!r} holds none; turn it")
        layers += range(first, last + 1)
    return tuple(layers)


def _layer(number: str, num_layers: int, chosen: str) -> int:
    layer = int(number)
    if not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(
            f"layers is {chosen!r}, but the model has {num_layers} blocks; expected "
            f"{-num_layers - 1} to {num_layers}, where 0 are the embeddings"
        )
    return layer % (num_layers + 1)
