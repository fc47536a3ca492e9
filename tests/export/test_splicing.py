"""Spliced graphs share what is equal and large, and no single numbers."""

import numpy as np
from onnx import TensorProto, helper

from export.splicing import constant, node, share_equal_initializers, value_info


def test_equal_initializers_become_one_and_single_numbers_stay_apart() -> None:
    weights, numbers = np.arange(6.0).reshape(2, 3), np.zeros(())
    body = helper.make_graph(
        [node("Add", ["x", "b.weights"], "with_weights"), node("Add", ["with_weights", "b.number"], "inner")],
        "body",
        [],
        [value_info("inner", TensorProto.FLOAT, [2, 3])],
    )
    graph = helper.make_graph(
        [
            node("Add", ["x", "a.weights"], "sum"),
            node("Add", ["sum", "a.number"], "y"),
            node("If", ["condition"], "z", then_branch=body, else_branch=body),
        ],
        "graph",
        [value_info("x", TensorProto.FLOAT, [2, 3]), value_info("condition", TensorProto.BOOL, [])],
        [value_info("y", TensorProto.FLOAT, [2, 3]), value_info("z", TensorProto.FLOAT, [2, 3])],
        [
            constant(f"{part}.{name}", value, np.float32)
            for part in ("a", "b")
            for name, value in (("weights", weights), ("number", numbers))
        ],
    )
    share_equal_initializers(graph)
    assert sorted(tensor.name for tensor in graph.initializer) == ["a.number", "a.weights", "b.number"]
    inside = graph.node[2].attribute[0].g.node
    assert [each.input[1] for each in inside] == ["a.weights", "b.number"]
