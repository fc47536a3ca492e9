"""The multiplier η of the trust region, learned or solved (paper, Eq. 5 and 8).

The paper learns η by gradient descent on (ESS − target)² (from 100 with learning rate 1e-3 in the authors' code): the
target holds only after thousands of steps. But the effective sample size rises with η, and the KL divergence to the
improved policy falls with it, so a search of one number finds η in every step. The target is met where some η meets it:
a large β alone makes the weights nearly even, and then η is the least of its range. As in Corollary 1, the ESS of
an item bounds how far its K weights w are from uniform: KL(w ‖ 1/K) ≤ −log(ESS/K). The target is that of the batch's
mean ESS, as in Eq. 8, so single items may be further away than −log(target).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.processes import mean_of_all

_ROUNDS, _POINTS = 6, 7  # log η to 25/8⁶, 1e-4
_LOG_ETA_RANGE = (-7.0, 18.0)

Measure = Callable[[Tensor], Tensor]


@torch.no_grad()
def solve_eta(measure: Measure, is_too_far: Measure, like: Tensor) -> Tensor:
    """The least η that does not move the policy too far, between e^−7 and e^18.

    A bisection of log η, but for seven values at once: a GPU launches fewer kernels, and processes wait for each other
    less often, than for one at a time.

    Args:
        measure: the effective sample size or the divergence at an η (), () of this process's items; monotone in η, and
            a function that ``torch.vmap`` takes.
        is_too_far: whether such measures (G,), averaged over all processes, are too far, as booleans (G,); true below
            some η, false above.
        like: a tensor whose device and dtype η takes; nothing is read on the host.

    Returns:
        η, (); one end of the range where the answer is the same in all of it.
    """
    low, high = (like.new_full((1,), bound) for bound in _LOG_ETA_RANGE)
    shares = torch.arange(1, _POINTS + 1, device=like.device, dtype=like.dtype) / (_POINTS + 1)
    for _ in range(_ROUNDS):
        between = low + (high - low) * shares
        too_far = is_too_far(mean_of_all(torch.vmap(measure)(between.exp())))
        bounds, last = torch.cat([low, between, high]), too_far.sum(0, keepdim=True)
        low, high = bounds.index_select(0, last), bounds.index_select(0, last + 1)
    return high[0].exp()


class TrustRegion(nn.Module):
    """η: a parameter that descends to its target, as in the paper, or what :func:`solve_eta` finds in every step."""

    def __init__(self, eta_initial: float, *, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        # A solved η gets no gradient, and several processes would wait for one.
        self.log_eta = nn.Parameter(torch.tensor(math.log(eta_initial)), requires_grad=learned)

    def eta(self, measure: Measure, is_too_far: Measure, like: Tensor) -> Tensor:
        """η, (), with the gradient of a learned one; the arguments are those of :func:`solve_eta`."""
        return self.log_eta.exp() if self.learned else solve_eta(measure, is_too_far, like)

    def loss(self, measured: Tensor, target: float) -> Tensor:
        """L(η), (): the squared distance to the target of a learned η (paper, Eq. 8); 0 for a solved one."""
        return (measured - target).square() if self.learned else torch.zeros_like(measured)
