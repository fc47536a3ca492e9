"""Pre-LN transformer blocks with an explicit key-value memory (paper, Appendix F).

Attention never computes its own keys and values in passing: they are projected first, as a :class:`Memory`, and then
attended to. So teacher-forced training, one cached step, and many samples that share one image are the same code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


class Memory(NamedTuple):
    """Keys and values of one attention, each (B, heads, T, head_size)."""

    keys: Tensor
    values: Tensor


def sinusoidal_positions(length: int, size: int) -> Tensor:
    """The fixed sin/cos table of Vaswani et al. (2017), section 3.5.

    Returns:
        (length, size) float32; even columns are sines, odd columns cosines.
    """
    # In float64, and rounded once: sines in float32 differ between processors in their last bits, and so would exports.
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10000.0) / size))
    table = torch.zeros(length, size)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table


def _attend(queries: Tensor, memory: Memory, *, causal: bool, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, (B, heads, Q, head_size); ``bias`` (T,) is added to every query's scores."""
    if queries.dtype is torch.bfloat16 and queries.device.type == "cpu":
        # The fused CPU kernel is 5× slower in bfloat16 than two matrix products (forward and backward, 64 tokens).
        scores = (queries * queries.shape[-1] ** -0.5) @ memory.keys.transpose(-1, -2)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        if bias is not None:
            scores = scores + bias
        return scores.softmax(-1, dtype=torch.float32).to(queries.dtype) @ memory.values
    mask = None if bias is None else bias.expand(queries.shape[-2], -1)
    return F.scaled_dot_product_attention(queries, memory.keys, memory.values, attn_mask=mask, is_causal=causal)


class Attention(nn.Module):
    """Multi-head attention, projections without bias, in two stops: :meth:`memory` and :meth:`forward`."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, heads, T, head_size)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def memory(self, x: Tensor) -> Memory:
        """Keys and values of x (B, T, H)."""
        return Memory(self._split_heads(self.key(x)), self._split_heads(self.value(x)))

    def forward(self, x: Tensor, memory: Memory, *, causal: bool = False, bias: Tensor | None = None) -> Tensor:
        """Attend from x (B·K, T, H) to a memory of batch B: the K consecutive rows of one item share its memory.

        Sharing is free: the K rows are laid side by side as queries, so keys and values are read once and never copied.
        ``causal`` needs K = 1 and as many queries as keys; ``bias`` (T,) is added to the scores.
        """
        batch = memory.keys.shape[0]
        queries = self._split_heads(self.query(x).reshape(batch, -1, x.shape[-1]))
        attended = _attend(queries, memory, causal=causal, bias=bias)
        return self.out(attended.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """Dense, ReLU, dense."""

    def __init__(self, hidden_size: int, mlp_ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, hidden_size * mlp_ratio)
        self.down = nn.Linear(hidden_size * mlp_ratio, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        return self.down(F.relu(self.up(x)))


def layer_norm(hidden_size: int) -> nn.LayerNorm:
    """LayerNorm with scale and bias, as throughout the paper's networks."""
    return nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)


class EncoderBlock(nn.Module):
    """Self-attention without mask, then a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention_norm = layer_norm(hidden_size)
        self.attention = Attention(hidden_size, num_heads)
        self.feed_forward_norm = layer_norm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, self.attention.memory(normed))
        return x + self.feed_forward(self.feed_forward_norm(x))


class DecoderBlock(nn.Module):
    """Causal self-attention, cross-attention to the encoder's output, then a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.self_attention_norm = layer_norm(hidden_size)
        self.self_attention = Attention(hidden_size, num_heads)
        self.cross_attention_norm = layer_norm(hidden_size)
        self.cross_attention = Attention(hidden_size, num_heads)
        self.feed_forward_norm = layer_norm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, mlp_ratio)

    def forward(self, x: Tensor, context: Memory) -> Tensor:
        """Whole sequences at once: x (B·K, N, H), context of batch B."""
        normed = self.self_attention_norm(x)
        x = x + self.self_attention(normed, self.self_attention.memory(normed), causal=True)
        return self._attend_context(x, context)

    def step(self, x: Tensor, cache: Memory, position: int, context: Memory) -> Tensor:
        """One position: x (B·K, 1, H) -> (B·K, 1, H).

        ``cache`` (B·K, heads, N, head_size) holds the keys and values of earlier positions; this one's are added to it.
        """
        normed = self.self_attention_norm(x)
        own = self.self_attention.memory(normed)
        cache.keys[:, :, position : position + 1] = own.keys
        cache.values[:, :, position : position + 1] = own.values
        reachable = Memory(cache.keys[:, :, : position + 1], cache.values[:, :, : position + 1])
        x = x + self.self_attention(normed, reachable)
        return self._attend_context(x, context)

    def grow(self, x: Tensor, earlier: Memory | None, context: Memory) -> tuple[Tensor, Memory]:
        """Like :meth:`step`, but the memory is made anew, as gradients need it: x (B·K, 1, H), and the new memory."""
        normed = self.self_attention_norm(x)
        own = self.self_attention.memory(normed)
        if earlier is not None:
            own = Memory(*(torch.cat(pair, dim=2) for pair in zip(earlier, own, strict=True)))
        return self._attend_context(x + self.self_attention(normed, own), context), own

    def step_in_place(self, x: Tensor, cache: Memory, position: Tensor, bias: Tensor, context: Memory) -> Tensor:
        """Like :meth:`step`, with a position (1,) that only the device knows: what a CUDA graph can capture.

        The first ``bias.shape[0]`` entries of ``cache`` are attended to; ``bias`` is -inf at those after ``position``.
        """
        normed = self.self_attention_norm(x)
        own = self.self_attention.memory(normed)
        cache.keys.index_copy_(2, position, own.keys)
        cache.values.index_copy_(2, position, own.values)
        reachable = Memory(cache.keys[:, :, : bias.shape[0]], cache.values[:, :, : bias.shape[0]])
        x = x + self.self_attention(normed, reachable, bias=bias)
        return self._attend_context(x, context)

    def _attend_context(self, x: Tensor, context: Memory) -> Tensor:
        x = x + self.cross_attention(self.cross_attention_norm(x), context)
        return x + self.feed_forward(self.feed_forward_norm(x))
