"""Graphs of one model share one file of weights, in which every tensor is stored once, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

WEIGHTS_FILE = "weights.bin"
# Smaller tensors stay in the graph: shapes and indices must be there for shape inference.
_SMALLEST_SHARED = 1024
_ALIGNMENT = 64  # bytes, a cache line


class SharedWeights:
    """``weights.bin`` in the making: put every graph through :meth:`move_out`, then :meth:`write`."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._offsets: dict[bytes, int] = {}

    def move_out(self, graph: GraphProto) -> None:
        """Move the graph's weights of 1 KB or more to the shared file, in ONNX's format for external data."""
        for tensor in graph.initializer:
            data = numpy_helper.to_array(tensor).tobytes()
            if len(data) < _SMALLEST_SHARED:
                continue
            tensor.raw_data = data
            set_external_data(tensor, WEIGHTS_FILE, offset=self._store(data), length=len(data))
            for part in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(part)

    def write(self, folder: Path) -> None:
        """Write the shared file next to the graphs."""
        (folder / WEIGHTS_FILE).write_bytes(self._content)

    def _store(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        if digest not in self._offsets:
            self._content.extend(bytes(-len(self._content) % _ALIGNMENT))
            self._offsets[digest] = len(self._content)
            self._content.extend(data)
        return self._offsets[digest]


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make an exported model fit to be shared: no traces of where it was exported, weights in one orientation.

    The exporter leaves stack traces with local paths in every node. It also writes a dense layer as ``x Wᵀ`` where x
    has two axes and as ``x W`` where it has three, so that one layer would be stored twice: ``x W`` it is.
    """
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    _forget_origin(model.graph)
    _untranspose_dense_layers(model.graph)
    return model


def _forget_origin(graph: GraphProto) -> None:
    """Clear what the exporter notes about a graph's origin, in the branches and bodies of its nodes too."""
    for part in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_origin(attribute.g)


def _untranspose_dense_layers(graph: GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        transposed = [a for a in node.attribute if a.name == "transB" and a.i == 1] if node.op_type == "Gemm" else []
        if not transposed or node.input[1] not in weights:
            continue
        name = node.input[1] + ".T"
        if name not in weights:
            weights[name] = _tensor(name, numpy_helper.to_array(weights[node.input[1]]).T)
            graph.initializer.append(weights[name])
        node.attribute.remove(transposed[0])
        node.input[1] = name
    used = set(_names_used(graph))
    unused = [tensor for tensor in graph.initializer if tensor.name not in used]
    for tensor in unused:
        graph.initializer.remove(tensor)


def _names_used(graph: GraphProto) -> Iterator[str]:
    """What the nodes of a graph read, those of graphs inside it included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _names_used(attribute.g)


def _tensor(name: str, array: np.ndarray) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, np.ascontiguousarray(array).tobytes(), raw=True)
