"""Weights of samples: q moves to a better policy q* by maximum likelihood of its own samples (paper, Eq. 5 to 8).

Each of K samples is weighted by how much q* prefers it over q. The weights are normalised over the K samples, so the
baseline of the advantage (log-sum-exp or mean) shifts every log-weight of an item alike and cancels. There is no option
for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from train.methods.base import Losses, sum_neighbourhood
from train.methods.trust_region import TrustRegion
from train.processes import mean_of_all


def importance_weights(rewards: Tensor, log_q: Tensor, eta: Tensor, beta: float) -> Tensor:
    """Self-normalised w^k = softmax_k log(q*/q) with log(q*/q) = (R^k − β log q^k)/(η + β) (paper, Eq. 5 and 6).

    Args:
        rewards, log_q: (..., K), nats.
        eta: the trust-region multiplier, a scalar.
        beta: weight of the entropy bonus.

    Returns:
        (..., K), summing to 1 over K.
    """
    return torch.softmax((rewards - beta * log_q) / (eta + beta), dim=-1)


def effective_sample_size(weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² over K, averaged over everything else (paper, Eq. 8): a scalar between 1 and K."""
    return (weights.sum(-1).square() / weights.square().sum(-1)).mean()


class WeightedSamples:
    """L(θ) + L(η) of weighted samples: one weight for each sample, as in the paper, or one for each of its codes."""

    def __init__(
        self, model: Autoencoder, num_samples: int, ess_target: float, trust_region: TrustRegion, *, local: bool
    ) -> None:
        """Weigh samples of a model.

        Args:
            model: both parts are read for the shapes of codes and inputs alone.
            num_samples: K.
            ess_target: effective sample size, as a share of K.
            trust_region: gives η, and its loss.
            local: a weight per code, from the reward summed over the 3 × 3 codes around it.

        Raises:
            ConfigError: ``local``, and the codes are not on a grid.
        """
        if local and model.config.token_grid is None:
            raise ConfigError(
                f"credit: local needs codes on a grid; generative.kind {model.config.generative.kind} has none"
            )
        self._model, self._num_samples, self._local = model, num_samples, local
        self._target, self._trust_region = ess_target * num_samples, trust_region

    def improve(self, reward: Tensor, task: Tensor, log_q: Tensor, beta: float) -> Losses:
        """Move q to the samples that q* prefers (paper, Eq. 6 and 8).

        Args:
            reward: R of each dimension, (B·K, *input_shape), without gradient.
            task: further rewards, (B, K), without gradient.
            log_q: of each code, (B·K, N), with gradient.
            beta: weight of the entropy bonus.
        """
        rewards, log_q_terms = self.credit(reward, log_q)
        rewards = rewards + task[:, None]
        paid = log_q_terms.detach()

        def ess_of(eta: Tensor) -> Tensor:
            return effective_sample_size(importance_weights(rewards, paid, eta, beta))

        eta = self._trust_region.eta(ess_of, lambda ess: ess < self._target, rewards)
        ess = mean_of_all(ess_of(eta))
        weights = importance_weights(rewards, paid, eta.detach(), beta)
        # The terms are (B, 1 or N, K): sum over codes, average over the batch.
        loss_theta = -(weights * log_q_terms).sum(dim=(-1, -2)).mean()
        loss_eta = self._trust_region.loss(ess, self._target)
        return Losses(loss_theta + loss_eta, {"ess": ess.detach(), "eta": eta.detach()})

    def credit(self, reward: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and the log q that they pay for, each (B, 1, K), or (B, N, K) with a weight per code."""
        if self._local:
            grid = self._model.config.token_grid
            assert grid is not None  # checked in __init__
            rewards, paid = sum_neighbourhood(self._model.sum_cells(reward), grid), log_q
        else:
            rewards, paid = reward.flatten(1).sum(1)[:, None], log_q.sum(1, keepdim=True)
        samples_last = (-1, self._num_samples)
        return rewards.unflatten(0, samples_last).transpose(1, 2), paid.unflatten(0, samples_last).transpose(1, 2)
