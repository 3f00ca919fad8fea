"""Our parameter names and those of Google's published code: one table, read in both directions.

Its dense layers hold their weight as [in, out] and call it a kernel; ours are [out, in].

Source: `modeling.py`, `run_pretraining.py`, `run_classifier.py` and `run_squad.py` of
google-research/bert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from bertsmith.errors import CheckpointError, ConfigError

# (ours, theirs); {i} runs over the blocks. Where several of theirs stand, ours is all of them, one
# below the other.
_LAYER = "bert/encoder/layer_{i}"
_ATTENTION = f"{_LAYER}/attention/self"
NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("encoder.embeddings.pieces.weight", ("bert/embeddings/word_embeddings",)),
    ("encoder.embeddings.positions.weight", ("bert/embeddings/position_embeddings",)),
    ("encoder.embeddings.segments.weight", ("bert/embeddings/token_type_embeddings",)),
    ("encoder.embeddings.norm.weight", ("bert/embeddings/LayerNorm/gamma",)),
    ("encoder.embeddings.norm.bias", ("bert/embeddings/LayerNorm/beta",)),
    (
        "encoder.blocks.{i}.attention.qkv.weight",
        (f"{_ATTENTION}/query/kernel", f"{_ATTENTION}/key/kernel", f"{_ATTENTION}/value/kernel"),
    ),
    (
        "encoder.blocks.{i}.attention.qkv.bias",
        (f"{_ATTENTION}/query/bias", f"{_ATTENTION}/key/bias", f"{_ATTENTION}/value/bias"),
    ),
    (
        "encoder.blocks.{i}.attention.output.weight",
        (f"{_LAYER}/attention/output/dense/kernel",),
    ),
    ("encoder.blocks.{i}.attention.output.bias", (f"{_LAYER}/attention/output/dense/bias",)),
    (
        "encoder.blocks.{i}.attention_norm.weight",
        (f"{_LAYER}/attention/output/LayerNorm/gamma",),
    ),
    ("encoder.blocks.{i}.attention_norm.bias", (f"{_LAYER}/attention/output/LayerNorm/beta",)),
    ("encoder.blocks.{i}.intermediate.weight", (f"{_LAYER}/intermediate/dense/kernel",)),
    ("encoder.blocks.{i}.intermediate.bias", (f"{_LAYER}/intermediate/dense/bias",)),
    ("encoder.blocks.{i}.output.weight", (f"{_LAYER}/output/dense/kernel",)),
    ("encoder.blocks.{i}.output.bias", (f"{_LAYER}/output/dense/bias",)),
    ("encoder.blocks.{i}.output_norm.weight", (f"{_LAYER}/output/LayerNorm/gamma",)),
    ("encoder.blocks.{i}.output_norm.bias", (f"{_LAYER}/output/LayerNorm/beta",)),
    ("encoder.pooler.weight", ("bert/pooler/dense/kernel",)),
    ("encoder.pooler.bias", ("bert/pooler/dense/bias",)),
    ("masked.dense.weight", ("cls/predictions/transform/dense/kernel",)),
    ("masked.dense.bias", ("cls/predictions/transform/dense/bias",)),
    ("masked.norm.weight", ("cls/predictions/transform/LayerNorm/gamma",)),
    ("masked.norm.bias", ("cls/predictions/transform/LayerNorm/beta",)),
    ("masked.bias", ("cls/predictions/output_bias",)),
    ("next.weight", ("cls/seq_relationship/output_weights",)),
    ("next.bias", ("cls/seq_relationship/output_bias",)),
    ("classifier.weight", ("output_weights",)),  # run_classifier.py gives it no scope
    ("classifier.bias", ("output_bias",)),
    ("spans.weight", ("cls/squad/output_weights",)),
    ("spans.bias", ("cls/squad/output_bias",)),
)
POOLER = ("bert/pooler/dense/kernel", "bert/pooler/dense/bias")
# What an optimizer keeps of every weight, and how far it was: run_pretraining.py's own, and what
# later versions of the same optimizer call them.
_OPTIMIZER_ENDINGS = (
    "/adam_m",
    "/adam_v",
    "/AdamWeightDecayOptimizer",
    "/AdamWeightDecayOptimizer_1",
)
_STEP = "global_step"


def is_of_training(name: str) -> bool:
    """Returns whether a tensor is the optimizer's or counts its steps, and no weight."""
    return name == _STEP or name.endswith(_OPTIMIZER_ENDINGS)


def google_names(ours: str) -> tuple[str, ...]:
    """Returns Google's names of one of our parameters; one of a bare encoder counts as a model's.

    Raises:
        ConfigError: Google's code has no such parameter.
    """
    known = dict(NAMES)
    parts = ours.removeprefix("encoder.").split(".")
    number = ""
    if parts[0] == "blocks":
        number, parts[1] = parts[1], "{i}"
    key = ".".join(parts)
    for name in (key, f"encoder.{key}"):
        if name in known:
            return tuple(theirs.format(i=number) for theirs in known[name])
    raise ConfigError(f"Google's checkpoints have no place for {ours}")


def to_google(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the parameters of a model under Google's names, in the order of these names.

    Each is made when it is asked for, so that one copy at a time is held.
    """
    places = {
        theirs: (ours, number, len(names))
        for ours in state
        for names in [google_names(ours)]
        for number, theirs in enumerate(names)
    }
    for theirs in sorted(places, key=str.encode):
        ours, number, parts = places[theirs]
        part = state[ours].detach().chunk(parts)[number]
        yield theirs, part.t() if _is_kernel(theirs) else part


def expected_shapes(wanted: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each of Google's tensors that a model's parameters are made of."""
    shapes = {}
    for ours, tensor in wanted.items():
        names = google_names(ours)
        shape = (tensor.shape[0] // len(names), *tensor.shape[1:])
        for theirs in names:
            shapes[theirs] = shape[::-1] if _is_kernel(theirs) else shape
    return shapes


def from_google(ours: str, parts: Iterable[Tensor]) -> Tensor:
    """Returns one of our parameters from Google's tensors, in the order of `google_names`."""
    turned = [
        part.t() if _is_kernel(theirs) else part
        for theirs, part in zip(google_names(ours), parts, strict=True)
    ]
    return (torch.cat(turned) if len(turned) > 1 else turned[0]).float().contiguous()


def check_names(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Refuses tensors that are missing, left over or of another shape, and names them.

    Raises:
        CheckpointError: some are.
    """
    missing = sorted(wanted.keys() - found.keys())
    left_over = sorted(found.keys() - wanted.keys())
    reasons = [
        f"{', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''} "
        f"{'is' if len(names) == 1 else 'are'} {what}"
        for what, names in (("missing", missing), ("left over", left_over))
        if names
    ]
    if reasons:
        raise CheckpointError(
            f"{where}: {' and '.join(reasons)}; expected exactly the tensors of the model that "
            f"bert_config.json describes, and those of its optimizer"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{where}: {name} has the shape {list(found[name])}; expected {list(shape)}, as "
                f"bert_config.json says"
            )


def _is_kernel(name: str) -> bool:
    return name.endswith("/kernel")
