"""Samples to learn from in parallel passes: the loop's codes, and with them the logits that a policy gradient needs.

A pass over all positions chooses every code anew, given the codes of the pass before; codes that a pass leaves as they
are are those of the sequential loop (:mod:`daps_tokenizer.model.passes` says why). Training has to make one such pass
over its samples anyway, for their log q with gradient. So where codes hardly hang on each other, as in a model that
starts from a VQ-VAE, drawing them costs little more than nothing:

1. The first guess knows no codes, so it is the same distribution for all K samples of an item: one row each.
2. The pass with gradient chooses every code anew. Rows that it leaves as they are are drawn, and have their logits.
3. What is left, a few rows, takes passes of its own, and its logits replace those of the guess.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import choose_codes
from daps_tokenizer.model.transformer import Memory

# The share of rows that a second pass must leave as they are; below it the loop over positions is as fast.
SETTLED_SHARE = 0.5


class Drawn(NamedTuple):
    """Samples of q: ``codes`` (B·K, N) int64, and ``logits`` (B·K, N, V) float32 teacher-forced on them."""

    codes: Tensor
    logits: Tensor


def draw_in_passes(recognition: RecognitionModel, context: list[Memory], uniform: Tensor) -> Drawn | None:
    """The codes that the loop over positions would draw with these uniforms, but for rounding.

    Args:
        recognition: draws at temperature 1; the logits carry its gradient, where gradients are enabled.
        context: of B items, from ``recognition.context``.
        uniform: (B·K, N) in [0, 1), the K samples of an item next to each other.

    Returns:
        None where codes hang on each other so much that passes do not pay, as in a model with random weights.
    """
    windows = recognition.windows
    num_items = context[0].keys.shape[0] // windows.per_item
    num_samples = len(uniform) // num_items
    guess = _first_guess(recognition, context, uniform, num_items)
    if _share_that_stays(recognition, context, guess[::num_samples], uniform[::num_samples]) < SETTLED_SHARE:
        return None
    logits = recognition.logits(context, guess).float()
    with torch.no_grad():
        chosen = choose_codes(logits, uniform, 1.0)
    codes, by_row = windows.split(guess, num_items), windows.split(uniform, num_items)
    rows = (codes != windows.split(chosen, num_items)).any(1).nonzero()[:, 0]
    if len(rows) == 0:
        return Drawn(guess, logits)
    part = _context_of(context, rows // num_samples)
    settled = _settle(recognition, part, windows.split(chosen, num_items)[rows], by_row[rows])
    codes = codes.index_copy(0, rows, settled)
    late = recognition.logits_of_rows(part, settled).float()
    logits = windows.join(windows.split(logits, num_items).index_copy(0, rows, late), num_items)
    return Drawn(windows.join(codes, num_items), logits)


@torch.no_grad()
def _first_guess(recognition: RecognitionModel, context: list[Memory], uniform: Tensor, num_items: int) -> Tensor:
    """What a pass over no codes chooses: (B·K, N)."""
    nothing = torch.zeros_like(uniform[:num_items], dtype=torch.long)
    logits = recognition.logits(context, nothing).float()
    return choose_codes(logits.repeat_interleave(len(uniform) // num_items, 0), uniform, 1.0)


@torch.no_grad()
def _share_that_stays(recognition: RecognitionModel, context: list[Memory], codes: Tensor, uniform: Tensor) -> float:
    """The share of rows (B, N), one sample of each item, that another pass leaves as they are; windows count apart."""
    same = choose_codes(recognition.logits(context, codes).float(), uniform, 1.0) == codes
    return float(recognition.windows.split(same, len(codes)).all(1).float().mean())


@torch.no_grad()
def _settle(recognition: RecognitionModel, context: list[Memory], codes: Tensor, uniform: Tensor) -> Tensor:
    """Pass after pass over rows (R, n), each with a context of its own, until none changes."""
    codes = codes.clone()
    rows = torch.arange(len(codes), device=codes.device)
    for _ in range(codes.shape[1]):  # each pass draws one more position right at least
        logits = recognition.logits_of_rows(_context_of(context, rows), codes[rows]).float()
        chosen = choose_codes(logits, uniform[rows], 1.0)
        changed = (chosen != codes[rows]).any(1)
        rows, chosen = rows[changed], chosen[changed]
        if len(rows) == 0:
            break
        codes[rows] = chosen
    return codes


def _context_of(context: list[Memory], rows: Tensor) -> list[Memory]:
    """The context of some rows, each with one of its own."""
    return [Memory(*(part.index_select(0, rows) for part in memory)) for memory in context]
