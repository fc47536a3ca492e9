"""Drawing codes from the recognition model, one position after the other.

Greedy and sampled encoding are one rule: temperature 0 takes the most probable code, any other inverts the cumulative
distribution at a uniform number that the caller supplies. The same uniforms give the same codes on every runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.parallel import FactorisedModel, ParallelEncoder
from daps_tokenizer.model.recognition import Recognition, RecognitionModel
from daps_tokenizer.model.transformer import Memory


class Sampled(NamedTuple):
    """Codes (B·K, N) int64 and log q(z_t | z_<t, x) of each at temperature 1, (B·K, N) float32."""

    codes: Tensor
    log_probs: Tensor


def invert_cdf(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """The first code whose cumulative probability passes the uniform number; shapes as in :func:`choose_codes`."""
    # The floor only keeps a branch that is not used finite when the temperature is 0.
    probabilities = torch.softmax(logits / temperature.clamp_min(1e-6), dim=-1)
    cumulative = probabilities.cumsum(-1)
    # Scaling by the last entry instead of 1 means rounding in the sum can never push a draw past the last code.
    below = cumulative <= uniform[..., None] * cumulative[..., -1:]
    # Counted in float32, exact up to 2^24: integers are summed up to 27 times slower by ONNX Runtime.
    return below.float().sum(-1).long().clamp_max(logits.shape[-1] - 1)


def choose_codes(logits: Tensor, uniform: Tensor, temperature: Tensor | float) -> Tensor:
    """One code per row by inverse-CDF sampling, or the most probable code where the temperature is 0.

    Args:
        logits: (..., V) float32.
        uniform: (...) in [0, 1).
        temperature: one number, at least 0.

    Returns:
        (...) int64.
    """
    temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
    return torch.where(temperature > 0, invert_cdf(logits, uniform, temperature), logits.argmax(-1))


@dataclass(frozen=True)
class Draw:
    """Everything that drawing codes reads and writes, allocated once: what a CUDA graph needs to stay in place.

    A row is a window of n codes: a whole item where items are not cut. ``uniform``, ``codes`` and ``log_probs`` are
    (rows, n); ``cache`` holds a memory (rows, heads, n, head_size) for each decoder block.
    """

    context: list[Memory]
    uniform: Tensor
    cache: list[Memory]
    codes: Tensor
    log_probs: Tensor

    @classmethod
    def allocate(cls, model: RecognitionModel, context: list[Memory], uniform: Tensor) -> Draw:
        """Room for drawing with this context and these uniforms (B·K, N)."""
        uniform = model.windows.split(uniform, context[0].keys.shape[0] // model.windows.per_item).contiguous()
        rows, num_codes = uniform.shape
        _, heads, _, head_size = context[0].keys.shape
        cache = [
            Memory(*(context[0].keys.new_empty(rows, heads, num_codes, head_size) for _ in range(2)))
            for _ in model.decoder_blocks
        ]
        codes = torch.zeros(rows, num_codes, dtype=torch.long, device=uniform.device)
        return cls(context, uniform, cache, codes, torch.zeros_like(uniform, dtype=torch.float32))


def draw_positions(model: RecognitionModel, draw: Draw, positions: range, temperature: Tensor | float) -> None:
    """Draw the codes of some positions; those of all earlier positions have been drawn."""
    for t in positions:
        previous = draw.codes[:, t - 1] if t else torch.zeros_like(draw.codes[:, 0])
        logits = model.step(draw.context, previous, t, draw.cache).float()
        chosen = choose_codes(logits, draw.uniform[:, t], temperature)
        draw.codes[:, t] = chosen
        draw.log_probs[:, t] = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]


@torch.no_grad()
def sample_codes(model: Recognition, context: Any, uniform: Tensor, temperature: Tensor | float = 1.0) -> Sampled:
    """Draw every position in turn, or all at once where they do not depend on each other.

    Args:
        model: the recognition model.
        context: from ``model.context``, batch B.
        uniform: (B·K, N) in [0, 1); K samples of an item are next to each other.
        temperature: 0 for greedy codes, 1 for samples of q. A quantiser has one code for each position, whatever the
            temperature, with probability 1.

    Raises:
        UnsupportedError: the encoder of a Gaussian VAE, which makes no codes.
    """
    if isinstance(model, ParallelEncoder):
        return _sample_at_once(model, context, uniform, temperature)
    assert isinstance(model, RecognitionModel)
    draw = Draw.allocate(model, context, uniform)
    draw_positions(model, draw, range(model.windows.num_codes), temperature)
    num_items = context[0].keys.shape[0] // model.windows.per_item
    return Sampled(model.windows.join(draw.codes, num_items), model.windows.join(draw.log_probs, num_items))


def _sample_at_once(model: ParallelEncoder, context: Tensor, uniform: Tensor, temperature: Tensor | float) -> Sampled:
    if not isinstance(model, FactorisedModel):
        codes = model.quantise(context).repeat_interleave(uniform.shape[0] // context.shape[0], dim=0)
        return Sampled(codes, torch.zeros_like(uniform, dtype=torch.float32))
    logits = model.logits(context, uniform).float()
    codes = choose_codes(logits.flatten(0, 1), uniform.flatten(), temperature).unflatten(0, uniform.shape)
    return Sampled(codes, logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0])
