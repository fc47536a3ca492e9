"""The multiplier η of the trust region, learned or solved (paper, Eq. 5 and 8).

The paper learns η by gradient descent on (ESS − target)² (from 100 with learning rate 1e-3 in the authors' code): the
target holds only after thousands of steps. But the effective sample size rises with η, and the KL divergence to the
improved policy falls with it, so bisection finds η in every step. The target is met where some η meets it: a large β
alone makes the weights nearly even, and then η is the least of its range. As in Corollary 1, the ESS of
an item bounds how far its K weights w are from uniform: KL(w ‖ 1/K) ≤ −log(ESS/K). The target is that of the batch's
mean ESS, as in Eq. 8, so single items may be further away than −log(target).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

_BISECTIONS = 40
_LOG_ETA_RANGE = (-7.0, 18.0)

IsTooSmall = Callable[[Tensor], Tensor]


@torch.no_grad()
def solve_eta(is_too_small: IsTooSmall, like: Tensor) -> Tensor:
    """The least η that is not too small, by bisection over log η between e^−7 and e^18.

    Args:
        is_too_small: whether an η () moves the policy too far, as a boolean tensor (); true below some η, false above.
        like: a tensor whose device and dtype η takes; nothing is read on the host.

    Returns:
        η, (); one end of the range where the answer is the same in all of it.
    """
    low, high = (like.new_full((), bound) for bound in _LOG_ETA_RANGE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_small = is_too_small(middle.exp())
        low, high = torch.where(too_small, middle, low), torch.where(too_small, high, middle)
    return high.exp()


class TrustRegion(nn.Module):
    """η: a parameter that descends to its target, as in the paper, or what :func:`solve_eta` finds in every step."""

    def __init__(self, eta_initial: float, *, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        # A solved η gets no gradient, and several processes would wait for one.
        self.log_eta = nn.Parameter(torch.tensor(math.log(eta_initial)), requires_grad=learned)

    def eta(self, is_too_small: IsTooSmall, like: Tensor) -> Tensor:
        """η, (), with the gradient of a learned one; the arguments are those of :func:`solve_eta`."""
        return self.log_eta.exp() if self.learned else solve_eta(is_too_small, like)

    def loss(self, measured: Tensor, target: float) -> Tensor:
        """L(η), (): the squared distance to the target of a learned η (paper, Eq. 8); 0 for a solved one."""
        return (measured - target).square() if self.learned else torch.zeros_like(measured)
