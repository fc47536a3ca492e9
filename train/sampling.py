"""Samples to learn from: codes that have settled, and the logits that a policy gradient needs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import SampledCodes, draw_pass, repeat_passes, settle
from daps_tokenizer.model.transformer import Memory


class Drawn(NamedTuple):
    """Samples of q: ``codes`` (B·K, N) int64, and ``logits`` (B·K, N, V) float32 teacher-forced on them.

    ``passes`` () is how many passes a window took on average; 1 where all codes are drawn at once.
    """

    codes: Tensor
    logits: Tensor
    passes: Tensor


def draw_in_passes(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, *, fixed_passes: int | None = None
) -> Drawn:
    """The codes that the loop over positions would draw with these uniforms, but for rounding.

    Passes without gradient draw the codes, and one more, with gradient, has their logits.

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
        settled = settle(recognition, context, rows, temperature)
    else:
        with torch.no_grad():
            draw = partial(_one_pass, recognition, context, rows, temperature)
            settled = repeat_passes(draw, torch.zeros_like(rows, dtype=torch.long), fixed_passes)
    codes = windows.join(settled.codes, num_items)
    # It takes a second pass to see that the first one was right.
    passes = settled.passes.clamp_min(2).float().mean()
    return Drawn(codes, recognition.logits(context, codes).float(), passes)


def _one_pass(
    recognition: RecognitionModel, context: list[Memory], uniform: Tensor, temperature: Tensor, codes: Tensor
) -> SampledCodes:
    return draw_pass(recognition, context, codes, uniform, temperature)
