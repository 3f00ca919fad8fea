"""BERT by onnxruntime, as a graph of its fused operators.

onnxruntime computes padding like all else, so that parts of a batch are small and of near length.

Shapes:  T tokens   H hidden size   B sequences of one part   L longest of them
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertsmith.engines.cache import converted
from bertsmith.engines.onnxruntime_graph import INPUTS, OUTPUT, write_graph
from bertsmith.engines.padding import Part, parts_of, states_by_parts
from bertsmith.errors import ConfigError, MissingInputError
from bertsmith.model.bert import Bert
from bertsmith.model.kinds import Encoder

NAME = "onnxruntime"
_FORM = 1  # of the graph; part of the cache's key
_FILES = {"float32": "model.onnx", "int8": "model-int8.onnx"}
_PLACES = 512  # of one part: what is read and written between products stays in the cache
_NEARNESS = 0.85  # places that padding takes of a part: few


def why_not(encoder: Encoder) -> str | None:
    """Returns what keeps this engine from computing the encoder, or None."""
    if not isinstance(encoder, Bert):
        return "it has no fused operators for modern encoders"
    return None


class OnnxRuntimeEngine:
    """The states of a BERT by onnxruntime."""

    name = NAME

    def __init__(self, encoder: Encoder, precision: str = "float32") -> None:
        """Converts the encoder, unless its converted form is cached, and loads it.

        Raises:
            MissingInputError: onnxruntime or onnx is not installed.
            ConfigError: the encoder is of a kind that it cannot compute.
            StorageError: the cache cannot be written.
        """
        onnxruntime = _library()
        if reason := why_not(encoder):
            raise ConfigError(f"engine is {NAME}, but {reason}; expected engine torch")
        assert isinstance(encoder, Bert)
        self.precision = precision
        self.threads = torch.get_num_threads()
        self._hidden_size = encoder.config.hidden_size
        file = _FILES[precision]
        maker = f"{NAME}-{onnxruntime.__version__}-{_FORM}-{precision}"
        folder = converted(
            encoder, maker, (file,), lambda place: _write(encoder, place / file, precision)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3  # errors alone: they come as exceptions too
        self._session = onnxruntime.InferenceSession(
            str(folder / file), options, providers=["CPUExecutionProvider"]
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
        values = (part.piece_ids, part.segment_ids, part.lengths)
        (found,) = self._session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))
        return found  # [B, L, H]


def _library() -> Any:
    with suppress(ImportError):
        import onnxruntime

        if find_spec("onnx"):  # writes the graph, and takes 0.1 s to load: not where it is cached
            return onnxruntime
    raise MissingInputError(
        "engine onnxruntime is not installed; install it: pip install 'bertsmith[onnx]'"
    )


def _write(encoder: Bert, path: Path, precision: str) -> None:
    """Writes the graph of an encoder, its products in whole numbers of 8 bits if so asked."""
    if precision == "float32":
        write_graph(encoder, path)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = path.with_name("exact.onnx")
    write_graph(encoder, exact)
    quantize_dynamic(
        exact,
        path,
        op_types_to_quantize=["MatMul", "Attention"],
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": 1},
    )
    exact.unlink()
