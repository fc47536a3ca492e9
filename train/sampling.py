"""Samples to learn from: codes that have settled, and the logits that a policy gradient needs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import SampledCodes, draw_pass, repeat_passes, settle
from daps_tokenizer.model.transformer import Memory

MOST_PASSES = 16  # then the loop draws the rest; one more pass over a few rows costs less than that
_START = 150  # starting a pass or a step takes a CPU as long as this many positions


class Drawn(NamedTuple):
    """Samples of q: ``codes`` (B·K, N) int64, and ``logits`` (B·K, N, V) float32 teacher-forced on them.

    ``passes`` () is how many passes a window took on average, the loop counted as one for each position; 1 where all
    codes are drawn at once.
    """

    codes: Tensor
    logits: Tensor
    passes: Tensor


def draw_in_passes(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, *, fixed_passes: int | None = None
) -> Drawn:
    """The codes that the loop over positions would draw with these uniforms, but for rounding.

    Passes without gradient draw the codes, or the loop itself where it is quicker; one more pass, with gradient, has
    their logits.

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
        most = 0 if _loop_is_quicker(rows) else MOST_PASSES
        settled = settle(recognition, context, rows, temperature, max_passes=most, choose=sample_by_bisection)
        passes = settled.passes.masked_fill(settled.passes > most, rows.shape[1])
    else:
        with torch.no_grad():
            draw = partial(_one_pass, recognition, context, rows, temperature)
            settled = repeat_passes(draw, torch.zeros_like(rows, dtype=torch.long), fixed_passes)
        passes = settled.passes
    codes = windows.join(settled.codes, num_items)
    # It takes a second pass to see that the first one was right.
    return Drawn(codes, recognition.logits(context, codes).float(), passes.clamp_min(2).float().mean())


def sample_by_bisection(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """The codes of ``invert_cdf`` at temperature 1, which is not read, for eager torch: half of its time on a CPU.

    Takes logits (R, V) and uniform numbers (R,); returns (R,) int64.
    """
    cumulative = torch.softmax(logits, dim=-1).cumsum(-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)


def _loop_is_quicker(uniform: Tensor) -> bool:
    """Whether the loop over positions takes less time than two passes, the fewest there are, for rows (rows, n).

    A pass computes all positions of all rows, the loop each once; but the loop starts a step for each position, which
    a GPU takes as long for as for a pass.
    """
    rows, positions = uniform.shape
    return uniform.device.type == "cpu" and positions * (rows + _START) < 2 * (rows * positions + _START)


def _one_pass(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, temperature: Tensor, codes: Tensor
) -> SampledCodes:
    return draw_pass(recognition, context, codes, uniform, temperature)
