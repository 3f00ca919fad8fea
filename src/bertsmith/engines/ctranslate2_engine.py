"""BERT by CTranslate2: its own products, threads and, if asked for, whole numbers of 8 bits.

Weights go from our encoder to CTranslate2's format directly. Within it padding is left out of all
but attention, so that parts of a batch may be wide.

Shapes:  T tokens   H hidden size   B sequences of one part   L longest of them
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bertsmith.engines.cache import converted
from bertsmith.engines.padding import Part, parts_of, states_by_parts
from bertsmith.errors import ConfigError, MissingInputError
from bertsmith.model.bert import Bert, Block
from bertsmith.model.kinds import Encoder

NAME = "ctranslate2"
_FORM = 1  # of what `_write` writes; part of the cache's key
_FILES = ("model.bin", "config.json", "vocabulary.json")
_PLACES = 4096  # of one part
_NEARNESS = 0.5  # what is shorter than half of the longest is another part: attention is padded
_COMPUTE_TYPES = {"float32": "float32", "int8": "int8_float32"}


def why_not(encoder: Encoder) -> str | None:
    """Returns what keeps CTranslate2 from computing this encoder, or None."""
    if not isinstance(encoder, Bert):
        return "it has no local attention with rotary positions, which modern encoders have"
    if encoder.config.is_decoder:
        return "its encoders read in both directions, and this one reads left to right"
    return None


class CTranslate2Engine:
    """The states of a BERT by CTranslate2."""

    name = NAME

    def __init__(self, encoder: Encoder, precision: str = "float32") -> None:
        """Converts the encoder, unless its converted form is cached, and loads it.

        Raises:
            MissingInputError: CTranslate2 is not installed.
            ConfigError: the encoder is of a kind that it cannot compute.
            StorageError: the cache cannot be written.
        """
        ctranslate2 = _library()
        if reason := why_not(encoder):
            raise ConfigError(f"engine is {NAME}, but {reason}; expected engine torch")
        self.precision = precision
        self.threads = torch.get_num_threads()
        self._hidden_size = encoder.config.hidden_size
        maker = f"{NAME}-{ctranslate2.__version__}-{_FORM}"
        folder = converted(encoder, maker, _FILES, lambda place: _write(encoder, place))
        self._view = ctranslate2.StorageView
        self._encoder = ctranslate2.Encoder(
            str(folder),
            device="cpu",
            compute_type=_COMPUTE_TYPES[precision],
            inter_threads=1,
            intra_threads=self.threads,
        )

    def __call__(
        self, piece_ids: Tensor, segment_ids: Tensor, position_ids: Tensor, sequence_starts: Tensor
    ) -> Tensor:
        """Returns the states of the last block; see `Bert.forward`. [T, H]"""
        parts = parts_of(
            piece_ids, segment_ids, sequence_starts, places=_PLACES, nearness=_NEARNESS
        )
        return states_by_parts(self._compute, parts, len(piece_ids), self._hidden_size)

    def _compute(self, part: Part) -> NDArray[np.float32]:
        found = self._encoder.forward_batch(
            self._view.from_array(part.piece_ids),
            self._view.from_array(part.lengths),
            part.segment_ids.tolist() if part.segment_ids.any() else None,
        )
        return np.asarray(found.last_hidden_state)  # [B, L, H], a view of its memory


def _library() -> Any:
    try:
        import ctranslate2
    except ImportError:
        raise MissingInputError(
            "engine ctranslate2 is not installed; install it: pip install 'bertsmith[ctranslate2]'"
        ) from None
    return ctranslate2


def _write(encoder: Encoder, folder: Path) -> None:
    """Writes an encoder into `folder` as CTranslate2 reads it.

    Source: `ctranslate2.converters.transformers.BertLoader`.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    assert isinstance(encoder, Bert)
    config = encoder.config
    activations = common_spec.Activation
    spec = transformer_spec.TransformerEncoderModelSpec(
        transformer_spec.TransformerEncoderSpec(
            config.num_hidden_layers,
            config.num_attention_heads,
            pre_norm=False,
            activation={
                "gelu": activations.GELU,
                "gelu_new": activations.GELUTanh,
                "relu": activations.RELU,
            }[config.hidden_act],
            layernorm_embedding=True,
            num_source_embeddings=2,
            embeddings_merge=common_spec.EmbeddingsMerge.ADD,
        )
    )
    body = spec.encoder
    body.scale_embeddings = False
    body.embeddings[0].weight = _array(encoder.embeddings.pieces.weight)
    body.embeddings[1].weight = _array(encoder.embeddings.segments.weight)
    body.position_encodings.encodings = _array(encoder.embeddings.positions.weight)
    _norm(body.layernorm_embedding, encoder.embeddings.norm)
    for place, block in zip(body.layer, encoder.blocks, strict=True):
        assert isinstance(block, Block)
        _linear(place.self_attention.linear[0], block.attention.qkv)
        _linear(place.self_attention.linear[1], block.attention.output)
        _norm(place.self_attention.layer_norm, block.attention_norm)
        _linear(place.ffn.linear_0, block.intermediate)
        _linear(place.ffn.linear_1, block.output)
        _norm(place.ffn.layer_norm, block.output_norm)
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    pieces = [str(number) for number in range(config.vocab_size)]  # it is asked by number alone
    spec.config.unk_token = pieces[0]
    spec.register_vocabulary(pieces)
    spec.validate()
    spec.optimize()
    spec.save(str(folder))


def _linear(place: Any, layer: nn.Linear) -> None:
    place.weight, place.bias = _array(layer.weight), _array(layer.bias)


def _norm(place: Any, norm: nn.LayerNorm) -> None:
    place.gamma, place.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().cpu().float().contiguous().numpy()
