"""Commands that use a model, or look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from bertsmith.commands.arguments import Model, Out, found
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
    out: Annotated[Path, Help("file to write: .npy, or .parquet with the texts and their ids")],
    pooling: Annotated[
        Literal["mean", "cls"] | None,
        Help("how pieces become one vector: as the model says, or mean"),
    ] = None,
    layers: Annotated[
        str, Help("as in -1, the last, or the mean of several: 0,6,12 or -4:-1; 0: the embeddings")
    ] = "-1",
    normalize: Annotated[
        bool | None, Help("make every vector one unit long; by default as the model says")
    ] = None,
    max_length: Annotated[
        int | None, Help("pieces that are read of each text; by default as in training")
    ] = None,
    whitening: Annotated[
        bool, Help("make dimensions uncorrelated; what is fitted is written beside OUT")
    ] = False,
    whitened_by: Annotated[
        Path | None, Help("file.whitening.npz of other texts, to be comparable with them")
    ] = None,
    dimensions: Annotated[int | None, Help("that whitening keeps; all by default")] = None,
) -> Result:
    """Writes one vector for each text."""
    from bertsmith.embeddings import embed_file
    from bertsmith.predict import load

    engine, columns = given.stage(InferenceConfig).to_mapping(), given.stage(ColumnsConfig)
    return embed_file(
        load(model, **engine, sample=text, columns=columns),
        text,
        out,
        columns,
        pooling=pooling,
        layers=layers,
        normalize=normalize,
        max_length=max_length,
        whitening=whitening,
        whitened_by=whitened_by,
        dimensions=dimensions,
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

    return write_features(found(model), text, out, layers, given.stage(ColumnsConfig))


def extend(
    given: Given,
    model: Model,
    *,
    words: Annotated[Path, Help("text file of the domain's words, one a line")],
    out: Out,
) -> Result:
    """Makes a domain's words pieces of a model's vocabulary, each with the mean of its parts."""
    from bertsmith.recipes.extend import extend

    return extend(found(model), words, out)


def inspect(
    given: Given,
    model: Annotated[str, Help("model as elsewhere, or a size such as base or L6-H384")],
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
    (extend, ()),
    (inspect, ()),
    (env, ()),
)
