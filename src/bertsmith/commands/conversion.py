"""The command that turns a model of one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.commands.arguments import Out
from bertsmith.config import Help
from bertsmith.flags import Given, Result


def convert(
    given: Given,
    source: Annotated[Path, Help("model folder, or a Google checkpoint: its folder or prefix")],
    *,
    to: Annotated[
        Literal["hf", "tf1"],
        Help("a folder that transformers opens (hf), or Google's checkpoint (tf1)"),
    ],
    out: Out,
) -> Result:
    """Writes a model in another format and measures how far its answers have moved."""
    from bertsmith.interop.conversion import convert as convert_model

    return convert_model(source, to, out)


COMMANDS = ((convert, ()),)
