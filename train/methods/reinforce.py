"""REINFORCE with a leave-one-out baseline (Williams, 1992; Kool et al., 2019): the plain, unbiased policy gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from train.methods.base import Batch, BatchNorm, Losses, beta_schedule, check_batch_norm
from train.methods.policy import PolicyMethod


def leave_one_out(returns: Tensor) -> Tensor:
    """Returns (..., K) less the mean of the K − 1 others, which they do not depend on."""
    count = returns.shape[-1]
    return (returns - returns.mean(-1, keepdim=True)) * (count / (count - 1))


def score_loss(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """A scalar whose gradient estimates that of −E[log p − β log q] without bias.

    Args:
        log_p, log_q: (B, K) of K samples of q per item; the gradient goes through log q alone.
        beta: weight of the entropy.
    """
    advantages = leave_one_out((log_p - beta * log_q).detach())
    return -(advantages * log_q).mean()


@dataclass(frozen=True)
class ReinforceSettings:
    """K samples per item; β decays exponentially; ``start_sharpness`` multiplies the logits once; ``batch_norm`` as
    DAPS's."""

    num_samples: int = 8
    beta_initial: float = 6.0
    beta_final: float = 0.01
    start_sharpness: float = 1.0
    batch_norm: BatchNorm = "batch"

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ConfigError(f"reinforce compares samples, so num_samples must be at least 2, not {self.num_samples}")
        if min(self.beta_initial, self.beta_final, self.start_sharpness) <= 0:
            raise ConfigError("reinforce needs positive betas and start_sharpness")
        check_batch_norm(self.batch_norm)


class Reinforce(PolicyMethod):
    """Ascends E[log p(x|z) − β log q(z|x)] for q by its score, and E[log p(x|z)] for p."""

    settings_type = ReinforceSettings
    settings: ReinforceSettings

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """−mean_k sg(A^k) log q^k − mean_k log p^k, with A^k the return less its leave-one-out baseline."""
        beta = beta_schedule(self.settings.beta_initial, self.settings.beta_final, progress)
        rollout = self.rollout(batch.inputs, generator)
        log_p, log_q = rollout.log_p.flatten(1).sum(1), rollout.log_q.sum(1)
        loss_theta = score_loss(self.by_item(log_p), self.by_item(log_q), beta)
        return Losses(loss_theta - log_p.mean(), self.policy_metrics(rollout, beta))
