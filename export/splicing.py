"""Putting exported graphs together: names that do not collide, and nodes that are needed again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


def renamed(graph: GraphProto, prefix: str, names: Mapping[str, str]) -> GraphProto:
    """A copy in which every value has another name.

    Args:
        graph: any graph; graphs inside its nodes are renamed too.
        prefix: for every name that ``names`` does not mention, of values and of nodes.
        names: what else a value is to be called.
    """

    def new_name(name: str) -> str:
        return names.get(name, prefix + name) if name else name

    copy = GraphProto()
    copy.CopyFrom(graph)
    _rename(copy, prefix, new_name)
    return copy


def _rename(graph: GraphProto, prefix: str, new_name: Callable[[str], str]) -> None:
    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = [new_name(name) for name in node.input]
        node.output[:] = [new_name(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, prefix, new_name)
    for value in [*graph.initializer, *graph.input, *graph.output]:
        value.name = new_name(value.name)


def node(operator: str, inputs: Iterable[str], output: str, **attributes: Any) -> NodeProto:
    """A node with one output, called like it."""
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


def zeros(shape: str, name: str, element_type: int) -> NodeProto:
    """Zeros of a shape that is known when the graph runs."""
    return node("ConstantOfShape", [shape], name, value=helper.make_tensor("value", element_type, [1], [0]))


def constant(name: str, value: object, dtype: type[np.generic] = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def value_info(name: str, element_type: int, shape: Sequence[str | int | None]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, list(shape))


def find(values: Iterable[ValueInfoProto], name: str) -> ValueInfoProto:
    return next(value for value in values if value.name == name)


def share_equal_initializers(graph: GraphProto) -> None:
    """Let every use of equal initializers refer to the first of them; the graph must not shadow their names.

    Single numbers stay apart: WebGPU's plugin (0.4.0) fails where a loop in a loop uses one on the CPU and on the GPU.
    """
    first: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
    numbers, names = list[TensorProto](), dict[str, str]()
    for tensor in graph.initializer:
        if math.prod(tensor.dims) == 1:
            numbers.append(tensor)
            continue
        content = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        names[tensor.name] = first.setdefault(content, tensor).name
    del graph.initializer[:]
    graph.initializer.extend([*first.values(), *numbers])
    _refer(graph, names)


def _refer(graph: GraphProto, names: Mapping[str, str]) -> None:
    for each in graph.node:
        each.input[:] = [names.get(name, name) for name in each.input]
        for attribute in each.attribute:
            if attribute.HasField("g"):
                _refer(attribute.g, names)
