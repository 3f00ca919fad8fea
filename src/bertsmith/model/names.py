"""Our parameter names and the published ones: one table, read in both directions, strict in both.

The published names are those of `transformers`, which took them from the TensorFlow checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bertsmith.errors import CheckpointError

# (ours, theirs); {i} runs over the blocks. Where several of theirs stand, ours is all of them, one
# below the other.
ENCODER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("embeddings.pieces.weight", ("embeddings.word_embeddings.weight",)),
    ("embeddings.positions.weight", ("embeddings.position_embeddings.weight",)),
    ("embeddings.segments.weight", ("embeddings.token_type_embeddings.weight",)),
    ("embeddings.norm.weight", ("embeddings.LayerNorm.weight",)),
    ("embeddings.norm.bias", ("embeddings.LayerNorm.bias",)),
    (
        "blocks.{i}.attention.qkv.weight",
        (
            "encoder.layer.{i}.attention.self.query.weight",
            "encoder.layer.{i}.attention.self.key.weight",
            "encoder.layer.{i}.attention.self.value.weight",
        ),
    ),
    (
        "blocks.{i}.attention.qkv.bias",
        (
            "encoder.layer.{i}.attention.self.query.bias",
            "encoder.layer.{i}.attention.self.key.bias",
            "encoder.layer.{i}.attention.self.value.bias",
        ),
    ),
    (
        "blocks.{i}.attention.output.weight",
        ("encoder.layer.{i}.attention.output.dense.weight",),
    ),
    ("blocks.{i}.attention.output.bias", ("encoder.layer.{i}.attention.output.dense.bias",)),
    (
        "blocks.{i}.attention_norm.weight",
        ("encoder.layer.{i}.attention.output.LayerNorm.weight",),
    ),
    ("blocks.{i}.attention_norm.bias", ("encoder.layer.{i}.attention.output.LayerNorm.bias",)),
    ("blocks.{i}.intermediate.weight", ("encoder.layer.{i}.intermediate.dense.weight",)),
    ("blocks.{i}.intermediate.bias", ("encoder.layer.{i}.intermediate.dense.bias",)),
    ("blocks.{i}.output.weight", ("encoder.layer.{i}.output.dense.weight",)),
    ("blocks.{i}.output.bias", ("encoder.layer.{i}.output.dense.bias",)),
    ("blocks.{i}.output_norm.weight", ("encoder.layer.{i}.output.LayerNorm.weight",)),
    ("blocks.{i}.output_norm.bias", ("encoder.layer.{i}.output.LayerNorm.bias",)),
    ("pooler.weight", ("pooler.dense.weight",)),
    ("pooler.bias", ("pooler.dense.bias",)),
)
HEADS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("masked.dense.weight", ("cls.predictions.transform.dense.weight",)),
    ("masked.dense.bias", ("cls.predictions.transform.dense.bias",)),
    ("masked.norm.weight", ("cls.predictions.transform.LayerNorm.weight",)),
    ("masked.norm.bias", ("cls.predictions.transform.LayerNorm.bias",)),
    ("masked.bias", ("cls.predictions.bias",)),
    ("next.weight", ("cls.seq_relationship.weight",)),
    ("next.bias", ("cls.seq_relationship.bias",)),
    ("classifier.weight", ("classifier.weight",)),
    ("classifier.bias", ("classifier.bias",)),
    ("intents.weight", ("intent_classifier.weight",)),  # transformers has no such head
    ("intents.bias", ("intent_classifier.bias",)),
    ("spans.weight", ("qa_outputs.weight",)),
    ("spans.bias", ("qa_outputs.bias",)),
)
# What some files hold twice: the second name is where it stands first.
COPIES = (
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)
# Counters from 0 that old files hold; they are no weights.
IGNORED = frozenset({"bert.embeddings.position_ids"})
# How the oldest files name the two parameters of a norm.
OLD_ENDINGS = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


def published_names(name: str) -> tuple[str, ...]:
    """Returns the published names of one of our parameters, of a model or of a bare encoder.

    Those of a bare encoder have no `bert.` in front, as in the files of `transformers.BertModel`.
    """
    parts = name.split(".")
    inside = parts[0] == "encoder"
    short = parts[1:] if inside else parts
    number = short[1] if short[0] == "blocks" else ""
    key = ".".join(["blocks", "{i}", *short[2:]] if number else short)
    theirs = dict(ENCODER + HEADS)[key]
    return tuple(("bert." if inside else "") + their.format(i=number) for their in theirs)


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parameters of a model or an encoder under their published names."""
    tensors: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        names = published_names(ours)
        tensors |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return tensors


def from_published(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    where: str,
    without_heads: bool = False,
) -> dict[str, Tensor]:
    """Returns published tensors under our names, for a model whose `state_dict` is `wanted`.

    Only names and shapes of `wanted` are read. With `without_heads`, tensors outside the encoder
    are passed over: that is how the encoder of a model with a head is taken.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape; the names are given.
    """
    found = _current_names(tensors)
    for copy, original in COPIES:
        if copy in found and original in found and not without_heads:
            if not torch.equal(found[copy], found[original]):
                raise CheckpointError(
                    f"{where}: {copy} differs from {original}; expected the tied weights of a BERT"
                )
            found.pop(copy)
    prefix = "" if any(name.startswith("encoder.") for name in wanted) else "bert."
    needed = {
        ours: tuple(prefix + name for name in published_names(ours)) for ours in wanted
    }  # of a bare encoder, too, under the names that it has inside a model
    known = {name for names in needed.values() for name in names}
    missing = sorted(known - found.keys())
    left_over = sorted(
        name for name in found.keys() - known if name.startswith("bert.") or not without_heads
    )
    if missing or left_over:
        raise CheckpointError(
            f"{where}: {_listed('missing', missing, 'left over', left_over)}; expected exactly the "
            f"tensors of the model that config.json describes"
        )
    result = {}
    for ours, names in needed.items():
        parts = [found[name] for name in names]
        shape = torch.Size([wanted[ours].shape[0] // len(names), *wanted[ours].shape[1:]])
        for name, part in zip(names, parts, strict=True):
            if part.shape != shape:
                raise CheckpointError(
                    f"{where}: {name} has the shape {list(part.shape)}; expected {list(shape)}, "
                    f"as config.json says"
                )
        result[ours] = (torch.cat(parts) if len(parts) > 1 else parts[0]).float()
    return result


def has_pooler(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether published tensors hold a pooler."""
    return "bert.pooler.dense.weight" in _current_names(tensors)


def has_next_sentence(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether published tensors hold a next-sentence head."""
    return "cls.seq_relationship.weight" in _current_names(tensors)


def _current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors by their newest names, each of the encoder with `bert.` in front."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in OLD_ENDINGS:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name.startswith(("embeddings.", "encoder.", "pooler.")):
            name = "bert." + name
        if name not in IGNORED:
            found[name] = tensor
    return found


def _listed(first: str, names: Iterable[str], second: str, others: Iterable[str]) -> str:
    """Returns which tensors are missing and which left over, at most six of each by name."""
    parts = []
    for what, group in ((first, list(names)), (second, list(others))):
        if group:
            more = f" and {len(group) - 6} more" if len(group) > 6 else ""
            parts.append(
                f"{', '.join(group[:6])}{more} {'is' if len(group) == 1 else 'are'} {what}"
            )
    return " and ".join(parts)
