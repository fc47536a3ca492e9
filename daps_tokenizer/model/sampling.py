"""Drawing codes from the recognition model: spans of positions, one after the other, each in passes until it settles.

A pass chooses every code of a span anew, given the codes before the span and those of the pass before. The first code
of a span depends on no other in it, so it is right after one pass, the second after two, and so on: once a pass leaves
a row as it is, its codes are those of the sequential loop, by induction, greedy or sampled (Jacobi iteration; Song et
al., "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving", ICML 2021, whose section 3 has the
blocks too). There are never more passes than the span has positions. A span of one position is the sequential loop.

A long span takes few calls, a short one computes less: codes that depend on each other settle after more passes where
they are many. A CPU begins with :func:`first_span`, and goes on with the loop if that would have been quicker.

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

# A CPU's time, in halves of what a position of a row costs a pass over many: of a call, and of a position in the loop,
# which has fewer side by side. Then the first span: positions of all rows together, and the fewest of each row.
# Measured in docs/notes/speed.md.
CALL_COST, PASS_COST, LOOP_COST = 80, 2, 5
FIRST_POSITIONS, FEWEST_POSITIONS = 64, 4

# Logits (R, V), uniform numbers (R,) and a temperature -> one code per row, (R,) int64.
Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


class SampledCodes(NamedTuple):
    """Codes int64 and log q(z_t | z_<t, x) of each at temperature 1, float32, both in the shape of the uniforms."""

    codes: Tensor
    log_probs: Tensor


class Settled(NamedTuple):
    """Like :class:`SampledCodes`, and the ``passes`` of each row, (rows,) float32.

    A pass over a span is the span's share of the positions: ``passes`` times n positions were computed for n codes.
    """

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
        codes: (rows, n), windows side by side.
        uniform: (rows, n) in [0, 1).
        temperature: ().
        choose: the rule.
    """
    return choose_with_log_q(model.logits_of_rows(context, codes), uniform, temperature, choose)


def draw_span(
    model: RecognitionModel,
    context: list[Memory],
    before: Tensor,
    positions: Tensor,
    uniform: Tensor,
    temperature: Tensor,
    joins: Sequence[Join],
    bias: Tensor | None = None,
    choose: Choose = choose_codes,
) -> SampledCodes:
    """The codes of T neighbouring positions (rows, T), given ``before``, the code before each (rows, T).

    Other arguments are those of ``RecognitionModel.logits_of_span``.
    """
    logits = model.logits_of_span(context, model.code_embedding(before), positions, joins, bias)
    return choose_with_log_q(logits, uniform, temperature, choose)


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


def later_positions(positions: Tensor, keys: Tensor) -> Tensor:
    """What hides later positions from each: (T,) and (keys,) -> (T, keys), 0 or -inf."""
    return torch.where(keys > positions[:, None], -torch.inf, 0.0)


