"""The sequential way to draw codes: the step as the body of an ONNX Loop, so that one call encodes a batch.

The context's keys and values and all weights stay outside the loop; inside, the body refers to them by name. torch's
exporter cannot express this: its ``while_loop`` does not export.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, TensorProto, helper

from daps_tokenizer.config import TokenizerConfig
from export.onnx_graphs import context_names, memory_names
from export.splicing import constant, find, node, renamed, value_info, zeros


def loop_graph(step: onnx.ModelProto, config: TokenizerConfig) -> GraphProto:
    """Run ``step``, of :func:`export.onnx_graphs.export_growing_step`, for every position in turn.

    Returns:
        Inputs ``uniform`` (rows, n), ``temperature`` () and what the context gives; outputs ``codes`` int32 (rows, n)
        and ``log_probs`` (rows, n).
    """
    past, final = memory_names("past", config), memory_names("final", config)
    sizes = config.recognition
    shared = {name: name for name in [*context_names(config), *past, *memory_names("present", config)]}
    shared |= {name: name for name in ("position", "previous", "temperature")}
    body = renamed(step.graph, "step.", shared | {"uniform": "uniform_row", "codes": "code_row"})
    nodes = [
        # Everything the loop reads or writes at one position is a row.
        node("Transpose", ["uniform"], "uniform_rows", perm=[1, 0]),
        node("Shape", ["uniform"], "batch_size", start=0, end=1),
        node("Concat", ["batch_size", "nothing_shape"], "past_shape", axis=0),
        zeros("past_shape", "nothing", TensorProto.FLOAT),
        zeros("batch_size", "first_previous", TensorProto.INT32),
        helper.make_node(
            "Loop",
            ["num_steps", "", "first_previous", *["nothing"] * len(past)],
            ["last_codes", *final, "code_rows", "log_prob_rows"],
            name="positions",
            body=_body(body, config),
        ),
        node("Transpose", ["code_rows"], "codes", perm=[1, 0]),
        node("Transpose", ["log_prob_rows"], "log_probs", perm=[1, 0]),
    ]
    initializers = [
        *body.initializer,
        constant("num_steps", config.codes_per_window),
        constant("nothing_shape", [sizes.num_heads, 0, sizes.hidden_size // sizes.num_heads]),
    ]
    rows: list[str | int | None] = ["batch", config.codes_per_window]
    inputs = [
        value_info("uniform", TensorProto.FLOAT, rows),
        *(find(step.graph.input, name) for name in ("temperature", *context_names(config))),
    ]
    outputs = [value_info("codes", TensorProto.INT32, rows), value_info("log_probs", TensorProto.FLOAT, rows)]
    return helper.make_graph(nodes, "loop", inputs, outputs, initializers)


def _body(step: GraphProto, config: TokenizerConfig) -> GraphProto:
    """The step as the body of a Loop: state in, state out, and one row of codes and log-probabilities to collect."""
    past, present = memory_names("past", config), memory_names("present", config)
    nodes = [
        node("Gather", ["uniform_rows", "position"], "uniform_row"),
        *step.node,
        # The same codes leave twice, to be fed back and to be collected.
        node("Identity", ["code_row"], "next_previous"),
        node("Identity", ["condition"], "next_condition"),
    ]
    inputs = [
        find(step.input, "position"),
        value_info("condition", TensorProto.BOOL, []),
        find(step.input, "previous"),
        *(find(step.input, name) for name in past),
    ]
    outputs = [
        value_info("next_condition", TensorProto.BOOL, []),
        value_info("next_previous", TensorProto.INT32, ["batch"]),
        *(find(step.output, name) for name in present),
        find(step.output, "code_row"),
        find(step.output, "step.log_probs"),
    ]
    return helper.make_graph(nodes, "step", inputs, outputs)
