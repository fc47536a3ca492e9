"""ONNX graphs in half precision, with the types written into the graph: what strongly typed TensorRT networks ask for.

Only the matrix products and convolutions compute in half precision, and what they hand on stays so while it is only
moved, masked or rectified. All else is float32: the residual stream, LayerNorm, softmax, sampling and likelihood
parameters, and the product that makes the logits, which decide codes. Keys and values pass between the graphs in half
precision, which halves the bytes that a step reads.

It lies in the package and not in ``export``, because engines are built where they run, from an installed package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daps_tokenizer.errors import BackendError
from daps_tokenizer.install import install_command

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("float32", "float16", "bfloat16")

# TensorRT has no transposed convolution in bfloat16.
_PRODUCTS = {
    "float16": ("MatMul", "Gemm", "Conv", "ConvTranspose"),
    "bfloat16": ("MatMul", "Gemm", "Conv"),
}
# What only moves values, or is exact in any precision.
_MOVES = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Concat", "Relu", "Identity", "Flatten", "Expand")
# Readers of logits.
_DECISIONS = ("ArgMax", "LogSoftmax")
_MEMORIES = ("context_", "past_", "present_")


def load_graph(path: Path, precision: str) -> onnx.ModelProto:
    """Read a graph of a model folder, weights included, and write a precision into it.

    Args:
        path: the graph, with ``weights.bin`` next to it.
        precision: ``float32`` (the graph as it is), ``float16`` or ``bfloat16``.

    Raises:
        BackendError: the package ``onnx`` is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise BackendError(
            "backend 'tensorrt' reads graphs with the package onnx, which is not installed; "
            f"install it with {install_command('tensorrt')}"
        ) from error
    model = onnx.load(path)
    _compare_as_float(model.graph)
    return model if precision == "float32" else to_half_precision(model, precision)


def _compare_as_float(graph: onnx.GraphProto) -> None:
    """Compare pixels as float32: TensorRT takes uint8 as an input, but only to cast it."""
    from onnx import TensorProto, helper, numpy_helper

    pixels = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        if node.op_type != "Greater" or node.input[0] not in pixels:
            continue
        threshold = numpy_helper.to_array(weights[node.input[1]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(threshold, node.input[1] + ".float"))
        cast = helper.make_node("Cast", [node.input[0]], [node.input[0] + ".float"], to=TensorProto.FLOAT)
        node.input[:] = [cast.output[0], node.input[1] + ".float"]
        graph.node.insert(index, cast)
        return


def to_half_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The same graph with its products in ``float16`` or ``bfloat16``; inputs and outputs keep names and shapes.

    Keys and values (``context_*``, ``past_*``, ``present_*``) change their type, all other inputs and outputs do not.
    """
    from onnx import helper

    graph = model.graph
    half = _Conversion(graph, precision)
    for node in list(graph.node):
        half.add(node)
    half.finish()
    converted = helper.make_graph(half.nodes, graph.name, graph.input, graph.output, half.weights)
    return helper.make_model(converted, opset_imports=model.opset_import, ir_version=model.ir_version)


class _Conversion:
    """Walks a graph in order and knows of every tensor made so far whether it is in half precision."""

    def __init__(self, graph: onnx.GraphProto, precision: str) -> None:
        from onnx import TensorProto, numpy_helper

        self._to_array = numpy_helper.to_array
        self._type = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[precision]
        self._full = TensorProto.FLOAT
        self._products = _PRODUCTS[precision]
        self._graph = graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        made_by = {name: node for node in graph.node for name in node.output}
        self._logits = {_product(node.input[0], made_by) for node in graph.node if node.op_type in _DECISIONS}
        self._in_half = {value.name for value in graph.input if self._is_memory(value)}
        self._casts: dict[tuple[str, int], str] = {}
        self._half_weights: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto) -> None:
        """Take over one node, with casts before it where its inputs are not of the type that it will have."""
        floats = [name for name in node.input if name in self._in_half]
        if node.op_type in self._products and node.output[0] not in self._logits:
            self._take(node, half=True)
        elif node.op_type == "Where" and floats:  # a new key or value and those of before
            node.input[1:] = [self._as(name, half=True) for name in node.input[1:]]
            self._take(node, half=True, cast_inputs=False)
        elif node.op_type in _MOVES and floats:
            self._take(node, half=True, cast_inputs=node.op_type == "Concat")
        else:
            self._take(node, half=False)

    def finish(self) -> None:
        """Give the graph's outputs the types they are to have."""
        for value in self._graph.output:
            wanted = self._is_memory(value)
            if wanted != (value.name in self._in_half) and self._is_float(value):
                inner = value.name + ".inner"
                for node in self.nodes:
                    node.output[:] = [inner if name == value.name else name for name in node.output]
                    node.input[:] = [inner if name == value.name else name for name in node.input]
                self._cast(inner, value.name, half=wanted)
        for value in [*self._graph.input, *self._graph.output]:
            if self._is_memory(value):
                value.type.tensor_type.elem_type = self._type

    @property
    def weights(self) -> list[onnx.TensorProto]:
        """The weights that are still read, each in the precisions it is read in."""
        used = {name for node in self.nodes for name in node.input}
        full = [tensor for tensor in self._graph.initializer if tensor.name in used]
        return full + list(self._half_weights.values())

    def _take(self, node: onnx.NodeProto, *, half: bool, cast_inputs: bool = True) -> None:
        if cast_inputs:
            node.input[:] = [self._as(name, half=half) if name else name for name in node.input]
        self.nodes.append(node)
        if half:
            self._in_half.update(node.output)

    def _as(self, name: str, *, half: bool) -> str:
        """The name under which a tensor is there in the wanted precision; integers are left alone."""
        if (name in self._in_half) == half:
            return name
        if half and name in self._initializers:
            return self._half_weight(name)
        key = (name, half)
        if key not in self._casts:
            self._casts[key] = f"{name}.{'half' if half else 'full'}"
            self._cast(name, self._casts[key], half=half)
        return self._casts[key]

    def _cast(self, source: str, target: str, *, half: bool) -> None:
        from onnx import helper

        kind = self._type if half else self._full
        self.nodes.append(helper.make_node("Cast", [source], [target], name=target, to=kind))
        if half:
            self._in_half.add(target)

    def _half_weight(self, name: str) -> str:
        from onnx import TensorProto, helper

        half_name = name + ".half"
        if half_name not in self._half_weights:
            array = np.asarray(self._to_array(self._initializers[name]), np.float32)
            raw = array.astype(np.float16) if self._type == TensorProto.FLOAT16 else _to_bfloat16(array)
            self._half_weights[half_name] = helper.make_tensor(
                half_name, self._type, array.shape, raw.tobytes(), raw=True
            )
        return half_name

    def _is_memory(self, value: onnx.ValueInfoProto) -> bool:
        return value.name.startswith(_MEMORIES)

    def _is_float(self, value: onnx.ValueInfoProto) -> bool:
        return value.type.tensor_type.elem_type in (self._full, self._type)


def _product(logits: str, made_by: dict[str, onnx.NodeProto]) -> str:
    """The output of the product that logits come from: scores may be added, and shapes change in between."""
    while made_by[logits].op_type in ("Reshape", "Add"):
        logits = made_by[logits].input[0]
    return logits


def _to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest even, as uint16; finite numbers only."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