def first_span(rows: int, positions: int) -> int:
    """How many of the positions a CPU draws first: all of few rows, as it is calls that take time; four of many.

    Four are enough to see whether passes are worth it.
    """
    return min(positions, max(FIRST_POSITIONS // rows, FEWEST_POSITIONS))


def loop_is_quicker(rows: int, span: int, computed: int, calls: int) -> bool:
    """Whether the loop would have drawn a span of so many rows sooner than the passes did.

    Args:
        rows: R.
        span: positions of each row.
        computed: positions of all rows that the passes computed.
        calls: how many passes there were.
    """
    return span * (LOOP_COST * rows + CALL_COST) < PASS_COST * computed + calls * CALL_COST


@torch.no_grad()
def sample_codes(
    model: Recognition,
    context: Any,
    uniform: Tensor,
    temperature: Tensor | float = 1.0,
    *,
    span: int | None = None,
) -> SampledCodes:
    """Draw all codes: until they settle, or at once where they do not depend on each other.

    Args:
        model: the recognition model.
        context: from ``model.context``, batch B.
        uniform: (B·K, N) in [0, 1); K samples of an item are next to each other.
        temperature: 0 for greedy codes, 1 for samples of q. A quantiser has one code for each position, whatever the
            temperature, with probability 1.
        span: as of :func:`settle`.

    Raises:
        UnsupportedError: the encoder of a Gaussian VAE, which makes no codes.
    """
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=uniform.device)
    if isinstance(model, ParallelEncoder):
        return _sample_at_once(model, context, uniform, temperature)
    assert isinstance(model, RecognitionModel)
    num_items = context[0].keys.shape[0] // model.windows.per_item
    settled = settle(model, context, model.windows.split(uniform, num_items), temperature, span=span)
    return SampledCodes(*(model.windows.join(values, num_items) for values in settled[:2]))


@torch.no_grad()
def settle(
    model: RecognitionModel,
    context: list[Memory],
    uniform: Tensor,
    temperature: Tensor,
    *,
    span: int | None = None,
    choose: Choose = choose_codes,
) -> Settled:
    """Draw windows side by side, span by span; rows that have settled drop out of a span's passes.

    Args:
        model: the recognition model.
        context: from ``model.context``, of windows.
        uniform: (B·W·K, n) in [0, 1).
        temperature: ().
        span: positions at a time; 1 is the sequential loop. If None, what is quickest: all on a GPU, where it is calls
            that take time; on a CPU, :func:`first_span`, and then ever more or one, as :func:`loop_is_quicker` says.
        choose: the rule.
    """
    rows, positions = uniform.shape
    adapt, span = span is None, span or positions
    if adapt and uniform.device.type == "cpu":
        span = first_span(rows, positions)
    samples = rows // context[0].keys.shape[0]
    # Code 0 comes before the first position, so a position's previous code is in the position's own column.
    codes = torch.zeros(rows, positions + 1, dtype=torch.long, device=uniform.device)
    log_probs = torch.zeros_like(uniform, dtype=torch.float32)
    computed = torch.zeros_like(log_probs[:, 0])
    caches, places = _empty_caches(model, context, uniform), torch.arange(positions, device=uniform.device)
    start = 0
    while start < positions:
        here = slice(start, min(start + span, positions))
        drawn = slice(here.start + 1, here.stop + 1)
        bias = later_positions(places[here], places[: here.stop])
        active, part, calls, sum_of_rows = torch.arange(rows, device=uniform.device), context, 0, 0
        while len(active) > 0 and calls < here.stop - here.start:
            joins = [partial(_keep, cache, rows=active, here=here) for cache in caches]
            given, numbers = codes[active, here], uniform[active, here]
            chosen, log_q = draw_span(model, part, given, places[here], numbers, temperature, joins, bias, choose)
            changed = (chosen != codes[active, drawn]).any(1)
            codes[active, drawn], log_probs[active, here] = chosen, log_q
            computed[active] += chosen.shape[1]
            calls, sum_of_rows = calls + 1, sum_of_rows + len(active)
            active = active[changed]
            part = context if len(active) == rows else _context_of(context, active // samples)
        length = here.stop - here.start
        if adapt:  # nearly twice as many positions next, but a loop stays a loop
            span = 1 if loop_is_quicker(rows, length, sum_of_rows * length, calls) else 2 * span - 1
        start = here.stop
    return Settled(codes[:, 1:], log_probs, computed / positions)


def _keep(cache: Memory, own: Memory, *, rows: Tensor, here: slice) -> Memory:
    """Put keys and values of some rows' positions in their place; returns all that these rows have so far."""
    if len(rows) == len(cache.keys):  # nothing to be picked, and nothing copied
        for kept, new in zip(cache, own, strict=True):
            kept[:, :, here] = new
        return Memory(*(kept[:, :, : here.stop] for kept in cache))
    for kept, new in zip(cache, own, strict=True):
        kept[rows, :, here] = new
    return Memory(*(kept[:, :, : here.stop].index_select(0, rows) for kept in cache))


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
    taken = torch.full_like(codes[:, 0], passes + 1, dtype=torch.float32)
    for number in range(1, passes + 1):
        chosen, log_probs = draw(codes)
        settled = (chosen == codes).all(1) & (taken > passes)
        taken = taken.masked_fill(settled, number)  # not torch.where, which copies a number to the device
        codes = chosen
    return Settled(codes, log_probs, taken)


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
