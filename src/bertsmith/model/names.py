"""Our parameter names and the published ones: one table, read in both directions, strict in both.

The published names are those of `transformers`, which took BERT's from the TensorFlow checkpoints.
Each kind of encoder has a table: BERT's stands here, the modern one's in `modern_names.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bertsmith.errors import CheckpointError

# (ours, theirs); {i} runs over the blocks. Where several of theirs stand, ours is all of them, one
# below the other.
Pairs = tuple[tuple[str, tuple[str, ...]], ...]

ENCODER: Pairs = (
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
HEADS: Pairs = (
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
    ("crf.transitions", ("crf.transitions",)),  # nor these, whose names are those of pytorch-crf
    ("crf.first", ("crf.start_transitions",)),
    ("crf.last", ("crf.end_transitions",)),
    ("spans.weight", ("qa_outputs.weight",)),
    ("spans.bias", ("qa_outputs.bias",)),
)
# How names begin that are published as they are here: no other library has such a head.
OURS_ALONE = "tagger."
# What some files hold twice: the second name is where it stands first.
COPIES = (
    ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
)
# Counters from 0 that old files hold; they are no weights.
IGNORED = frozenset({"bert.embeddings.position_ids"})
# How the oldest files name the two parameters of a norm.
OLD_ENDINGS = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


@dataclass(frozen=True)
class NameTable:
    """The names of one kind of encoder and of what stands on it."""

    prefix: str  # in front of the encoder's published names inside a model
    encoder: Pairs  # ours without `encoder.`, theirs without the prefix
    heads: Pairs  # whole names, but ours of an encoder's own without `encoder.`
    copies: tuple[tuple[str, str], ...]
    pooler: str  # the published name that tells whether there is one
    ignored: frozenset[str] = frozenset()
    old_endings: tuple[tuple[str, str], ...] = ()

    def published(self, name: str, *, inside: bool) -> tuple[str, ...]:
        """Returns the published names of one of our parameters, of a model or of a bare encoder.

        Those of a bare encoder have no prefix, as in the files of `transformers.BertModel`, unless
        it is to be called as it is `inside` a model.
        """
        if name.startswith(OURS_ALONE):
            return (name,)
        in_model = name.startswith("encoder.")
        short = name.removeprefix("encoder.").split(".")
        number = short[1] if short[0] == "blocks" else ""
        key = ".".join(["blocks", "{i}", *short[2:]] if number else short)
        for ours, theirs in self.heads:
            if ours == key:
                return theirs
        prefix = self.prefix if in_model or inside else ""
        return tuple(prefix + their.format(i=number) for their in dict(self.encoder)[key])

    def starts(self) -> tuple[str, ...]:
        """Returns how the published names of a bare encoder start."""
        return tuple({f"{theirs[0].split('.')[0]}." for _, theirs in self.encoder})


BERT = NameTable(
    prefix="bert.",
    encoder=ENCODER,
    heads=HEADS,
    copies=COPIES,
    pooler="bert.pooler.dense.weight",
    ignored=IGNORED,
    old_endings=OLD_ENDINGS,
)


def to_published(state: Mapping[str, Tensor], table: NameTable = BERT) -> dict[str, Tensor]:
    """Returns the parameters of a model or an encoder under their published names."""
    tensors: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        names = table.published(ours, inside=False)
        parts = tensor.chunk(len(names)) if tensor.ndim else (tensor,)
        tensors |= dict(zip(names, parts, strict=True))
    return tensors


def from_published(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    *,
    where: str,
    without_heads: bool = False,
    table: NameTable = BERT,
) -> dict[str, Tensor]:
    """Returns published tensors under our names, for a model whose `state_dict` is `wanted`.

    Only names and shapes of `wanted` are read. With `without_heads`, tensors outside the encoder
    are passed over: that is how the encoder of a model with a head is taken.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape; the names are given.
    """
    found = _current_names(tensors, table)
    for copy, original in table.copies:
        if copy in found and original in found and not without_heads:
            if not torch.equal(found[copy], found[original]):
                raise CheckpointError(
                    f"{where}: {copy} differs from {original}; expected tied weights"
                )
            found.pop(copy)
    # Those of a bare encoder, too, under the names that it has inside a model.
    needed = {ours: table.published(ours, inside=True) for ours in wanted}
    known = {name for names in needed.values() for name in names}
    missing = sorted(known - found.keys())
    left_over = sorted(
        name for name in found.keys() - known if name.startswith(table.prefix) or not without_heads
    )
    if missing or left_over:
        raise CheckpointError(
            f"{where}: {_listed('missing', missing, 'left over', left_over)}; expected exactly the "
            f"tensors of the model that config.json describes"
        )
    result = {}
    for ours, names in needed.items():
        parts = [found[name] for name in names]
        shape = wanted[ours].shape
        if len(names) > 1:
            shape = torch.Size([shape[0] // len(names), *shape[1:]])
        for name, part in zip(names, parts, strict=True):
            if part.shape != shape:
                raise CheckpointError(
                    f"{where}: {name} has the shape {list(part.shape)}; expected {list(shape)}, "
                    f"as config.json says"
                )
        result[ours] = (torch.cat(parts) if len(parts) > 1 else parts[0]).float()
    return result


def has_pooler(tensors: Mapping[str, Tensor], table: NameTable = BERT) -> bool:
    """Returns whether published tensors hold a pooler."""
    return table.pooler in _current_names(tensors, table)


def has_next_sentence(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether published tensors hold a next-sentence head."""
    return "cls.seq_relationship.weight" in _current_names(tensors, BERT)


def _current_names(tensors: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Returns tensors by their newest names, each of the encoder with the prefix in front."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in table.old_endings:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name.startswith(table.starts()):
            name = table.prefix + name
        if name not in table.ignored:
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
