"""The command that turns a model of one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.commands.arguments import Model, Out, found
from bertsmith.config import Help
from bertsmith.flags import Given, Result


def convert(
    given: Given,
    source: Model,
    *,
    to: Annotated[
        Literal["hf", "sentence-transformers", "tf1"],
        Help("a folder that transformers opens (hf), one for sentence vectors, or Google's (tf1)"),
    ],
    out: Out,
) -> Result:
    """Writes a model in another format and measures how far its answers have moved."""
    from bertsmith.interop.conversion import convert as convert_model
    from bertsmith.interop.google import is_google_checkpoint

    path = Path(source)  # a checkpoint is read itself, so that the two differ by nothing else
    return convert_model(path if is_google_checkpoint(path) else found(source), to, out)


COMMANDS = ((convert, ()),)
