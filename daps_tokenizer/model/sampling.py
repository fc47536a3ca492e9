"""Drawing codes from the recognition model, one position after the other.

Greedy and sampled encoding are one rule: temperature 0 takes the most probable code, any other inverts the cumulative
distribution at a uniform number that the caller supplies. The same uniforms give the same codes on every runtime.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.transformer import Memory


class Sampled(NamedTuple):
    """Codes (B·K, N) int64 and log q(z_t | z_<t, x) of each at temperature 1, (B·K, N) float32."""

    codes: Tensor
    log_probs: Tensor


def choose_codes(logits: Tensor, uniform: Tensor, temperature: Tensor | float) -> Tensor:
    """One code per row by inverse-CDF sampling, or the most probable code where the temperature is 0.

    Args:
        logits: (B, V) float32.
        uniform: (B,) in [0, 1).
        temperature: one number, at least 0.

    Returns:
        (B,) int64.
    """
    temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
    # The floor only keeps the unused branch finite when the temperature is 0.
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-6), dim=-1)
    cumulative = probabilities.cumsum(-1)
    # Scaling by the last entry instead of 1 means rounding in the sum can never push a draw past the last code.
    below = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    drawn = below.clamp_max(logits.shape[-1] - 1)
    return torch.where(temperature > 0, drawn, logits.argmax(-1))


def empty_past(model: RecognitionModel, batch: int, like: Tensor) -> list[Memory]:
    """A cache that holds no position yet, one memory (batch, heads, 0, head_size) per decoder block."""
    heads = model.decoder_blocks[0].self_attention.num_heads  # type: ignore[union-attr]
    nothing = like.new_zeros(batch, heads, 0, model.positions.shape[1] // heads)
    return [Memory(nothing, nothing) for _ in model.decoder_blocks]


@torch.no_grad()
def sample_codes(model: RecognitionModel, context: list[Memory], uniform: Tensor, temperature: float = 1.0) -> Sampled:
    """Draw every position in turn.

    Args:
        model: the recognition model.
        context: from ``model.context``, batch B.
        uniform: (B·K, N) in [0, 1); K samples of an item are next to each other.
        temperature: 0 for greedy codes, 1 for samples of q.
    """
    batch = uniform.shape[0]
    previous = torch.zeros(batch, dtype=torch.long, device=uniform.device)
    past = empty_past(model, batch, context[0].keys)
    codes, log_probs = [], []
    for t in range(model.num_tokens):
        position = torch.tensor(t, device=uniform.device)
        logits, present = model.step(context, previous, position, past)
        past = [
            Memory(torch.cat([old.keys, new.keys], 2), torch.cat([old.values, new.values], 2))
            for old, new in zip(past, present, strict=True)
        ]
        logits = logits.float()
        previous = choose_codes(logits, uniform[:, t], temperature)
        codes.append(previous)
        log_probs.append(logits.log_softmax(-1).gather(-1, previous[:, None])[:, 0])
    return Sampled(torch.stack(codes, 1), torch.stack(log_probs, 1))
