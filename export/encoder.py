"""``encoder.onnx``: spans of positions one after the other, each in passes until it settles.

It is ``settle`` of :mod:`daps_tokenizer.model.sampling`, where it is said why this gives the codes of the sequential
loop, spliced from the graphs of Context and Span. A row is a window of an item, or an item that is not cut. Rows that
have settled drop out of a span's passes. torch's exporter cannot express loops: its ``while_loop`` does not export.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import CALL_COST, FEWEST_POSITIONS, FIRST_POSITIONS, LOOP_COST, PASS_COST
from export.modules import FUSED
from export.onnx_graphs import context_names, export_context, export_span, memory_names
from export.splicing import constant, node, renamed, share_equal_initializers, value_info, zeros

_NEVER = 2**40  # what a step of the loop costs where a span is to stay as it is
_CODES, _LOG_PROBS, _COUNTS = TensorProto.INT32, TensorProto.FLOAT, TensorProto.INT64


def export_encoder(model: Autoencoder, *, span: int | None = None) -> onnx.ModelProto:
    """Put the encoder together.

    Args:
        model: with an autoregressive recognition model.
        span: positions at a time; 1 is the sequential loop. None chooses as ``settle`` does on a CPU.

    Returns:
        Inputs ``images`` or ``features``, ``uniform`` (B, N), ``temperature`` (); outputs ``codes`` int32 (B, N),
        ``log_probs`` (B, N), and ``passes`` float32 (B, W): how many passes over all its positions each window of an
        item took (:class:`daps_tokenizer.model.sampling.Settled`).
    """
    config, windows = model.config, Windows.of(model.config)
    context, part = export_context(model, FUSED), export_span(model, FUSED).graph
    grid, size = windows.grid, windows.size
    if span is None:
        shared, fewest, loop_cost, growth = FIRST_POSITIONS, FEWEST_POSITIONS, LOOP_COST, 2
    else:
        shared, fewest, loop_cost, growth = 0, span, _NEVER, 1
    memories = memory_names("memories", config)
    nodes = [
        *context.graph.node,
        *_split("uniform", "uniform.rows"),
        node("Shape", ["uniform.rows"], "num_rows", start=0, end=1),
        node("Squeeze", ["num_rows"], "number_of_rows"),
        node("Range", ["zero", "number_of_rows", "one"], "all_rows"),
        *_first_span(),
        # Nothing is drawn yet; a column of zeros stands for the code before the first.
        node("Concat", ["num_rows", "one_column"], "first_codes_shape", axis=0),
        node("Concat", ["num_rows", "no_columns"], "nothing_shape", axis=0),
        node("Concat", ["nothing_shape", "hidden_size"], "no_memory_shape", axis=0),
        zeros("first_codes_shape", "codes.none", _CODES),
        zeros("nothing_shape", "log_probs.none", _LOG_PROBS),
        zeros("num_rows", "computed.none", _COUNTS),
        zeros("no_memory_shape", "no_memory", TensorProto.FLOAT),
        helper.make_node(
            "Loop",
            ["num_positions", "", "codes.none", "log_probs.none", "computed.none", "span.first"]
            + ["no_memory"] * len(memories),
            ["codes.padded", "log_probs.rows", "computed.rows", "span.last", *(f"{name}.last" for name in memories)],
            name="spans",
            body=_one_span(part, config),
        ),
        node("Slice", ["codes.padded", "one_column", "end", "code_axis"], "codes.rows"),
        node("Cast", ["computed.rows"], "computed.float", to=TensorProto.FLOAT),
        node("Div", ["computed.float", "positions.float"], "passes.rows"),
        *_join("codes.rows", "codes"),
        *_join("log_probs.rows", "log_probs"),
        node("Reshape", ["passes.rows", "windows_shape"], "passes"),
    ]
    initializers = [
        *context.graph.initializer,
        *renamed(part, "first.", {}).initializer,
        *renamed(part, "again.", {}).initializer,
        constant("grid_shape", [-1, grid[0], size[0], grid[1], size[1]]),
        constant("rows_shape", [-1, windows.num_codes]),
        constant("windows_grid_shape", [-1, *grid, *size]),
        constant("items_shape", [-1, config.num_tokens]),
        constant("windows_shape", [-1, windows.per_item]),
        constant("hidden_size", [config.recognition.hidden_size]),
        constant("code_axis", [1]),
        constant("one_column", [1]),
        constant("no_columns", [0]),
        constant("end", [windows.num_codes + 1]),
        constant("one", 1),
        constant("zero", 0),
        constant("num_positions", windows.num_codes),
        helper.make_tensor("positions.float", TensorProto.FLOAT, [], [windows.num_codes]),
        constant("first_positions", shared),
        constant("fewest_positions", fewest),
        constant("growth", growth),
        constant("one_less", growth - 1),
        constant("call_cost", CALL_COST),
        constant("pass_cost", PASS_COST),
        constant("loop_cost", loop_cost),
    ]
    items: list[str | int | None] = ["batch", config.num_tokens]
    inputs = [
        *context.graph.input,
        value_info("uniform", TensorProto.FLOAT, items),
        value_info("temperature", TensorProto.FLOAT, []),
    ]
    outputs = [
        value_info("codes", _CODES, items),
        value_info("log_probs", _LOG_PROBS, items),
        value_info("passes", TensorProto.FLOAT, ["batch", windows.per_item]),
    ]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs, initializers)
    share_equal_initializers(graph)
    return helper.make_model(graph, opset_imports=context.opset_import, ir_version=context.ir_version)


def _first_span() -> list[NodeProto]:
    """``span.first`` (1,): :func:`daps_tokenizer.model.sampling.first_span` of the number of rows."""
    return [
        node("Div", ["first_positions", "num_rows"], "span.shared"),
        node("Max", ["span.shared", "fewest_positions"], "span.long"),
        node("Min", ["span.long", "num_positions"], "span.first"),
    ]


def _one_span(span: GraphProto, config: TokenizerConfig) -> GraphProto:
    """The body of the loop over spans: the first pass of all rows, and more until they have settled.

    ``codes``, ``log_probs`` and ``memories`` grow by the span; ``computed`` (rows,) counts positions.
    """
    memories, own = memory_names("memories", config), memory_names("own", config)
    past = dict(zip(memory_names("past", config), (f"{name}.before" for name in memories), strict=True))
    given = _same(["temperature", *context_names(config)]) | past | {"uniform": "uniform.here", "codes": "codes.guess"}
    found = {name: f"{name}.1" for name in ("log_probs", *own)} | {"new_codes": "codes.1"}
    tried = ["codes", "log_probs", *own, "computed", "unsettled"]
    nodes = [
        node("Shape", ["log_probs.before"], "start", start=1, end=2),
        node("Add", ["start", "span.before"], "start_and_span"),
        node("Min", ["start_and_span", "num_positions"], "stop"),
        node("Sub", ["stop", "start"], "length"),
        node("Slice", ["uniform.rows", "start", "stop", "code_axis"], "uniform.here"),
        node("Slice", ["codes.before", "start", "end", "code_axis"], "previous"),
        node("Concat", ["num_rows", "length"], "span_shape", axis=0),
        zeros("span_shape", "codes.guess", _CODES),
        *renamed(span, "first.", given | {"previous": "previous"} | found).node,
        node("Add", ["computed.before", "length"], "computed.1"),
        *_changed_rows("codes.guess", "codes.1", "changed.1"),
        node("Compress", ["all_rows", "changed.1"], "unsettled.1", axis=0),
        *_any("unsettled.1", "go_on"),
        node("Sub", ["length", "one"], "passes_left"),
        node("Squeeze", ["passes_left"], "num_more"),
        helper.make_node(
            "Loop",
            ["num_more", "go_on", *(f"{name}.1" for name in tried)],
            [f"{name}.settled" for name in tried],
            name="more_passes",
            body=_one_more_pass(span, config),
        ),
        *_loop_is_quicker(),
        node("Mul", ["span.before", "growth"], "span.grown"),
        node("Sub", ["span.grown", "one_less"], "span.longer"),
        node("Where", ["loop_is_quicker", "one_column", "span.longer"], "span.after"),
        *(
            node("Concat", [f"{name}.before", f"{name}.settled"], f"{name}.after", axis=1)
            for name in ("codes", "log_probs")
        ),
        *(
            node("Concat", [f"{memory}.before", f"{name}.settled"], f"{memory}.after", axis=1)
            for memory, name in zip(memories, own, strict=True)
        ),
        node("Identity", ["computed.settled"], "computed.after"),
        node("Less", ["stop", "num_positions"], "some_left"),
        node("Squeeze", ["some_left"], "go_on_with_spans"),
    ]

    def state(when: str) -> list[ValueInfoProto]:
        return [
            value_info(f"codes.{when}", _CODES, [None, None]),
            value_info(f"log_probs.{when}", _LOG_PROBS, [None, None]),
            value_info(f"computed.{when}", _COUNTS, [None]),
            value_info(f"span.{when}", TensorProto.INT64, [1]),
            *_of_memories([f"{name}.{when}" for name in memories], config),
        ]

    inputs = [
        value_info("number_of_span", TensorProto.INT64, []),
        value_info("more_spans", TensorProto.BOOL, []),
        *state("before"),
    ]
    outputs = [value_info("go_on_with_spans", TensorProto.BOOL, []), *state("after")]
    return helper.make_graph(nodes, "one_span", inputs, outputs)


def _one_more_pass(span: GraphProto, config: TokenizerConfig) -> GraphProto:
    """The body of the loop over passes: once more, for the rows that have not settled."""
    own, context = memory_names("own", config), context_names(config)
    past, memories = memory_names("past", config), memory_names("memories", config)
    outer = _same(context) | {"uniform": "uniform.here", "previous": "previous"}
    outer |= dict(zip(past, (f"{name}.before" for name in memories), strict=True))
    results = ["codes", "log_probs", *own, "computed"]
    names = {name: f"{name}.chosen" for name in (*outer, "codes")} | {"temperature": "temperature"}
    names |= {name: f"{name}.new" for name in ("log_probs", *own)} | {"new_codes": "codes.new"}
    nodes = [
        *_choose_rows("unsettled.tried", outer | {name: f"{name}.tried" for name in ("codes", "computed")}),
        *renamed(span, "again.", names).node,
        node("Add", ["computed.chosen", "length"], "computed.new"),
        node("Unsqueeze", ["unsettled.tried", "code_axis"], "index"),
        *(node("ScatterND", [f"{name}.tried", "index", f"{name}.new"], f"{name}.better") for name in results),
        *_changed_rows("codes.chosen", "codes.new", "changed"),
        node("Compress", ["unsettled.tried", "changed"], "unsettled.better", axis=0),
        *_any("unsettled.better", "go_on.better"),
    ]

    def state(when: str) -> list[ValueInfoProto]:
        return [
            value_info(f"go_on.{when}", TensorProto.BOOL, []),
            value_info(f"codes.{when}", _CODES, [None, None]),
            value_info(f"log_probs.{when}", _LOG_PROBS, [None, None]),
            *_of_memories([f"{name}.{when}" for name in own], config),
            value_info(f"computed.{when}", _COUNTS, [None]),
            value_info(f"unsettled.{when}", TensorProto.INT64, [None]),
        ]

    inputs = [value_info("pass", TensorProto.INT64, []), *state("tried")]
    return helper.make_graph(nodes, "one_more_pass", inputs, state("better"))


def _loop_is_quicker() -> list[NodeProto]:
    """``loop_is_quicker`` (1,): the function of that name in :mod:`daps_tokenizer.model.sampling`."""
    return [
        node("Sub", ["computed.settled", "computed.before"], "computed.here"),
        node("ReduceSum", ["computed.here"], "computed.sum", keepdims=0),
        node("ReduceMax", ["computed.here"], "computed.most", keepdims=0),
        node("Div", ["computed.most", "length"], "calls"),
        node("Mul", ["calls", "call_cost"], "cost_of_calls"),
        node("Mul", ["computed.sum", "pass_cost"], "cost_of_positions"),
        node("Add", ["cost_of_calls", "cost_of_positions"], "cost_of_passes"),
        node("Mul", ["loop_cost", "num_rows"], "cost_of_rows"),
        node("Add", ["cost_of_rows", "call_cost"], "cost_of_a_step"),
        node("Mul", ["cost_of_a_step", "length"], "cost_of_steps"),
        node("Less", ["cost_of_steps", "cost_of_passes"], "loop_is_quicker"),
    ]


def _choose_rows(rows: str, values: dict[str, str]) -> list[NodeProto]:
    """``NAME.chosen``: the rows of each value, given as {NAME: value}."""
    return [node("Gather", [value, rows], f"{name}.chosen") for name, value in values.items()]


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


def _of_memories(names: list[str], config: TokenizerConfig) -> list[ValueInfoProto]:
    return [value_info(name, TensorProto.FLOAT, [None, None, config.recognition.hidden_size]) for name in names]


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
