"""The graphs of a model folder, each a small module that is put through torch's ONNX exporter.

Normalisation is inside every graph, the batch is dynamic, and codes are int32 throughout. :mod:`export.encoder`
makes ``encoder.onnx``, of which the growing step is a part; the others are written as they are.
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
from export.steps import EncoderStep, FixedStep, GrowingStep
from export.weights import tidy

OPSET = 23  # the first with the Attention operator
# TensorRT's importer of the Attention operator is young: the graphs made for it are written in older operators.
TENSORRT_OPSET = 20

# Any size that is not 0 or 1, which the exporter would take for constants.
EXAMPLE_BATCH = 3
_EXAMPLE_PAST = 5


class Context(nn.Module):
    """What is computed once per item: the input -> cross-attention keys and values of each decoder block."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> list[Memory]:
        """Inputs (B, *input_shape) -> a memory (B, heads, positions, head_size) per decoder block."""
        return self.model.recognition.context(self.model.standardise(inputs))


class Decoder(nn.Module):
    """Codes -> the reconstruction in input units, and mean and variance in standardised units."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, N) -> three times (B, *input_shape)."""
        moments = self.model.likelihood.moments(self.model.generative(codes))
        return self.model.to_input_units(moments.mean), moments.mean, moments.variance


class Scorer(nn.Module):
    """Teacher-forced log q of given codes, and of all codes at each position."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, *input_shape) and codes (B, N) -> log q of the codes (B, N), and of every code (B, N, V)."""
        recognition = self.model.recognition
        context = recognition.context(self.model.standardise(inputs))
        log_q = recognition.logits(context, codes).log_softmax(-1)
        return log_q.gather(-1, codes.long()[..., None])[..., 0], log_q


class Likelihood(nn.Module):
    """How well codes explain an input, cell by cell."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, *input_shape) and codes (B, N) -> log p(x|z) and squared error, each (B, N)."""
        return tuple(self.model.cell_values(self.model.standardise(inputs), codes))  # type: ignore[return-value]


def input_name(config: TokenizerConfig) -> str:
    """What the graphs call the input: ``images`` or ``features``."""
    return "images" if config.modality == "image" else "features"


def memory_names(prefix: str, config: TokenizerConfig) -> list[str]:
    """Names of the keys and values of every decoder block, in the order in which the graphs take and give them."""
    layers = range(config.recognition.num_layers)
    return [f"{prefix}_{part}_{layer}" for layer in layers for part in ("keys", "values")]


def context_names(config: TokenizerConfig, prefix: str = "context") -> list[str]:
    """Names of what a step is given of the input: keys and values of every block, and the scores of code books."""
    return memory_names(prefix, config) + score_names(prefix, config)


def score_names(prefix: str, config: TokenizerConfig) -> list[str]:
    """Names of the two halves of the scores of code books, where a model has some."""
    return [] if config.transform is None else [f"{prefix}_lower_scores", f"{prefix}_upper_scores"]


