"""One sweep of local search on the device: codes are changed group by group, and a change that pays is kept.

The same as :class:`daps_tokenizer.LocalSearch` does with any runtime, for callers that have the torch modules and
must not wait for the host between decodes: training, and the torch backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.neighbourhoods import Group, Objective

Evaluate = Callable[[Tensor], Tensor]


class Swept(NamedTuple):
    """Codes (B, N) int64, and their values and those of the codes that the sweep began with, (B, C) float64.

    The sum of an item's values over C is its objective; ``values`` never sum to less than ``values_before``.
    """

    codes: Tensor
    values: Tensor
    values_before: Tensor


class DeviceGroup(NamedTuple):
    """A :class:`Group` on a device: positions (P,) int64 and windows (C, P) float64."""

    positions: Tensor
    windows: Tensor


def on_device(groups: Sequence[Group], device: torch.device) -> list[DeviceGroup]:
    return [DeviceGroup(*(torch.tensor(array, device=device) for array in group)) for group in groups]


def objective_of(model: Autoencoder, x: Tensor, objective: Objective) -> Evaluate:
    """What a sweep maximises: values per code (B, N) float64 of codes (B, N), for standardised x (B, *input_shape)."""

    def evaluate(codes: Tensor) -> Tensor:
        if objective == "log_likelihood":
            return model.cell_log_likelihood(x, codes).double()
        return -model.cell_values(x, codes).squared_error.double()

    return evaluate


def most_probable_others(logits: Tensor, codes: Tensor, count: int) -> Tensor:
    """The ``count`` ≤ V − 1 most probable codes at each position other than the one that is there.

    Takes logits (B, N, V) and codes (B, N); returns (B, N, count) int64, the most probable first.
    """
    return logits.scatter(-1, codes[..., None], -torch.inf).topk(count).indices


@torch.no_grad()
def whole_sweep(
    model: Autoencoder, x: Tensor, codes: Tensor, groups: Sequence[DeviceGroup], *, objective: Objective, proposals: int
) -> Swept:
    """Every position once, with q's most probable other codes: what one sweep of ``LocalSearch`` does.

    Args:
        model: in evaluation mode; its recognition model has probabilities.
        x: standardised, (B, *input_shape).
        codes: (B, N) int64 to begin with.
        groups: those of :func:`~daps_tokenizer.neighbourhoods.groups_of_codes`, on the device.
        objective: what may not become less.
        proposals: codes that are tried at a position, at most V − 1.
    """
    logits = model.recognition.logits(model.recognition.context(x), codes)
    tried = most_probable_others(logits.float(), codes, proposals)
    return sweep(objective_of(model, x, objective), codes, tried, groups)


@torch.no_grad()
def sweep(evaluate: Evaluate, codes: Tensor, proposals: Tensor, groups: Sequence[DeviceGroup]) -> Swept:
    """Try every proposal at every position of the groups once.

    A position's change is kept where the sum of the values in its window rises. As the windows of a group do not
    overlap, the values of what is kept need no decode of their own; one decode at the end gives the exact ones, and an
    item that became worse goes back. That is ``len(groups)`` · M + 2 evaluations.

    Args:
        evaluate: the objective, values (B, C) of codes (B, N).
        codes: (B, N) int64 to begin with.
        proposals: (B, N, M) int64.
        groups: positions that are changed together, with C rows in their windows.
    """
    before = values = evaluate(codes)
    tried = codes.clone()
    for positions, windows in groups:
        for proposed in proposals.unbind(-1):
            candidate = tried.clone()
            candidate[:, positions] = proposed[:, positions]
            candidate_values = evaluate(candidate)
            better = (candidate_values - values) @ windows > 0
            tried[:, positions] = torch.where(better, candidate[:, positions], tried[:, positions])
            values = torch.where(better.double() @ windows.T > 0, candidate_values, values)
    after = evaluate(tried)
    rises = (after.sum(1) > before.sum(1))[:, None]
    return Swept(torch.where(rises, tried, codes), torch.where(rises, after, before), before)
