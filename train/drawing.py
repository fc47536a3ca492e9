"""Samples to learn from: codes that have settled, and the logits that a policy gradient needs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import settle
from daps_tokenizer.model.transformer import Memory


class Drawn(NamedTuple):
    """Samples of q: ``codes`` (B·K, N) int64, and ``logits`` (B·K, N, V) float32 teacher-forced on them.

    ``passes`` () is how many passes a window took on average; 1 where all codes are drawn at once.
    """

    codes: Tensor
    logits: Tensor
    passes: Tensor


def draw_in_passes(recognition: RecognitionModel, context: list[Memory], uniform: Tensor) -> Drawn:
    """The codes that the loop over positions would draw with these uniforms, but for rounding.

    Passes without gradient draw the codes, and one more, with gradient, has their logits.

    Args:
        recognition: draws at temperature 1; the logits carry its gradient, where gradients are enabled.
        context: of B items, from ``recognition.context``.
        uniform: (B·K, N) in [0, 1), the K samples of an item next to each other.
    """
    windows = recognition.windows
    num_items = context[0].keys.shape[0] // windows.per_item
    settled = settle(recognition, context, windows.split(uniform, num_items), torch.ones((), device=uniform.device))
    codes = windows.join(settled.codes, num_items)
    return Drawn(codes, recognition.logits(context, codes).float(), settled.passes.float().mean())
