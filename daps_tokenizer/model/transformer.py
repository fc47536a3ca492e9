"""Pre-LN transformer blocks with an explicit key-value memory (paper, Appendix F).

Attention never computes its own keys and values in passing: they are projected first, as a :class:`Memory`, and then
attended to. So teacher-forced training, one cached step, and many samples that share one image are the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


class Memory(NamedTuple):
    """Keys and values of one attention, each (B, heads, T, head_size)."""

    keys: Tensor
    values: Tensor


# Keys and values of some positions -> all that these may attend to. How earlier positions are kept is up to who draws.
Join = Callable[[Memory], Memory]


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of x; where it is off, as in exports, nothing is to be said."""
    kind = x.device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


class Head(nn.Linear):
    """Hidden states -> logits, in the precision of its weights also under autocast.

    Logits grow beyond 100, where bfloat16 has steps of 0.5 nats and more: policy search would draw from another policy,
    and learn from another, than the one that is exported.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        with full_precision(input):
            return super().forward(input if input.dtype == self.weight.dtype else input.to(self.weight.dtype))


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


class Attention(nn.Module):
    """Multi-head attention, projections without bias, in two stops: :meth:`memory` and :meth:`forward`.

    ``export.modules`` overrides :meth:`split`, :meth:`join` and :meth:`attend`, for the runtimes it writes for.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def memory(self, x: Tensor) -> Memory:
        """Keys and values of x (B, T, H)."""
        return Memory(self.split(self.key(x)), self.split(self.value(x)))

    def forward(self, x: Tensor, memory: Memory, *, causal: bool = False, bias: Tensor | None = None) -> Tensor:
        """Attend from x (B·K, T, H) to a memory of batch B: the K consecutive rows of one item share its memory.

        Sharing is free: the K rows are laid side by side as queries, so keys and values are read once and never copied.
        ``causal`` needs K = 1 and as many queries as keys; ``bias`` (T or 1, keys) is added to the scores.
        """
        queries, shared = self.query(x), x.shape[0] != memory.keys.shape[0]
        if shared:
            queries = queries.reshape(memory.keys.shape[0], -1, x.shape[-1])
        attended = self.join(self.attend(self.split(queries), memory, causal=causal, bias=bias))
        return self.out(attended.reshape(x.shape) if shared else attended)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, heads, T, head_size)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`split`."""
        return x.transpose(1, 2).flatten(2)

    def attend(self, queries: Tensor, memory: Memory, *, causal: bool, bias: Tensor | None) -> Tensor:
        """Scaled dot-product attention of what :meth:`split` gave; ``bias`` (T or 1, keys) is added to the scores."""
        if queries.dtype is torch.bfloat16 and queries.device.type == "cpu":
            # The fused CPU kernel is 5× slower in bfloat16 than two matrix products (forward and backward, 64 tokens).
            return attend_plainly(queries, memory, causal=causal, bias=bias)
        mask = None if bias is None else bias.to(queries.dtype).expand(queries.shape[-2], -1)
        return F.scaled_dot_product_attention(queries, memory.keys, memory.values, attn_mask=mask, is_causal=causal)


def attend_plainly(queries: Tensor, memory: Memory, *, causal: bool, bias: Tensor | None) -> Tensor:
    """:meth:`Attention.attend` as matrix products and a softmax in float32."""
    scores = (queries * queries.shape[-1] ** -0.5) @ memory.keys.transpose(-1, -2)
    if causal:
        places = torch.arange(scores.shape[-1], device=scores.device)
        scores = scores.masked_fill(places > places[:, None], -torch.inf)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1, dtype=torch.float32).to(queries.dtype) @ memory.values


class FeedForward(nn.Module):
    """Dense, ReLU, dense."""

    def __init__(self, hidden_size: int, mlp_ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, hidden_size * mlp_ratio)
        self.down = nn.Linear(hidden_size * mlp_ratio, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        flat = x.reshape(-1, x.shape[-1])  # ONNX Runtime fuses bias and ReLU into products of matrices alone
        return self.down(F.relu(self.up(flat))).reshape(x.shape)


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

    def forward(self, x: Tensor, context: Memory, join: Join | None = None, bias: Tensor | None = None) -> Tensor:
        """Whole sequences at once, or one position of each with what was kept of earlier ones.

        Args:
            x: (B·K, T, H); a single row where all rows are equal so far.
            context: of batch B.
            join: puts the keys and values of x together with earlier ones; if None, x are whole sequences, causal.
            bias: (T or 1, keys), added to the scores of what ``join`` gives.

        Returns:
            (B·K, T, H).
        """
        normed = self.self_attention_norm(x)
        own = self.self_attention.memory(normed)
        if join is None:
            x = x + self.self_attention(normed, own, causal=True)
        else:
            x = x + self.self_attention(normed, join(own), bias=bias)
        if x.shape[0] == 1:
            x = x.expand(context.keys.shape[0], -1, -1)
        x = x + self.cross_attention(self.cross_attention_norm(x), context)
        return x + self.feed_forward(self.feed_forward_norm(x))
