"""The encoder's step as modules to be exported: one position of a batch, with a memory that grows or one of fixed size.

:mod:`export.onnx_graphs` exports them: :class:`GrowingStep` as the body of the loop of ``encoder.onnx``,
:class:`FixedStep` as ``encoder_step.onnx``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import choose_codes
from daps_tokenizer.model.transformer import Attention, Memory


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
            context: what :class:`export.onnx_graphs.Context` made.
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
        return attention.out(attend_plainly(query, memory, places > position).flatten(1)), memory

    def attend_context(self, attention: Attention, x: Tensor, context: Memory) -> Tensor:
        """All of the context can be seen."""
        query = attention.query(x).unflatten(-1, (attention.num_heads, 1, -1))
        return attention.out(attend_plainly(query, context).flatten(1))


def attend_plainly(query: Tensor, memory: Memory, unseen: Tensor | None = None) -> Tensor:
    """Attention in plain operators, which TensorRT reads: query (B, heads, n, head_size) -> the same shape."""
    scores = (query * query.shape[-1] ** -0.5) @ memory.keys.transpose(2, 3)
    if unseen is not None:
        scores = torch.where(unseen, -math.inf, scores)
    return scores.softmax(-1) @ memory.values
