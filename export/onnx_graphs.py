"""The graphs of a model folder: modules of :mod:`export.modules`, put through torch's ONNX exporter.

Normalisation is inside every graph, the batch is dynamic, and codes are int32 throughout. :mod:`export.encoder` splices
``encoder.onnx``; the others are written as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from onnxscript import opset23
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.transformer import Memory
from export.modules import FUSED, AtOnce, Context, Decoder, Form, Likelihood, Pass, Scorer, Span, Step
from export.weights import tidy

OPSET = FUSED.opset

# Any size that is not 0 or 1, which the exporter would take for constants; different, or it would take them for one.
EXAMPLE_BATCH = 3
_EXAMPLE_ROWS, _EXAMPLE_COLUMNS = 6, 7
_EXAMPLE_LENGTH, _EXAMPLE_EARLIER = 2, 4  # may exceed a short window: no shape depends on it

_BATCH = {0: "batch"}
_OF_MEMORY: Any = Memory(_BATCH, _BATCH)  # type: ignore[arg-type]


def input_name(config: TokenizerConfig) -> str:
    """What the graphs call the input: ``images`` or ``features``."""
    return "images" if config.modality == "image" else "features"


def memory_names(prefix: str, config: TokenizerConfig) -> list[str]:
    """Names of the keys and values of every decoder block, in the order in which the graphs take and give them."""
    layers = range(config.recognition.num_layers)
    return [f"{prefix}_{part}_{layer}" for layer in layers for part in ("keys", "values")]


def context_names(config: TokenizerConfig) -> list[str]:
    """Names of what the context gives: keys and values of every block, and the two halves of code books' scores."""
    scores = [] if config.transform is None else ["context_lower_scores", "context_upper_scores"]
    return memory_names("context", config) + scores


def export_context(model: Autoencoder, form: Form) -> onnx.ModelProto:
    """``images`` or ``features`` -> ``context_keys_0``, ``context_values_0``, ..., a row for every window."""
    config = model.config
    module, (inputs, shapes) = Context(form.of(model)), _example_inputs(config)
    return export_graph(module, (inputs,), (shapes,), [input_name(config)], context_names(config), form.opset)


def export_pass(model: Autoencoder, form: Form) -> onnx.ModelProto:
    """``uniform``, ``temperature``, ``context_*`` and ``codes`` -> ``new_codes`` and ``log_probs``, of windows."""
    config, model = model.config, form.of(model)
    memories = _example_context(model)
    shape = (len(memories[0].keys), config.codes_per_window)
    examples = (torch.zeros(shape), torch.tensor(1.0), memories, torch.zeros(shape, dtype=torch.int32))
    dynamic: tuple[Any, ...] = (_BATCH, {}, [_OF_MEMORY] * len(memories), _BATCH)
    names = ["uniform", "temperature", *context_names(config), "codes"]
    module = Pass(model.autoregressive, form.choose)
    return export_graph(module, examples, dynamic, names, ["new_codes", "log_probs"], form.opset)


def export_span(model: Autoencoder, form: Form) -> onnx.ModelProto:
    """``previous``, ``codes``, ``uniform``, ``temperature``, ``context_*`` and ``past_*`` -> a span of all windows.

    The outputs are ``new_codes``, ``log_probs`` and the memories ``own_*`` of these positions.
    """
    config, model = model.config, form.of(model)
    memories = _example_context(model)
    rows, length = len(memories[0].keys), _EXAMPLE_LENGTH
    with torch.no_grad():
        earlier = torch.zeros(rows, _EXAMPLE_EARLIER, config.recognition.hidden_size)
        past = [block.self_attention.memory(earlier) for block in model.autoregressive.decoder_blocks]
    previous, codes = (torch.zeros(rows, columns, dtype=torch.int32) for columns in (1, length))
    examples = (previous, codes, torch.zeros(rows, length), torch.tensor(1.0), memories, past)
    of_span, of_past = {0: "batch", 1: "length"}, {0: "batch", 1: "earlier"}
    pasts: Any = Memory(of_past, of_past)  # type: ignore[arg-type]
    dynamic: tuple[Any, ...] = (_BATCH, of_span, of_span, {}, [_OF_MEMORY] * len(memories), [pasts] * len(past))
    inputs = ["previous", "codes", "uniform", "temperature", *context_names(config), *memory_names("past", config)]
    outputs = ["new_codes", "log_probs", *memory_names("own", config)]
    return export_graph(Span(model.autoregressive, form.choose), examples, dynamic, inputs, outputs, form.opset)


def export_step(model: Autoencoder, form: Form) -> onnx.ModelProto:
    """``position``, ``previous``, ``uniform``, ``temperature``, ``context_*``, ``past_*`` -> a position of all windows.

    The outputs are ``codes``, ``log_probs`` and the memories ``present_*``, which are as large as ``past_*``.
    """
    config, model = model.config, form.of(model)
    memories = _example_context(model)
    rows, sizes = len(memories[0].keys), config.recognition
    with torch.no_grad():
        earlier = torch.zeros(rows, config.codes_per_window, sizes.hidden_size)
        past = [block.self_attention.memory(earlier) for block in model.autoregressive.decoder_blocks]
    examples = (
        torch.tensor(1),
        torch.zeros(rows, dtype=torch.int32),
        torch.zeros(rows),
        torch.tensor(1.0),
        memories,
        past,
    )
    of_memories = [[_OF_MEMORY] * len(some) for some in (memories, past)]
    dynamic = ({}, _BATCH, _BATCH, {}, *of_memories)
    inputs = ["position", "previous", "uniform", "temperature", *context_names(config), *memory_names("past", config)]
    outputs = ["codes", "log_probs", *memory_names("present", config)]
    return export_graph(Step(model.autoregressive), examples, dynamic, inputs, outputs, form.opset)


