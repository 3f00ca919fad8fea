"""BERT as a graph of onnxruntime's own fused operators, written from the weights directly.

Embeddings with their norm, attention with its first product, a sum with its norm and a bias with
its GELU are one operator each. The graph is for onnxruntime alone; one that anybody reads is made
by `interop.onnx`.

Shapes:  B sequences   L longest of them   H hidden size
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from bertsmith.errors import ConfigError
from bertsmith.model.bert import Bert, Block

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

INPUTS = ("piece_ids", "segment_ids", "lengths")
OUTPUT = "states"
_OWN = "com.microsoft"  # the domain of onnxruntime's own operators
_OPERATORS, _OWN_OPERATORS, _FORMAT = 17, 1, 8  # versions that onnxruntime has read since 1.13
_PREPARED = "onnx.quant.pre_process"  # by which the quantiser knows that all shapes are plain
_LARGEST = 2**31  # bytes of one file of this format


class _Graph:
    """The nodes and weights of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, tensor: Tensor) -> str:
        """Adds a tensor and returns its name."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        values = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, inputs: list[str], domain: str = _OWN, **attributes: object) -> str:
        """Adds an operator and returns the name of its first output."""
        from onnx import helper

        name = f"s{len(self.nodes)}"
        outputs = [name, f"{name}_mask"] if kind == "EmbedLayerNormalization" else [name]
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return name


def write_graph(encoder: Bert, path: Path) -> None:
    """Writes an encoder as a graph: `INPUTS`, int32 [B, L] twice and [B], to `OUTPUT`, [B, L, H].

    Raises:
        ConfigError: its weights do not fit into one file of the format.
    """
    import onnx
    from onnx import TensorProto, helper

    num_bytes = sum(weight.numel() * 4 for weight in encoder.parameters())
    if num_bytes >= _LARGEST:
        raise ConfigError(
            f"engine is onnxruntime, but the encoder's weights take {num_bytes:,} bytes and one "
            f"file of ONNX holds {_LARGEST:,}; expected engine torch or ctranslate2"
        )
    graph = _Graph()
    states = _embeddings(graph, encoder)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        states = _block(graph, encoder, block, states)
    graph.nodes[-1].output[0] = OUTPUT
    shapes = (["B", "L"], ["B", "L"], ["B"])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [
                helper.make_tensor_value_info(name, TensorProto.INT32, shape)
                for name, shape in zip(INPUTS, shapes, strict=True)
            ],
            [
                helper.make_tensor_value_info(
                    OUTPUT, TensorProto.FLOAT, ["B", "L", encoder.config.hidden_size]
                )
            ],
            graph.weights,
        ),
        opset_imports=[
            helper.make_opsetid("", _OPERATORS),
            helper.make_opsetid(_OWN, _OWN_OPERATORS),
        ],
        ir_version=_FORMAT,
    )
    helper.set_model_props(model, {_PREPARED: "onnxruntime.quant"})
    onnx.save(model, str(path))


def _embeddings(graph: _Graph, encoder: Bert) -> str:
    parts = encoder.embeddings
    tables = (parts.pieces.weight, parts.positions.weight, parts.segments.weight)
    return graph.node(
        "EmbedLayerNormalization",
        [
            *INPUTS[:2],
            *(graph.weight(table) for table in tables),
            graph.weight(parts.norm.weight),
            graph.weight(parts.norm.bias),
        ],
        epsilon=parts.norm.eps,
    )


def _block(graph: _Graph, encoder: Bert, block: Block, states: str) -> str:
    config, attention = encoder.config, block.attention
    read = graph.node(
        "Attention",
        [
            states,
            graph.weight(attention.qkv.weight.mT),
            graph.weight(attention.qkv.bias),
            INPUTS[2],
        ],
        num_heads=config.num_attention_heads,
        unidirectional=int(config.is_decoder),
    )
    states = _added(graph, read, attention.output, states, block.attention_norm)
    inner = _product(graph, states, block.intermediate)
    bias = graph.weight(block.intermediate.bias)
    if config.hidden_act == "relu":
        inner = graph.node("Relu", [graph.node("Add", [inner, bias], "")], "")
    else:
        inner = graph.node("BiasGelu" if config.hidden_act == "gelu" else "FastGelu", [inner, bias])
    return _added(graph, inner, block.output, states, block.output_norm)


def _added(graph: _Graph, read: str, layer: nn.Linear, states: str, norm: nn.LayerNorm) -> str:
    """Returns states to which a product is added, normalised."""
    parts = [_product(graph, read, layer), states, graph.weight(norm.weight)]
    parts += [graph.weight(norm.bias), graph.weight(layer.bias)]
    return graph.node("SkipLayerNormalization", parts, epsilon=norm.eps)


def _product(graph: _Graph, states: str, layer: nn.Linear) -> str:
    return graph.node("MatMul", [states, graph.weight(layer.weight.mT)], "")
