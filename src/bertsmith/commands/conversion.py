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
        Literal["hf", "onnx", "sentence-transformers", "tf1"],
        Help("for transformers (hf), other runtimes, sentence vectors, or Google's code (tf1)"),
    ],
    out: Out,
    pooling: Annotated[
        Literal["mean", "cls"] | None,
        Help("how pieces become one vector, for sentence vectors and for the graph of an encoder"),
    ] = None,
) -> Result:
    """Writes a model in another format and measures how far its answers have moved."""
    from bertsmith.interop.conversion import convert as convert_model
    from bertsmith.interop.google import is_google_checkpoint
    from bertsmith.progress import ProgressLine

    path = Path(source)  # a checkpoint is read itself, so that the two differ by nothing else
    model = path if is_google_checkpoint(path) else found(source)
    result = convert_model(model, to, out, pooling)
    if "left_out" in result:
        ProgressLine().say(f"{out}: leaves out {result['left_out']}")
    return result


COMMANDS = ((convert, ()),)
