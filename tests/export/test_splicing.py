"""Spliced graphs share what is equal and large, and no single numbers."""

import numpy as np
import onnx
import pytest
from onnx import GraphProto, TensorProto, helper

from daps_tokenizer.hub import built_in_models, open_model
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


@pytest.mark.parametrize("model", built_in_models())
def test_no_graph_of_a_built_in_model_has_an_initializer_that_nothing_uses(model: str) -> None:
    """ONNX Runtime warns of each, and in a browser's console."""

    def used(graph: GraphProto) -> set[str]:
        inner = [each.g for a_node in graph.node for each in a_node.attribute if each.HasField("g")]
        names = {name for a_node in graph.node for name in a_node.input} | {value.name for value in graph.output}
        return names.union(*map(used, inner))

    for path in (open_model(model).path / "onnx").glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        assert {tensor.name for tensor in graph.initializer} <= used(graph), path.name
