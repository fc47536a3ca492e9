"""What is exported: small modules around the model's own parts, and the form that they are written in for a runtime.

Drawing codes is Context, and Span, Pass or Step. ``encoder.onnx`` is spliced from Context and Span
(:mod:`export.encoder`); Context, Pass and Step are written as they are, ``encoder_context.onnx``, ``encoder_pass.onnx``
and ``encoder_step.onnx``, for runtimes that need shapes which never change.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import (
    Choose,
    choose_codes,
    draw_pass,
    draw_position,
    draw_span,
    invert_cdf,
    later_positions,
    most_probable,
    sample_codes,
)
from daps_tokenizer.model.transformer import Attention, Memory, attend_plainly


class FusedAttention(Attention):
    """ONNX's Attention operator. It splits heads by itself, without copies: memories are (rows, positions, H)."""

    def split(self, x: Tensor) -> Tensor:
        """Nothing to do."""
        return x

    def join(self, x: Tensor) -> Tensor:
        """Nothing to do."""
        return x

    def attend(self, queries: Tensor, memory: Memory, *, causal: bool, bias: Tensor | None) -> Tensor:
        """Attend from queries (rows, T, H)."""
        heads = self.num_heads
        attended, *_ = torch.onnx.ops.attention(
            queries, memory.keys, memory.values, bias, is_causal=causal, q_num_heads=heads, kv_num_heads=heads
        )
        return attended


class PlainAttention(Attention):
    """Products and a softmax, which TensorRT reads: its importer of the Attention operator is young."""

    def attend(self, queries: Tensor, memory: Memory, *, causal: bool, bias: Tensor | None) -> Tensor:
        """Attend from queries (rows, heads, T, head_size)."""
        return attend_plainly(queries, memory, causal=causal, bias=bias)


