"""The layers of :mod:`daps_tokenizer.model.transformer`, in the form that ONNX Runtime runs fastest.

Hidden states are (rows · n, H): biases and ReLU fuse into products of two matrices, not into those of higher rank. Keys
and values are (rows, n, H): the Attention operator splits heads by itself, without copies (docs/notes/speed.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.transformer import Attention, DecoderBlock, EncoderBlock


class FlatMemory(NamedTuple):
    """Keys and values of one attention with the heads side by side, each (rows, positions, H)."""

    keys: Tensor
    values: Tensor


def encode_context(model: RecognitionModel, x: Tensor) -> list[FlatMemory]:
    """What ``RecognitionModel.context`` computes from standardised inputs, in the layout of this module."""
    x = model.windows.split(model.input_embedding(x), x.shape[0])
    positions = x.shape[1]
    x = (x + model.positions[:positions]).flatten(0, 1)
    for block in model.encoder_blocks:
        x = encoder_block(block, x, positions)  # type: ignore[arg-type]
    x = model.encoder_norm(x)
    return [flat_memory(block.cross_attention, x, positions) for block in model.decoder_blocks]


def flat_memory(attention: Attention, x: Tensor, length: int) -> FlatMemory:
    """Keys and values of x (rows · length, H)."""
    return FlatMemory(*(project(x).unflatten(0, (-1, length)) for project in (attention.key, attention.value)))


def attend(attention: Attention, x: Tensor, length: int, memory: FlatMemory, *, causal: bool = False) -> Tensor:
    """Attend from x (rows · length, H) to a memory."""
    query = attention.query(x).unflatten(0, (-1, length))
    heads = attention.num_heads
    attended, *_ = torch.onnx.ops.attention(
        query, memory.keys, memory.values, q_num_heads=heads, kv_num_heads=heads, is_causal=causal
    )
    return attention.out(attended.flatten(0, 1))


def encoder_block(block: EncoderBlock, x: Tensor, length: int) -> Tensor:
    """x (rows · length, H) -> the same shape."""
    normed = block.attention_norm(x)
    x = x + attend(block.attention, normed, length, flat_memory(block.attention, normed, length))
    return x + block.feed_forward(block.feed_forward_norm(x))


def attend_before(block: DecoderBlock, x: Tensor, length: int) -> Tensor:
    """The first part of a decoder block, self-attention: x (rows · length, H) -> the same shape."""
    normed = block.self_attention_norm(x)
    memory = flat_memory(block.self_attention, normed, length)
    return x + attend(block.self_attention, normed, length, memory, causal=True)


def attend_context(block: DecoderBlock, x: Tensor, length: int, context: FlatMemory) -> Tensor:
    """The other parts of a decoder block, cross-attention and feed-forward: x (rows · length, H) -> the same shape."""
    x = x + attend(block.cross_attention, block.cross_attention_norm(x), length, context)
    return x + block.feed_forward(block.feed_forward_norm(x))