def example_scores(config: TokenizerConfig) -> list[tuple[Tensor, Tensor]]:
    """Both halves of the scores of code books (B, N, V / 2), where a model has some."""
    if config.transform is None:
        return []
    lower = config.vocab_size - config.vocab_size // 2
    shapes = [(EXAMPLE_BATCH, config.num_tokens, size) for size in (lower, config.vocab_size // 2)]
    return [(torch.zeros(shapes[0]), torch.zeros(shapes[1]))]


def export_context(model: Autoencoder, *, opset: int = OPSET) -> onnx.ModelProto:
    """``images`` or ``features`` -> ``context_keys_0``, ``context_values_0``, ..."""
    outputs = context_names(model.config)
    return export_graph(Context(model), (example_inputs(model.config),), ({0: "batch"},), _names(model), outputs, opset)


def export_growing_step(model: Autoencoder) -> onnx.ModelProto:
    """The body of the loop of ``encoder.onnx``; the memories ``past_*`` and ``present_*`` have a dynamic length."""
    return _export_step(GrowingStep(model.autoregressive), model.config, _EXAMPLE_PAST, {0: "batch", 2: "time"}, OPSET)


def export_fixed_step(model: Autoencoder) -> onnx.ModelProto:
    """``encoder_step.onnx``: the memories are (B, heads, n, head_size), before and after; its batch is of windows."""
    step = FixedStep(model.autoregressive)
    return _export_step(step, model.config, model.config.codes_per_window, {0: "batch"}, TENSORRT_OPSET)


def export_decoder(model: Autoencoder) -> onnx.ModelProto:
    """``codes`` -> ``reconstruction``, ``mean``, ``variance``."""
    outputs = ["reconstruction", "mean", "variance"]
    return export_graph(Decoder(model), (_example_codes(model.config),), ({0: "batch"},), ["codes"], outputs)


def export_scorer(model: Autoencoder) -> onnx.ModelProto:
    """Input, ``codes`` and ``k`` -> ``log_probs`` (B, N) and ``top_codes`` (B, N, k), the most probable first."""
    examples = (example_inputs(model.config), _example_codes(model.config))
    outputs = ["log_probs", "log_q"]
    exported = export_graph(Scorer(model), examples, ({0: "batch"}, {0: "batch"}), [*_names(model), "codes"], outputs)
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
    top_shape: list[str | int | None] = ["batch", model.config.num_tokens, "k"]
    graph.output.pop()
    graph.output.append(helper.make_tensor_value_info("top_codes", TensorProto.INT32, top_shape))
    return exported


def export_likelihood(model: Autoencoder) -> onnx.ModelProto:
    """Input and ``codes`` -> ``log_likelihood`` and ``squared_error``, each (B, N)."""
    examples = (example_inputs(model.config), _example_codes(model.config))
    outputs = ["log_likelihood", "squared_error"]
    return export_graph(Likelihood(model), examples, ({0: "batch"}, {0: "batch"}), [*_names(model), "codes"], outputs)


def _names(model: Autoencoder) -> list[str]:
    return [input_name(model.config)]


def example_inputs(config: TokenizerConfig) -> Tensor:
    """Inputs of a batch size that the exporter does not take for a constant."""
    dtype = torch.uint8 if config.modality == "image" else torch.float32
    return torch.zeros(EXAMPLE_BATCH, *config.input_shape, dtype=dtype)


def _example_codes(config: TokenizerConfig) -> Tensor:
    return torch.zeros(EXAMPLE_BATCH, config.num_tokens, dtype=torch.int32)


def example_memories(config: TokenizerConfig, length: int) -> list[Memory]:
    """Zeros to export with: keys and values of ``length`` positions for every decoder block."""
    sizes = config.recognition
    # Each a tensor of its own: of one tensor that is passed as two inputs the exporter would wire only one.
    shape = (EXAMPLE_BATCH, sizes.num_heads, length, sizes.hidden_size // sizes.num_heads)
    return [Memory(torch.zeros(shape), torch.zeros(shape)) for _ in range(sizes.num_layers)]


def _export_step(
    step: EncoderStep, config: TokenizerConfig, past_length: int, past_axes: dict[int, str], opset: int
) -> onnx.ModelProto:
    positions = step.recognition.input_embedding.num_positions // config.windows_per_item
    scores = [Memory(*halves) for halves in example_scores(config)]
    examples = (
        torch.tensor(1),
        torch.zeros(EXAMPLE_BATCH, dtype=torch.int32),
        torch.zeros(EXAMPLE_BATCH),
        torch.tensor(1.0),
        example_memories(config, positions) + scores,
        example_memories(config, past_length),
    )
    batch = {0: "batch"}
    layers = range(config.recognition.num_layers)
    dynamic: tuple[Any, ...] = (
        {},
        batch,
        batch,
        {},
        [Memory(batch, batch) for _ in [*layers, *scores]],  # type: ignore[arg-type]
        [Memory(past_axes, past_axes) for _ in layers],  # type: ignore[arg-type]
    )
    past, present = (memory_names(prefix, config) for prefix in ("past", "present"))
    inputs = ["position", "previous", "uniform", "temperature", *context_names(config), *past]
    return export_graph(step, examples, dynamic, inputs, ["codes", "log_probs", *present], opset)


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
