"""The graphs of a model folder, each a small module that is put through torch's ONNX exporter.

Normalisation is inside every graph, the batch is dynamic, and codes are int32 throughout. :mod:`export.encoder`
makes ``encoder.onnx``, of which the growing step is a part; the others are written as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from onnxscript import opset23
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import choose_codes
from daps_tokenizer.model.transformer import Attention, Memory
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


class EncoderStep(nn.Module, ABC):
    """One position for a batch: what ``RecognitionModel.step`` and ``choose_codes`` do, in one module.

    Hidden states are (B, H), without an axis for the one position: fewer operators, and biases fuse into the products.
    Subclasses say how a block attends to earlier positions and how these are kept.
    """

    def __init__(self, recognition: RecognitionModel) -> None:
        super().__init__()
        self.recognition = recognition

    def forward(
        self,
        position: Tensor,
        previous: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        context: list[Memory],
        past: list[Memory],
    ) -> tuple[Tensor, Tensor, list[Memory]]:
        """Choose the codes of one position.

        Args:
            position: the position's index, int64 ().
            previous: the codes of the position before, int32 (B,); zeros at the first.
            uniform: (B,) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`Context` made.
            past: keys and values of earlier positions of each block.

        Returns:
            Codes int32 (B,), log q of each at temperature 1 (B,), and ``past`` with this position added.
        """
        model = self.recognition
        h = model.code_embedding(previous) + F.embedding(position, model.positions)
        present = []
        blocks = len(model.decoder_blocks)  # the context may hold one memory more: the scores of code books
        for block, memory, earlier in zip(model.decoder_blocks, context[:blocks], past, strict=True):
            attended, reachable = self.attend_past(
                block.self_attention, block.self_attention_norm(h), earlier, position
            )
            present.append(reachable)
            h = h + attended
            h = h + self.attend_context(block.cross_attention, block.cross_attention_norm(h), memory)
            h = h + block.feed_forward(block.feed_forward_norm(h))
        logits = model.head(model.decoder_norm(h))
        if model.code_books is not None:
            logits = logits + model.scores_at(context, position)
        codes = choose_codes(logits, uniform, temperature)
        log_probs = logits.log_softmax(-1).gather(-1, codes[:, None])[:, 0]
        return codes.to(torch.int32), log_probs, present

    @abstractmethod
    def attend_past(self, attention: Attention, x: Tensor, past: Memory, position: Tensor) -> tuple[Tensor, Memory]:
        """Attend from x (B, H) to earlier positions and itself -> (B, H), and the memory with x added."""

    @abstractmethod
    def attend_context(self, attention: Attention, x: Tensor, context: Memory) -> Tensor:
        """Attend from x (B, H) to the encoder's output -> (B, H)."""


class GrowingStep(EncoderStep):
    """The step for a loop inside a graph: the memory grows by one position, (B, heads, t, head_size) -> t + 1."""

    def attend_past(self, attention: Attention, x: Tensor, past: Memory, position: Tensor) -> tuple[Tensor, Memory]:
        """ONNX's Attention operator appends to the memory and attends to it in one go."""
        query, key, value = (project(x)[:, None] for project in (attention.query, attention.key, attention.value))
        heads = attention.num_heads
        attended, keys, values, _ = torch.onnx.ops.attention(
            query, key, value, past_key=past.keys, past_value=past.values, q_num_heads=heads, kv_num_heads=heads
        )
        return attention.out(attended[:, 0]), Memory(keys, values)

    def attend_context(self, attention: Attention, x: Tensor, context: Memory) -> Tensor:
        """Exported as one Attention operator; for a single position, splitting heads is only a reshape."""
        query = attention.query(x).unflatten(-1, (attention.num_heads, 1, -1))
        return attention.out(F.scaled_dot_product_attention(query, context.keys, context.values).flatten(1))


class FixedStep(EncoderStep):
    """The step for TensorRT and CUDA graphs: the memory always holds N positions, and those not yet drawn are masked.

    Shapes never change and the position is an input, so one captured step serves all. The memory starts as zeros.
    """

    def attend_past(self, attention: Attention, x: Tensor, past: Memory, position: Tensor) -> tuple[Tensor, Memory]:
        """Write the new key and value at ``position``, attend to all positions up to it."""
        query, key, value = (
            project(x).unflatten(-1, (attention.num_heads, 1, -1))
            for project in (attention.query, attention.key, attention.value)
        )
        places = torch.arange(past.keys.shape[2])
        here = (places == position)[:, None]
        memory = Memory(torch.where(here, key, past.keys), torch.where(here, value, past.values))
        return attention.out(_attend(query, memory, unseen=places > position)), memory

    def attend_context(self, attention: Attention, x: Tensor, context: Memory) -> Tensor:
        """All of the context can be seen."""
        return attention.out(_attend(attention.query(x).unflatten(-1, (attention.num_heads, 1, -1)), context))


def _attend(query: Tensor, memory: Memory, unseen: Tensor | None = None) -> Tensor:
    """Attention in plain operators: query (B, heads, 1, head_size) -> (B, H)."""
    scores = (query * query.shape[-1] ** -0.5) @ memory.keys.transpose(2, 3)
    if unseen is not None:
        scores = torch.where(unseen, -math.inf, scores)
    return (scores.softmax(-1) @ memory.values).flatten(1)


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
