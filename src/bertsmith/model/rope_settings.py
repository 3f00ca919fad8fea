"""How a published config.json tells which blocks look how far, and how their positions turn.

There are two forms: numbers (`global_attn_every_n_layers`, `global_rope_theta`,
`local_rope_theta`), and a list of `layer_types` with a table of `rope_parameters`. Both are
written; of a folder that has the second, it is the second that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertsmith.config import ModernBertConfig
from bertsmith.errors import CheckpointError

_FULL, _NEAR = "full_attention", "sliding_attention"


def rope_settings(config: ModernBertConfig) -> dict[str, Any]:
    """Returns the second form of what `config` says in the first."""
    return {
        "layer_types": _layer_types(config.num_hidden_layers, config.global_attn_every_n_layers),
        "rope_parameters": {
            _FULL: {"rope_type": "default", "rope_theta": config.global_rope_theta},
            _NEAR: {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


def settings_of_rope(published: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the first form of what a published config says in the second, where it does.

    Raises:
        CheckpointError: no number says the same, or positions are scaled.
    """
    settings: dict[str, Any] = {}
    if published.get("rope_scaling") is not None:
        raise CheckpointError(
            f"{where}: rope_scaling is {published['rope_scaling']!r}; expected none: positions "
            f"that are scaled are not read"
        )
    types = published.get("layer_types")
    if types is not None:
        settings["global_attn_every_n_layers"] = _every(list(types), where)
    parameters = published.get("rope_parameters") or {}
    for kind, name in ((_FULL, "global_rope_theta"), (_NEAR, "local_rope_theta")):
        found = parameters.get(kind) or {}
        if found.get("rope_type", "default") != "default":
            raise CheckpointError(
                f"{where}: rope_type of {kind} is {found['rope_type']!r}; expected 'default': "
                f"positions that are scaled are not read"
            )
        if found.get("rope_theta") is not None:
            settings[name] = float(found["rope_theta"])
    return settings


def _every(types: list[str], where: str) -> int:
    """Returns the number of which `_layer_types` makes `types`."""
    for number in range(1, len(types) + 1):
        if types == _layer_types(len(types), number):
            return number
    raise CheckpointError(
        f"{where}: layer_types is {types}; expected {_FULL} in the first and in every so many "
        f"blocks from there, and {_NEAR} in the others"
    )


def _layer_types(num_layers: int, every: int) -> list[str]:
    return [_NEAR if number % every else _FULL for number in range(num_layers)]
