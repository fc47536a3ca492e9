"""Drawing codes from the recognition model: passes over all positions until nothing changes, or one after the other.

A pass chooses every code anew, given all codes of the pass before. The first code depends on no other, so it is right
after one pass, the second after two, and so on: once a pass leaves a row as it is, its codes are those of the
sequential loop, by induction, greedy or sampled (Jacobi iteration; Song et al., "Accelerating Feedforward Computation
via Parallel Nonlinear Equation Solving", ICML 2021). Trained tokenizers settle in two to five passes, because most
codes are clear from the input. Rows that have not settled after :data:`MAX_PASSES` are drawn by the loop, which bounds
the worst case.

Greedy and sampled encoding are one rule: temperature 0 takes the most probable code, any other inverts the cumulative
distribution at a uniform number that the caller supplies. The same uniforms give the same codes on every runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.parallel import FactorisedModel, ParallelEncoder
from daps_tokenizer.model.recognition import Recognition, RecognitionModel
from daps_tokenizer.model.transformer import Join, Memory

MAX_PASSES = 8

# Logits (R, V), uniform numbers (R,) and a temperature -> one code per row, (R,) int64.
Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


class SampledCodes(NamedTuple):
    """Codes int64 and log q(z_t | z_<t, x) of each at temperature 1, float32, both in the shape of the uniforms."""

    codes: Tensor
    log_probs: Tensor


class Settled(NamedTuple):
    """Like :class:`SampledCodes`, and the passes of each row, (rows,) int64: ``MAX_PASSES`` + 1 if the loop drew it."""

    codes: Tensor
    log_probs: Tensor
    passes: Tensor


def sharpen(logits: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities of logits (..., V) over a temperature; at 0 they are of the most probable code, or of near-ties."""
    return torch.softmax(logits / temperature.clamp_min(1e-6), dim=-1)


def draw_by_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first code whose cumulative probability passes the uniform number: (..., V) and (...) -> int64 (...)."""
    cumulative = probabilities.cumsum(-1)
    # Scaling by the last entry instead of 1 means rounding in the sum can never push a draw past the last code.
    below = cumulative <= uniform[..., None] * cumulative[..., -1:]
    # Counted in float32, exact up to 2^24: integers are summed up to 27 times slower by ONNX Runtime.
    return below.float().sum(-1).long().clamp_max(probabilities.shape[-1] - 1)


def invert_cdf(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """A draw at the temperature; shapes as in :func:`choose_codes`."""
    return draw_by_cdf(sharpen(logits, temperature), uniform)


def most_probable(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """Greedy codes, with the arguments of :func:`choose_codes`."""
    return logits.argmax(-1)


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


def choose_with_log_q(
    logits: Tensor, uniform: Tensor, temperature: Tensor, choose: Choose = choose_codes
) -> SampledCodes:
    """Choose codes by logits (..., V) and uniform numbers (...)."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    codes = choose(flat, uniform.reshape(-1), temperature)
    log_probs = flat.log_softmax(-1).gather(-1, codes[:, None])
    return SampledCodes(codes.reshape(uniform.shape), log_probs.reshape(uniform.shape))


def draw_pass(
    model: RecognitionModel,
    context: list[Memory],
    codes: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    choose: Choose = choose_codes,
) -> SampledCodes:
    """Every code anew, given all codes of the pass before.

    Args:
        model: the recognition model.
        context: from ``model.context``.
        codes: (rows, n), windows side by side; (1, n) where all rows have the same codes.
        uniform: (rows, n) in [0, 1).
        temperature: ().
        choose: the rule.
    """
    return choose_with_log_q(model.logits_of_rows(context, codes), uniform, temperature, choose)


def draw_position(
    model: RecognitionModel,
    context: list[Memory],
    previous: Tensor,
    position: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    joins: Sequence[Join],
    bias: Tensor | None = None,
    choose: Choose = choose_codes,
) -> SampledCodes:
    """The codes of one position (rows,), given the ``previous`` ones; arguments as of ``RecognitionModel.step``."""
    logits = model.step(context, model.code_embedding(previous), position, joins, bias)
    return choose_with_log_q(logits, uniform, temperature, choose)


@torch.no_grad()
def sample_codes(
    model: Recognition,
    context: Any,
    uniform: Tensor,
    temperature: Tensor | float = 1.0,
    *,
    max_passes: int = MAX_PASSES,
) -> SampledCodes:
    """Draw all codes: until they settle, or at once where they do not depend on each other.

    Args:
        model: the recognition model.
        context: from ``model.context``, batch B.
        uniform: (B·K, N) in [0, 1); K samples of an item are next to each other.
        temperature: 0 for greedy codes, 1 for samples of q. A quantiser has one code for each position, whatever the
            temperature, with probability 1.
        max_passes: the loop draws rows that have not settled then; all rows if 0.

    Raises:
        UnsupportedError: the encoder of a Gaussian VAE, which makes no codes.
    """
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=uniform.device)
    if isinstance(model, ParallelEncoder):
        return _sample_at_once(model, context, uniform, temperature)
    assert isinstance(model, RecognitionModel)
    num_items = context[0].keys.shape[0] // model.windows.per_item
    settled = settle(model, context, model.windows.split(uniform, num_items), temperature, max_passes=max_passes)
    return SampledCodes(*(model.windows.join(values, num_items) for values in settled[:2]))


