"""Samples to learn from: codes that have settled, and the logits that a policy gradient needs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import SampledCodes, Settled, draw_pass, repeat_passes, settle
from daps_tokenizer.model.transformer import Memory, full_precision


class Drawn(NamedTuple):
    """Samples of q: ``codes`` (B·K, N) int64, and ``logits`` (B·K, N, V) float32 teacher-forced on them.

    ``passes`` () is how many passes over all positions a window took on average, counted as
    :class:`~daps_tokenizer.model.sampling.Settled` does; 1 where all codes are drawn at once.
    """

    codes: Tensor
    logits: Tensor
    passes: Tensor


def draw_in_passes(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, *, fixed_passes: int | None = None
) -> Drawn:
    """The codes that the loop over positions would draw with these uniforms, but for rounding.

    Passes without gradient draw the codes; one more, with gradient, has their logits. In bfloat16 training on a CPU the
    codes are drawn in float32, so they are samples of a policy that differs from the logits' by their rounding.

    Args:
        recognition: draws at temperature 1; the logits carry its gradient, where gradients are enabled.
        context: of B items, from ``recognition.context``.
        uniform: (B·K, N) in [0, 1), the K samples of an item next to each other.
        fixed_passes: this many passes over all rows, so that nothing is read on the host; rows that have not settled
            then are samples of a policy near q. None makes passes until every row has settled.
    """
    windows = recognition.windows
    num_items = context[0].keys.shape[0] // windows.per_item
    rows, temperature = windows.split(uniform, num_items), torch.ones((), device=uniform.device)
    if fixed_passes is None:
        settled = _settle(recognition, context, rows, temperature)
    else:
        with torch.no_grad():
            draw = partial(_one_pass, recognition, context, rows, temperature)
            settled = repeat_passes(draw, torch.zeros_like(rows, dtype=torch.long), fixed_passes)
    codes = windows.join(settled.codes, num_items)
    return Drawn(codes, recognition.logits(context, codes).float(), settled.passes.mean())


def sample_by_bisection(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """The codes of ``invert_cdf`` at temperature 1, which is not read, for eager torch: half of its time on a CPU.

    Takes logits (R, V) and uniform numbers (R,); returns (R,) int64.
    """
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)


def _settle(recognition: RecognitionModel, context: list[Memory], uniform: Tensor, temperature: Tensor) -> Settled:
    if uniform.device.type != "cpu":
        return settle(recognition, context, uniform, temperature, choose=sample_by_bisection)
    # Products of a few rows are no quicker in bfloat16 on a CPU, and what is cast for them takes time.
    with full_precision(uniform):
        context = [Memory(memory.keys.float(), memory.values.float()) for memory in context]
        return settle(recognition, context, uniform, temperature, choose=sample_by_bisection)


def _one_pass(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, temperature: Tensor, codes: Tensor
) -> SampledCodes:
    return draw_pass(recognition, context, codes, uniform, temperature)