def choose_by_branch(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """What ``choose_codes`` does; torch's cond becomes ONNX's If, so that greedy codes do not pay for probabilities."""
    return torch.cond(temperature > 0, invert_cdf, most_probable, (logits, uniform, temperature))


@dataclass(frozen=True)
class Form:
    """How attention and choosing are written, and in which opset."""

    attention: type[Attention]
    choose: Choose
    opset: int

    def of(self, model: Autoencoder) -> Autoencoder:
        """A copy of the model in this form, in evaluation mode."""
        model = copy.deepcopy(model).eval()
        _replace_attention(model, self.attention)
        return model


# Two forms, as a greedy pass over a photograph takes ONNX Runtime 17 ms of one core in this one and 24 ms in the other.
FUSED = Form(FusedAttention, choose_by_branch, 23)
# For TensorRT and CUDA graphs, in which there is no control flow.
PLAIN = Form(PlainAttention, choose_codes, 20)


def _replace_attention(module: nn.Module, kind: type[Attention]) -> None:
    for name, child in module.named_children():
        if isinstance(child, Attention):
            replaced = kind(child.query.in_features, child.num_heads)
            replaced.load_state_dict(child.state_dict())
            setattr(module, name, replaced)
        else:
            _replace_attention(child, kind)


class Context(nn.Module):
    """What is computed once per item: the input -> keys and values for the cross-attention of each decoder block."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> list[Memory]:
        """Inputs (B, *input_shape) -> a memory of each window per decoder block, and the scores of code books."""
        return self.model.autoregressive.context(self.model.standardise(inputs))


class Pass(nn.Module):
    """Every code anew, given all codes of the pass before: :func:`daps_tokenizer.model.sampling.draw_pass`."""

    def __init__(self, recognition: RecognitionModel, choose: Choose) -> None:
        super().__init__()
        self.recognition, self.choose = recognition, choose

    def forward(
        self, uniform: Tensor, temperature: Tensor, context: list[Memory], codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose the codes of all positions.

        Args:
            uniform: (rows, n) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`Context` made.
            codes: int32 (rows, n); position t is given those before t.

        Returns:
            Codes int32 (rows, n) and log q of each at temperature 1, (rows, n).
        """
        drawn = draw_pass(self.recognition, context, codes, uniform, temperature, self.choose)
        return drawn.codes.to(torch.int32), drawn.log_probs


class Span(nn.Module):
    """Some neighbouring positions of all rows: :func:`daps_tokenizer.model.sampling.draw_span`."""

    def __init__(self, recognition: RecognitionModel, choose: Choose) -> None:
        super().__init__()
        self.recognition, self.choose = recognition, choose

    def forward(
        self,
        previous: Tensor,
        codes: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        context: list[Memory],
        past: list[Memory],
    ) -> tuple[Tensor, Tensor, list[Memory]]:
        """Choose the codes of T positions anew, after t positions that are drawn.

        Args:
            previous: the code before the span, int32 (rows, 1); 0 at the first position.
            codes: of the pass before, int32 (rows, T).
            uniform: (rows, T) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`Context` made.
            past: keys and values of the t earlier positions of each block, (rows, t, H).

        Returns:
            Codes int32 (rows, T), log q of each at temperature 1 (rows, T), and the span's own keys and values of each
            block (rows, T, H).
        """
        start, length = past[0].keys.shape[1], codes.shape[1]
        positions = torch.arange(start, start + length)
        own_memories: list[Memory] = []

        def keep(earlier: Memory, own: Memory) -> Memory:
            own_memories.append(own)
            return Memory(*(torch.cat(pair, dim=1) for pair in zip(earlier, own, strict=True)))

        drawn = draw_span(
            self.recognition,
            context,
            torch.cat([previous, codes[:, :-1]], dim=1),
            positions,
            uniform,
            temperature,
            [partial(keep, memory) for memory in past],
            later_positions(positions, torch.arange(start + length)),
            self.choose,
        )
        return drawn.codes.to(torch.int32), drawn.log_probs, own_memories


class Step(nn.Module):
    """One position of all rows: :func:`daps_tokenizer.model.sampling.draw_position`.

    The memory of earlier positions always has room for all n; those not yet drawn are masked. Shapes never change and
    the position is an input, so one captured step serves all. The memory starts as zeros.
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
            previous: the codes of the position before, int32 (rows,); zeros at the first.
            uniform: (rows,) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`Context` made.
            past: keys and values of earlier positions of each block.

        Returns:
            Codes int32 (rows,), log q of each at temperature 1 (rows,), and ``past`` with this position added.
        """
        places = torch.arange(self.recognition.windows.num_codes)
        here = (places == position)[:, None]
        bias = later_positions(position[None], places)
        present: list[Memory] = []

        def keep(earlier: Memory, own: Memory) -> Memory:
            present.append(Memory(*(torch.where(here, *pair) for pair in zip(own, earlier, strict=True))))
            return present[-1]

        drawn = draw_position(
            self.recognition,
            context,
            previous,
            position[None],
            uniform,
            temperature,
            [partial(keep, memory) for memory in past],
            bias,
        )
        return drawn.codes.to(torch.int32), drawn.log_probs, present


class AtOnce(nn.Module):
    """The encoder of a recognition model whose codes do not depend on each other."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, uniform: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, *input_shape), uniform (B, N), temperature () -> codes int32 and their log q, each (B, N)."""
        recognition = self.model.recognition
        context = recognition.context(self.model.standardise(inputs))
        codes, log_probs = sample_codes(recognition, context, uniform, temperature)
        return codes.to(torch.int32), log_probs


class Decoder(nn.Module):
    """Codes -> the reconstruction in input units, and mean and variance in standardised units."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, rows, columns) -> three times (B, *input_shape), or as large as the grid is."""
        moments = self.model.likelihood.moments(self.model.generative(codes))
        return self.model.to_input_units(moments.mean), moments.mean, moments.variance


class Likelihood(nn.Module):
    """How well codes explain an input, cell by cell."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and codes (B, rows, columns) -> log p(x|z) and squared error, each (B, rows, columns)."""
        return tuple(self.model.cell_values(self.model.standardise(inputs), codes))  # type: ignore[return-value]


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
