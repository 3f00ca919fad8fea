"""A model from one format into another, and how far the answers of the two lie apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertsmith.errors import ConfigError, nearest
from bertsmith.folder import Loaded, load_model, save_model
from bertsmith.interop.difference import SENTENCES, max_abs_difference
from bertsmith.interop.google import (
    is_google_checkpoint,
    read_google_checkpoint,
    write_google_checkpoint,
)
from bertsmith.interop.sentence_transformers import pooling_facts, write_sentence_folder
from bertsmith.model.kinds import Encoder
from bertsmith.model.published import encoder_in
from bertsmith.model.task_heads import BertForTagging
from bertsmith.tasks.vectors import Pooling


def convert(source: Path, to: str, out: Path, pooling: Pooling | None = None) -> dict[str, Any]:
    """Writes the model of `source` as the format `to` has it, and measures what that has changed.

    `pooling` says what a text's vector is made of, in the formats that hold that; by default as the
    source's folder has it.

    Returns `max_abs_difference` (of every state and logit on the built-in `sentences`, once what
    was written is read again; 0.0 where nothing is lost), `sentences`, `format` and `out`; and
    `left_out`, what of the model the format cannot hold, where that changes its answers.

    Raises:
        ConfigError: the format is none of `WRITERS`, or cannot hold the model.
        MissingInputError, CheckpointError: the source is not there, or damaged.
        FolderInUseError, StorageError: `out` cannot be written.
    """
    if to not in WRITERS:
        raise ConfigError(f"there is no format {to!r}{nearest(to, WRITERS)}")
    loaded = read_any(source)
    if pooling is not None:
        if to not in _WITH_VECTORS:
            raise ConfigError(
                f"pooling is {pooling!r}, but the format {to} does not say how texts become "
                f"vectors; leave it out, or expected one of {', '.join(_WITH_VECTORS)}"
            )
        loaded = replace(loaded, facts=loaded.facts | {"pooling": pooling})
    difference = WRITERS[to](loaded, out)
    result = {
        "max_abs_difference": difference,
        "sentences": len(SENTENCES),
        "format": to,
        "out": str(out),
    }
    if to == "sentence-transformers" and not isinstance(loaded.model, Encoder):
        told = [name for name in _FACTS_OF_HEADS if loaded.facts.get(name)]
        left = ", ".join(["head", *told])
        result["left_out"] = f"all but the encoder ({left}): vectors of texts need none of it"
    if to == "onnx" and isinstance(loaded.model, BertForTagging) and loaded.model.crf is not None:
        result["left_out"] = "the CRF: the graph gives the scores of each word by itself"
    return result


def read_any(source: Path) -> Loaded:
    """Returns the model of a Google checkpoint or of a model folder.

    Raises:
        MissingInputError, CheckpointError, ConfigError: see the readers of the two.
    """
    if is_google_checkpoint(source):
        return read_google_checkpoint(source)
    loaded = load_model(source)
    return replace(loaded, facts=pooling_facts(source) | loaded.facts)


def _write_folder(loaded: Loaded, out: Path) -> float:
    save_model(out, loaded.model, loaded.tokenizer, loaded.facts)
    return max_abs_difference(loaded, load_model(out))


def _write_google(loaded: Loaded, out: Path) -> float:
    write_google_checkpoint(loaded, out)
    return max_abs_difference(loaded, read_google_checkpoint(out))


def _write_sentence(loaded: Loaded, out: Path) -> float:
    write_sentence_folder(loaded, out)
    encoder = encoder_in(loaded.model)  # what it holds; a head is left out
    return max_abs_difference(replace(loaded, model=encoder), load_model(out))


def _write_graph(loaded: Loaded, out: Path) -> float:
    from bertsmith.interop.onnx import write_onnx  # torch's exporter takes a second to load

    pooling = loaded.facts.get("pooling")
    return float(write_onnx(loaded, out, pooling)["max_abs_difference"])


# Each writes a model whole or not at all, reads it again, and returns the largest difference.
WRITERS: dict[str, Callable[[Loaded, Path], float]] = {
    "hf": _write_folder,
    "tf1": _write_google,
    "sentence-transformers": _write_sentence,
    "onnx": _write_graph,
}
_FACTS_OF_HEADS = ("labels", "temperature", "thresholds")
_WITH_VECTORS = ("sentence-transformers", "onnx")
