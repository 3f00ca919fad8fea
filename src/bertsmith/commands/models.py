"""Commands that use a model, or look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.commands.arguments import Model
from bertsmith.config import ColumnsConfig, Help, InferenceConfig
from bertsmith.flags import Given, Result


def fill(
    given: Given,
    model: Model,
    text: Annotated[str, Help("text with one [MASK] or more")],
    *,
    top: Annotated[int, Help("pieces shown for each mask")] = 5,
) -> Result:
    """Shows the likeliest pieces behind each [MASK]."""
    from bertsmith.predict import load

    engine = given.stage(InferenceConfig).to_mapping()
    loaded = load(model, **engine, sample=[text])
    return {"predictions": loaded.fill_mask(text, top=top), **loaded.engine_said}


def embed(
    given: Given,
    model: Model,
    text: Annotated[Path, Help("text file, one text a line, or a table")],
    *,
    out: Annotated[Path, Help("file.npy to write")],
    pooling: Annotated[Literal["mean", "cls"], Help("how pieces become one vector")] = "mean",
    layers: Annotated[int, Help("layer that is read; -1 is the last, 0 the embeddings")] = -1,
    normalize: Annotated[bool, Help("make every vector one unit long")] = False,
) -> Result:
    """Writes one vector for each text."""
    from bertsmith.predict import load

    engine, columns = given.stage(InferenceConfig).to_mapping(), given.stage(ColumnsConfig)
    return load(model, **engine, sample=text, columns=columns).embed_file(
        text,
        out,
        columns,
        pooling=pooling,
        layers=layers,
        normalize=normalize,
    )


def features(
    given: Given,
    model: Model,
    text: Annotated[Path, Help("text file, one text a line, or a table")],
    *,
    out: Annotated[Path, Help("file to write: .npz, or .npy for the states alone")],
    layers: Annotated[
        str, Help("as in -1 or 0,6,12 or -4:-1, the last four; 0 are the embeddings")
    ] = "-1",
) -> Result:
    """Writes the states of chosen layers for every piece of every text."""
    from bertsmith.recipes.features import write_features

    return write_features(model, text, out, layers, given.stage(ColumnsConfig))


def inspect(
    given: Given,
    model: Annotated[str, Help("model folder, or a size such as base or L6-H384")],
) -> Result:
    """Shows parameters, operations and memory of a model or a size."""
    from bertsmith.lab.inspection import account

    return account(model)


def env(given: Given) -> Result:
    """Shows what this machine and this installation can do."""
    from bertsmith.lab.environment import describe

    return describe()


COMMANDS = (
    (fill, (InferenceConfig,)),
    (embed, (ColumnsConfig, InferenceConfig)),
    (features, (ColumnsConfig,)),
    (inspect, ()),
    (env, ()),
)
