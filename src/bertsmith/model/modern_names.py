"""Our parameter names of the modern encoder and the published ones; see `names.py`."""

from __future__ import annotations

from bertsmith.model.names import NameTable, Pairs

ENCODER: Pairs = (
    ("embeddings.pieces.weight", ("embeddings.tok_embeddings.weight",)),
    ("embeddings.norm.weight", ("embeddings.norm.weight",)),
    ("embeddings.norm.bias", ("embeddings.norm.bias",)),
    ("blocks.{i}.attention_norm.weight", ("layers.{i}.attn_norm.weight",)),
    ("blocks.{i}.attention_norm.bias", ("layers.{i}.attn_norm.bias",)),
    ("blocks.{i}.attention.qkv.weight", ("layers.{i}.attn.Wqkv.weight",)),
    ("blocks.{i}.attention.qkv.bias", ("layers.{i}.attn.Wqkv.bias",)),
    ("blocks.{i}.attention.output.weight", ("layers.{i}.attn.Wo.weight",)),
    ("blocks.{i}.attention.output.bias", ("layers.{i}.attn.Wo.bias",)),
    ("blocks.{i}.output_norm.weight", ("layers.{i}.mlp_norm.weight",)),
    ("blocks.{i}.output_norm.bias", ("layers.{i}.mlp_norm.bias",)),
    ("blocks.{i}.intermediate.weight", ("layers.{i}.mlp.Wi.weight",)),
    ("blocks.{i}.intermediate.bias", ("layers.{i}.mlp.Wi.bias",)),
    ("blocks.{i}.output.weight", ("layers.{i}.mlp.Wo.weight",)),
    ("blocks.{i}.output.bias", ("layers.{i}.mlp.Wo.bias",)),
    ("norm.weight", ("final_norm.weight",)),
    ("norm.bias", ("final_norm.bias",)),
)
HEADS: Pairs = (
    ("pooler.dense.weight", ("head.dense.weight",)),  # ours stands in the encoder
    ("pooler.dense.bias", ("head.dense.bias",)),
    ("pooler.norm.weight", ("head.norm.weight",)),
    ("pooler.norm.bias", ("head.norm.bias",)),
    ("masked.bias", ("decoder.bias",)),
    ("classifier.weight", ("classifier.weight",)),
    ("classifier.bias", ("classifier.bias",)),
    ("intents.weight", ("intent_classifier.weight",)),  # transformers has no such head
    ("intents.bias", ("intent_classifier.bias",)),
    ("crf.transitions", ("crf.transitions",)),  # nor these, whose names are those of pytorch-crf
    ("crf.first", ("crf.start_transitions",)),
    ("crf.last", ("crf.end_transitions",)),
    ("spans.weight", ("classifier.weight",)),  # of `ModernBertForQuestionAnswering`
    ("spans.bias", ("classifier.bias",)),
)
MODERN = NameTable(
    prefix="model.",
    encoder=ENCODER,
    heads=HEADS,
    copies=(("decoder.weight", "model.embeddings.tok_embeddings.weight"),),
    pooler="head.dense.weight",
)
