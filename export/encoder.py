"""``encoder.onnx``: passes over all positions until nothing changes, and a loop over positions for the other rows.

It is ``settle`` of :mod:`daps_tokenizer.model.sampling`, where it is said why this gives the codes of the sequential
loop, spliced from the graphs of Context, Pass and Step. A row is a window of an item, or an item that is not cut. Rows
that have settled drop out of the batch. torch's exporter cannot express loops: its ``while_loop`` does not export.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import MAX_PASSES
from export.modules import FUSED
from export.onnx_graphs import context_names, export_context, export_pass, export_step, memory_names
from export.splicing import constant, find, node, renamed, share_equal_initializers, value_info, zeros

_RESULTS = {"codes": TensorProto.INT32, "log_probs": TensorProto.FLOAT, "passes": TensorProto.INT64}


def export_encoder(model: Autoencoder) -> onnx.ModelProto:
    """Put the encoder together.

    Returns:
        Inputs ``images`` or ``features``, ``uniform`` (B, N), ``temperature`` (); outputs ``codes`` int32 (B, N),
        ``log_probs`` (B, N), and ``passes`` int64 (B, W): how many each window of an item took, ``MAX_PASSES`` + 1 if
        it was left to the sequential loop.
    """
    config, windows = model.config, Windows.of(model.config)
    context = export_context(model, FUSED)
    first, later = (export_pass(model, FUSED, first=is_first).graph for is_first in (True, False))
    loop = _loop(export_step(model, FUSED).graph, config)
    grid, size = windows.grid, windows.size
    given = _same(["temperature", *context_names(config)]) | {"uniform": "uniform.rows"}
    results = {"new_codes": "codes.2", "log_probs": "log_probs.2"}
    start = renamed(first, "first.", given | {"new_codes": "guess"})
    second = renamed(later, "second.", given | {"codes": "guess"} | results)
    two = helper.make_tensor("value", TensorProto.INT64, [1], [2])
    state = [f"{name}.2" for name in (*_RESULTS, "unsettled")]
    settled = [f"{name}.settled" for name in (*_RESULTS, "unsettled")]
    nodes = [
        *context.graph.node,
        *_split("uniform", "uniform.rows"),
        *start.node,
        *second.node,
        *_changed_rows("guess", "codes.2", "changed.2"),
        node("NonZero", ["changed.2"], "changed_indices"),
        node("Reshape", ["changed_indices", "any_length"], "unsettled.2"),
        node("Shape", ["uniform.rows"], "num_rows", start=0, end=1),
        node("ConstantOfShape", ["num_rows"], "passes.2", value=two),
        *_any("unsettled.2", "go_on"),
        helper.make_node(
            "Loop", ["num_more", "go_on", *state], settled, name="more_passes", body=_one_more_pass(later, config)
        ),
        *_any("unsettled.settled", "anything_left"),
        helper.make_node(
            "If",
            ["anything_left"],
            [f"{name}.rows" for name in _RESULTS],
            name="rest",
            then_branch=_rest(loop, config),
            else_branch=helper.make_graph(
                [node("Identity", [f"{name}.settled"], f"{name}.nothing_left") for name in _RESULTS],
                "nothing_left",
                [],
                _results(".nothing_left", config),
            ),
        ),
        *_join("codes.rows", "codes"),
        *_join("log_probs.rows", "log_probs"),
        node("Reshape", ["passes.rows", "windows_shape"], "passes"),
    ]
    initializers = [
        *context.graph.initializer,
        *renamed(loop, "rest.", {}).initializer,
        *start.initializer,
        *second.initializer,
        *renamed(later, "again.", {}).initializer,
        constant("any_length", [-1]),
        constant("grid_shape", [-1, grid[0], size[0], grid[1], size[1]]),
        constant("rows_shape", [-1, windows.num_codes]),
        constant("windows_grid_shape", [-1, *grid, *size]),
        constant("items_shape", [-1, config.num_tokens]),
        constant("windows_shape", [-1, windows.per_item]),
        constant("code_axis", [1]),
        constant("one", 1),
        constant("zero", 0),
        constant("num_more", MAX_PASSES - 2),
    ]
    items: list[str | int | None] = ["batch", config.num_tokens]
    inputs = [
        *context.graph.input,
        value_info("uniform", TensorProto.FLOAT, items),
        value_info("temperature", TensorProto.FLOAT, []),
    ]
    per_item = dict.fromkeys(_RESULTS, items) | {"passes": ["batch", windows.per_item]}
    outputs = [value_info(name, element_type, per_item[name]) for name, element_type in _RESULTS.items()]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, initializers)
    share_equal_initializers(graph)
    return helper.make_model(graph, opset_imports=context.opset_import, ir_version=context.ir_version)


def _one_more_pass(later: GraphProto, config: TokenizerConfig) -> GraphProto:
    """The body of the loop over passes: once more, for the rows that have not settled."""
    memories = context_names(config)
    names = {name: f"{name}.chosen" for name in ("uniform", *memories)}
    names |= {"temperature": "temperature", "codes": "codes.chosen"}
    before = {name: f"{name}.before" for name in _RESULTS}
    nodes = [
        *_choose_rows("unsettled.before", {"uniform": "uniform.rows"} | _same(memories) | before),
        *renamed(later, "again.", names | {"new_codes": "codes.new", "log_probs": "log_probs.new"}).node,
        node("Add", ["passes.chosen", "one"], "passes.new"),
        *_put_back("unsettled.before", ".before", ".new", ".after"),
        *_changed_rows("codes.chosen", "codes.new", "changed"),
        node("Compress", ["unsettled.before", "changed"], "unsettled.after", axis=0),
        *_any("unsettled.after", "go_on.after"),
    ]
    before_and_after = [
        [
            value_info(f"go_on.{when}", TensorProto.BOOL, []),
            *_results(f".{when}", config),
            value_info(f"unsettled.{when}", TensorProto.INT64, [None]),
        ]
        for when in ("before", "after")
    ]
    inputs = [value_info("pass", TensorProto.INT64, []), *before_and_after[0]]
    return helper.make_graph(nodes, "one_more_pass", inputs, before_and_after[1])


def _rest(loop: GraphProto, config: TokenizerConfig) -> GraphProto:
    """Draw the rows that have not settled one position after the other."""
    memories = context_names(config)
    names = {name: f"{name}.chosen" for name in ("uniform", *memories)} | {"temperature": "temperature"}
    names |= {"codes": "codes.new", "log_probs": "log_probs.new"}
    given = {"uniform": "uniform.rows"} | _same(memories) | {"passes": "passes.settled"}
    nodes = [
        *_choose_rows("unsettled.settled", given),
        *renamed(loop, "rest.", names).node,
        node("Add", ["passes.chosen", "one"], "passes.new"),
        *_put_back("unsettled.settled", ".settled", ".new", ".all"),
    ]
    return helper.make_graph(nodes, "rest", [], _results(".all", config))


def _loop(step: GraphProto, config: TokenizerConfig) -> GraphProto:
    """Run a step for every position in turn, as the body of an ONNX Loop.

    The context's keys and values and all weights stay outside; inside, the body refers to them by name.

    Returns:
        Reads ``uniform`` (rows, n), ``temperature`` and what the context gives; makes ``codes`` int32 (rows, n) and
        ``log_probs`` (rows, n).
    """
    past, present = memory_names("past", config), memory_names("present", config)
    shared = _same([*context_names(config), *past, *present, "position", "previous", "temperature"])
    step = renamed(step, "step.", shared | {"uniform": "uniform_row", "codes": "code_row"})
    nodes = [
        # Everything the loop reads or writes at one position is a row.
        node("Transpose", ["uniform"], "uniform_rows", perm=[1, 0]),
        node("Shape", ["uniform"], "batch_size", start=0, end=1),
        node("Concat", ["batch_size", "memory_shape"], "past_shape", axis=0),
        zeros("past_shape", "nothing", TensorProto.FLOAT),
        zeros("batch_size", "first_previous", TensorProto.INT32),
        helper.make_node(
            "Loop",
            ["num_steps", "", "first_previous", *["nothing"] * len(past)],
            ["last_codes", *memory_names("final", config), "code_rows", "log_prob_rows"],
            name="positions",
            body=_body(step, config),
        ),
        node("Transpose", ["code_rows"], "codes", perm=[1, 0]),
        node("Transpose", ["log_prob_rows"], "log_probs", perm=[1, 0]),
    ]
    initializers = [
        *step.initializer,
        constant("num_steps", config.codes_per_window),
        constant("memory_shape", [config.codes_per_window, config.recognition.hidden_size]),
    ]
    return helper.make_graph(nodes, "loop", [], [], initializers)


def _body(step: GraphProto, config: TokenizerConfig) -> GraphProto:
    """State in, state out, and one row of codes and log-probabilities to collect."""
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


def _choose_rows(rows: str, values: dict[str, str]) -> list[NodeProto]:
    """``NAME.chosen``: the rows of each value, given as {NAME: value}."""
    return [node("Gather", [value, rows], f"{name}.chosen") for name, value in values.items()]


def _put_back(rows: str, old: str, new: str, result: str) -> list[NodeProto]:
    """All results with the suffix ``old``, in which ``rows`` are replaced by those of the suffix ``new``."""
    index = f"index{result}"
    return [
        node("Unsqueeze", [rows, "code_axis"], index),
        *(node("ScatterND", [name + old, index, name + new], name + result) for name in _RESULTS),
    ]


def _changed_rows(before: str, after: str, name: str) -> list[NodeProto]:
    """Which rows differ in any code, bool (rows,)."""
    return [
        node("Equal", [before, after], f"{name}.equal"),
        node("Not", [f"{name}.equal"], f"{name}.codes"),
        node("Cast", [f"{name}.codes"], f"{name}.numbers", to=TensorProto.INT32),
        node("ReduceMax", [f"{name}.numbers", "code_axis"], f"{name}.any", keepdims=0),
        node("Cast", [f"{name}.any"], name, to=TensorProto.BOOL),
    ]


def _any(rows: str, name: str) -> list[NodeProto]:
    return [node("Size", [rows], f"{name}.count"), node("Greater", [f"{name}.count", "zero"], name)]


def _results(suffix: str, config: TokenizerConfig) -> list[ValueInfoProto]:
    shapes: dict[str, list[int | None]] = {name: [None, config.codes_per_window] for name in _RESULTS}
    shapes["passes"] = [None]
    return [value_info(name + suffix, element_type, shapes[name]) for name, element_type in _RESULTS.items()]


def _split(items: str, rows: str) -> list[NodeProto]:
    """(B, N) -> (rows, n), what :meth:`Windows.split` does."""
    return [
        node("Reshape", [items, "grid_shape"], f"{items}.grid"),
        node("Transpose", [f"{items}.grid"], f"{items}.windows", perm=[0, 1, 3, 2, 4]),
        node("Reshape", [f"{items}.windows", "rows_shape"], rows),
    ]


def _join(rows: str, items: str) -> list[NodeProto]:
    """(rows, n) -> (B, N), what :meth:`Windows.join` does."""
    return [
        node("Reshape", [rows, "windows_grid_shape"], f"{rows}.windows"),
        node("Transpose", [f"{rows}.windows"], f"{rows}.grid", perm=[0, 1, 3, 2, 4]),
        node("Reshape", [f"{rows}.grid", "items_shape"], items),
    ]


def _same(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}
