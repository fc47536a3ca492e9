"""The multiplier η of the trust region, solved in every step (paper, Eq. 5 and 8).

The paper learns η by gradient descent on (ESS − target)² (from 100 with learning rate 1e-3 in the authors' code): the
target holds only after thousands of steps. But the effective sample size rises with η, and the KL divergence to the
improved policy falls with it, so bisection finds η in every step. The target is met where some η meets it: a large β
alone makes the weights nearly even, and then η is the least of its range. As in Corollary 1, the ESS of
an item bounds how far its K weights w are from uniform: KL(w ‖ 1/K) ≤ −log(ESS/K). The target is that of the batch's
mean ESS, as in Eq. 8, so single items may be further away than −log(target).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BISECTIONS = 40
_LOG_ETA_RANGE = (-7.0, 18.0)


@torch.no_grad()
def solve_eta(is_too_small: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
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
