"""``encoder.onnx``: the step, spliced into an ONNX Loop behind the context, so that one call encodes a batch.

The context's keys and values and all weights stay outside the loop; inside, the body refers to them by name. torch's
exporter cannot express this: its ``while_loop`` does not export.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.windows import Windows
from export.onnx_graphs import memory_names

_BODY_PREFIX = "step."


def splice_loop(context: onnx.ModelProto, step: onnx.ModelProto, config: TokenizerConfig) -> onnx.ModelProto:
    """Run ``step`` N times after ``context``.

    Args:
        context: from :func:`export.onnx_graphs.export_context`.
        step: from :func:`export.onnx_graphs.export_growing_step`.
        config: of the model that both were made from.

    Returns:
        Inputs ``images`` or ``features``, ``uniform`` (B, N), ``temperature`` (); outputs ``codes`` int32 (B, N),
        ``log_probs`` (B, N).
    """
    _rename_internals(step.graph)
    past, final = memory_names("past", config), memory_names("final", config)
    sizes, windows = config.recognition, Windows.of(config)
    nodes = [
        *context.graph.node,
        # Everything the loop reads or writes at one position is a row, of one number for every window of the batch.
        *_regroup("uniform", "item_shape", [2, 4, 0, 1, 3], "rows_shape", "uniform_rows"),
        helper.make_node("Shape", ["uniform_rows"], ["batch_size"], name="batch_size", start=1, end=2),
        helper.make_node("Concat", ["batch_size", "nothing_shape"], ["past_shape"], name="past_shape", axis=0),
        _zeros("past_shape", "nothing", TensorProto.FLOAT),
        _zeros("batch_size", "first_previous", TensorProto.INT32),
        helper.make_node(
            "Loop",
            ["num_codes", "", "first_previous", *["nothing"] * len(past)],
            ["last_codes", *final, "code_rows", "log_prob_rows"],
            name="positions",
            body=_body(step.graph, config),
        ),
        *_regroup("code_rows", "window_shape", [2, 3, 0, 4, 1], "items_shape", "codes"),
        *_regroup("log_prob_rows", "window_shape", [2, 3, 0, 4, 1], "items_shape", "log_probs"),
    ]
    nothing_shape = [sizes.num_heads, 0, sizes.hidden_size // sizes.num_heads]
    initializers = [
        *context.graph.initializer,
        *step.graph.initializer,
        helper.make_tensor("num_codes", TensorProto.INT64, [], [windows.num_codes]),
        _shape("item_shape", -1, windows.grid[0], windows.size[0], windows.grid[1], windows.size[1]),
        _shape("rows_shape", windows.num_codes, -1),
        _shape("window_shape", *windows.size, -1, *windows.grid),
        _shape("items_shape", -1, config.num_tokens),
        helper.make_tensor("nothing_shape", TensorProto.INT64, [3], nothing_shape),
    ]
    rows: list[str | int | None] = ["batch", config.num_tokens]
    inputs = [
        *context.graph.input,
        helper.make_tensor_value_info("uniform", TensorProto.FLOAT, rows),
        _find(step.graph.input, "temperature"),
    ]
    outputs = [
        helper.make_tensor_value_info("codes", TensorProto.INT32, rows),
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, rows),
    ]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=context.opset_import, ir_version=context.ir_version)


def _body(step: GraphProto, config: TokenizerConfig) -> GraphProto:
    """The step as the body of a Loop: state in, state out, and one row of codes and log-probabilities to collect."""
    past, present = memory_names("past", config), memory_names("present", config)
    nodes = [
        helper.make_node("Gather", ["uniform_rows", "position"], ["uniform_row"], name="uniform_row"),
        *step.node,
        # The same codes leave twice, to be fed back and to be collected.
        helper.make_node("Identity", ["code_row"], ["next_previous"], name="next_previous"),
        helper.make_node("Identity", ["condition"], ["next_condition"], name="next_condition"),
    ]
    inputs = [
        _find(step.input, "position"),
        helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        _find(step.input, "previous"),
        *(_find(step.input, name) for name in past),
    ]
    outputs = [
        helper.make_tensor_value_info("next_condition", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next_previous", TensorProto.INT32, ["batch"]),
        *(_find(step.output, name) for name in present),
        _find(step.output, "code_row"),
        _find(step.output, "log_prob_row"),
    ]
    return helper.make_graph(nodes, "step", inputs, outputs)


def _rename_internals(step: GraphProto) -> None:
    """Give the step's own names a prefix, and those that it shares with the encoder the names they have there."""
    names = {"uniform": "uniform_row", "codes": "code_row", "log_probs": "log_prob_row"}
    shared = {value.name for value in [*step.input, *step.output]} | {""}

    def rename(name: str) -> str:
        return names.get(name) or (name if name in shared else _BODY_PREFIX + name)

    for node in step.node:
        node.name = _BODY_PREFIX + node.name
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for value in [*step.initializer, *step.input, *step.output]:
        value.name = rename(value.name)


def _regroup(source: str, shape: str, order: list[int], final_shape: str, target: str) -> list[NodeProto]:
    """Codes of items to rows of windows and back: reshape, transpose, reshape (see :class:`Windows`)."""
    apart, ordered = f"{target}.apart", f"{target}.ordered"
    return [
        helper.make_node("Reshape", [source, shape], [apart], name=apart),
        helper.make_node("Transpose", [apart], [ordered], name=ordered, perm=order),
        helper.make_node("Reshape", [ordered, final_shape], [target], name=target),
    ]


def _shape(name: str, *sizes: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes)


def _zeros(shape: str, name: str, element_type: int) -> NodeProto:
    zero = helper.make_tensor("value", element_type, [1], [0])
    return helper.make_node("ConstantOfShape", [shape], [name], name=name, value=zero)


def _find(values: Iterable[ValueInfoProto], name: str) -> ValueInfoProto:
    return next(value for value in values if value.name == name)