@torch.no_grad()
def settle(
    model: RecognitionModel,
    context: list[Memory],
    uniform: Tensor,
    temperature: Tensor,
    *,
    max_passes: int = MAX_PASSES,
    choose: Choose = choose_codes,
) -> Settled:
    """Draw windows side by side, with uniform numbers (B·W·K, n); rows that have settled drop out of the passes."""
    samples = len(uniform) // context[0].keys.shape[0]
    codes, log_probs = torch.zeros_like(uniform, dtype=torch.long), torch.zeros_like(uniform, dtype=torch.float32)
    passes = torch.full_like(codes[:, 0], max_passes + 1)
    if max_passes:  # before the first pass no code is known, so the K samples of an item have the same logits
        logits = model.logits_of_rows(context, codes[:1]).repeat_interleave(samples, 0)
        codes, _ = choose_with_log_q(logits, uniform, temperature, choose)
    rows, part = torch.arange(len(uniform), device=uniform.device), context
    for number in range(2, max_passes + 1):
        chosen, log_q = draw_pass(model, part, codes[rows], uniform[rows], temperature, choose)
        changed = (chosen != codes[rows]).any(1)
        codes[rows], log_probs[rows], passes[rows] = chosen, log_q, number
        rows = rows[changed]
        if len(rows) == 0:
            return Settled(codes, log_probs, passes)
        part = _context_of(context, rows // samples)
    part = _context_of(context, rows // samples)
    codes[rows], log_probs[rows] = draw_in_turn(model, part, uniform[rows], temperature, choose)
    passes[rows] = max_passes + 1
    return Settled(codes, log_probs, passes)


@torch.no_grad()
def repeat_passes(draw: Callable[[Tensor], SampledCodes], codes: Tensor, passes: int) -> Settled:
    """A number of passes over all rows, whether or not they have settled: a form of :func:`settle` for CUDA graphs.

    Shapes are fixed and nothing is read on the host. Rows that have not settled have the codes of the last pass, which
    are not those of the loop, and ``passes`` + 1 as their number of passes.

    Args:
        draw: one pass over codes (rows, n), as :func:`draw_pass`.
        codes: what to begin with.
        passes: at least 1.
    """
    taken = torch.full_like(codes[:, 0], passes + 1)
    for number in range(1, passes + 1):
        chosen, log_probs = draw(codes)
        settled = (chosen == codes).all(1) & (taken > passes)
        taken = taken.masked_fill(settled, number)  # not torch.where, which copies a number to the device
        codes = chosen
    return Settled(codes, log_probs, taken)


def draw_in_turn(
    model: RecognitionModel,
    context: list[Memory],
    uniform: Tensor,
    temperature: Tensor,
    choose: Choose = choose_codes,
) -> SampledCodes:
    """Draw one position after the other, windows side by side: uniform numbers (rows, n)."""

    def keep(cache: Memory, own: Memory, end: int) -> Memory:
        cache.keys[:, :, end - 1 : end] = own.keys
        cache.values[:, :, end - 1 : end] = own.values
        return Memory(cache.keys[:, :, :end], cache.values[:, :, :end])

    drawn, caches = [], _empty_caches(model, context, uniform)
    chosen = torch.zeros_like(uniform[:, 0], dtype=torch.long)
    for t in range(uniform.shape[1]):
        joins = [partial(keep, cache, end=t + 1) for cache in caches]
        position = torch.tensor([t], device=uniform.device)
        chosen, log_probs = draw_position(
            model, context, chosen, position, uniform[:, t], temperature, joins, choose=choose
        )
        drawn.append((chosen, log_probs))
    return SampledCodes(*(torch.stack(columns, dim=1) for columns in zip(*drawn, strict=True)))


def _empty_caches(model: RecognitionModel, context: list[Memory], uniform: Tensor) -> list[Memory]:
    """Room for keys and values of all positions of rows (rows, n), for each decoder block."""
    _, heads, _, head_size = context[0].keys.shape
    shape = (len(uniform), heads, uniform.shape[1], head_size)
    return [Memory(*(context[0].keys.new_empty(shape) for _ in range(2))) for _ in model.decoder_blocks]


def _context_of(context: list[Memory], rows: Tensor) -> list[Memory]:
    """The context of some rows, each with one of its own."""
    return [Memory(*(part.index_select(0, rows) for part in memory)) for memory in context]


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
        codes, log_probs = (torch.zeros_like(uniform, dtype=kind) for kind in (torch.long, torch.float32))
        return cls(context, uniform, _empty_caches(model, context, uniform), codes, log_probs)


def _sample_at_once(model: ParallelEncoder, context: Tensor, uniform: Tensor, temperature: Tensor) -> SampledCodes:
    if not isinstance(model, FactorisedModel):
        codes = model.quantise(context).repeat_interleave(uniform.shape[0] // context.shape[0], dim=0)
        return SampledCodes(codes, torch.zeros_like(uniform, dtype=torch.float32))
    return choose_with_log_q(model.logits(context, uniform), uniform, temperature)