def export_at_once(model: Autoencoder) -> onnx.ModelProto:
    """``encoder.onnx`` of a recognition model that encodes in one pass: ``codes`` and ``log_probs``, each (B, N).

    A quantiser takes ``uniform`` and ``temperature`` as well, so that a backend need not know which it runs; its log q
    are zeros.
    """
    config = model.config
    inputs, shapes = _example_inputs(config)
    examples = (inputs, torch.zeros(EXAMPLE_BATCH, config.num_tokens), torch.tensor(1.0))
    names = [input_name(config), "uniform", "temperature"]
    return export_graph(AtOnce(FUSED.of(model)), examples, (shapes, _BATCH, {}), names, ["codes", "log_probs"])


def export_decoder(model: Autoencoder) -> onnx.ModelProto:
    """``codes`` -> ``reconstruction``, ``mean``, ``variance``."""
    codes, shapes = _example_grid(model.config)
    return export_graph(Decoder(model), (codes,), (shapes,), ["codes"], ["reconstruction", "mean", "variance"])


def export_likelihood(model: Autoencoder) -> onnx.ModelProto:
    """Input and ``codes`` -> ``log_likelihood`` and ``squared_error``, in the shape of the codes."""
    config = model.config
    (codes, shapes), (inputs, of_inputs) = _example_grid(config), _example_inputs(config)
    if config.token_grid is not None:
        height, _, channels = config.input_shape
        cell = height // config.token_grid[0]
        inputs = torch.zeros(EXAMPLE_BATCH, cell * _EXAMPLE_ROWS, cell * _EXAMPLE_COLUMNS, channels, dtype=torch.uint8)
        batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
        of_inputs, shapes = {0: batch, 1: cell * rows, 2: cell * columns}, {0: batch, 1: rows, 2: columns}
    names, outputs = [input_name(config), "codes"], ["log_likelihood", "squared_error"]
    return export_graph(Likelihood(model), (inputs, codes), (of_inputs, shapes), names, outputs)


def export_scorer(model: Autoencoder) -> onnx.ModelProto:
    """Input, ``codes`` and ``k`` -> ``log_probs`` (B, N) and ``top_codes`` (B, N, k), the most probable first."""
    config = model.config
    inputs, shapes = _example_inputs(config)
    examples = (inputs, torch.zeros(EXAMPLE_BATCH, config.num_tokens, dtype=torch.int32))
    names, outputs = [input_name(config), "codes"], ["log_probs", "log_q"]
    exported = export_graph(Scorer(FUSED.of(model)), examples, (shapes, _BATCH), names, outputs)
    # torch's exporter wants to know k while it traces, so the choice of the k best is added afterwards.
    graph = exported.graph
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, []))
    graph.initializer.append(helper.make_tensor("first_axis", TensorProto.INT64, [1], [0]))
    graph.node.extend(
        [
            helper.make_node("Unsqueeze", ["k", "first_axis"], ["k_vector"], name="k_vector"),
            helper.make_node("TopK", ["log_q", "k_vector"], ["top_log_q", "top_indices"], name="top", axis=-1),
            helper.make_node("Cast", ["top_indices"], ["top_codes"], name="top_codes", to=TensorProto.INT32),
        ]
    )
    top_shape: list[str | int | None] = ["batch", config.num_tokens, "k"]
    graph.output.pop()
    graph.output.append(helper.make_tensor_value_info("top_codes", TensorProto.INT32, top_shape))
    return exported


def _example_inputs(config: TokenizerConfig) -> tuple[Tensor, dict[int, Any]]:
    """Inputs and which of their axes are dynamic: also height and width, where images may come with surroundings."""
    dtype = torch.uint8 if config.modality == "image" else torch.float32
    inputs = torch.zeros(EXAMPLE_BATCH, *config.input_shape, dtype=dtype)
    return inputs, _BATCH | ({1: "height", 2: "width"} if config.recognition.surroundings else {})


def _example_grid(config: TokenizerConfig) -> tuple[Tensor, dict[int, Any]]:
    """Codes (B, rows, columns) and which of their axes are dynamic: all, of a convolutional generative model."""
    if config.token_grid is None:
        return torch.zeros(EXAMPLE_BATCH, 1, config.num_tokens, dtype=torch.int32), {0: "batch"}
    codes = torch.zeros(EXAMPLE_BATCH, _EXAMPLE_ROWS, _EXAMPLE_COLUMNS, dtype=torch.int32)
    return codes, {0: "batch", 1: "rows", 2: "columns"}


def _example_context(model: Autoencoder) -> list[Memory]:
    with torch.no_grad():
        context = Context(model)(_example_inputs(model.config)[0])
    # Each a tensor of its own: of one tensor that is passed as two inputs the exporter would wire only one.
    return [Memory(*(part.clone() for part in memory)) for memory in context]


def _log_sigmoid(x: Any) -> Any:
    return opset23.Neg(opset23.Softplus(opset23.Neg(x)))


# The exporter's own translation, Log(Sigmoid(x)), is -inf in ONNX Runtime where x is below -18.
_TRANSLATIONS: dict[Callable, Callable] = {torch.ops.aten.log_sigmoid.default: _log_sigmoid}


def export_graph(
    module: nn.Module,
    examples: tuple[Any, ...],
    dynamic_shapes: tuple[Any, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Put a module through the exporter: what torch.onnx.export takes, and a graph that is fit to be shared."""
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=_TRANSLATIONS,
            verbose=False,
        )
    assert program is not None
    return tidy(program.model_proto)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's progress and its remarks on packages that are not installed, but no error."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
