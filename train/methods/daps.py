"""DAPS, Discrete Autoencoding via Policy Search (paper, section 3, Algorithm 1).

The recognition model draws K codes per item; each is weighted by how much a closed-form better policy q* would prefer
it; weighted maximum likelihood moves the recognition model there. Nothing is differentiated through the sampling.

With weights that are normalised over the K samples the baseline of the advantage (log-sum-exp or mean) cancels: it
shifts every log-weight of an item alike. So there is no option for it; :func:`advantages` is there for what is logged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from train.code_search import CodeSearch
from train.methods.base import (
    Batch,
    BatchNorm,
    Losses,
    beta_schedule,
    check_batch_norm,
    sharpen,
    sum_neighbourhood,
)
from train.methods.policy import PolicyMethod
from train.methods.rewards import WeightedRewards, check_weights


def advantages(rewards: Tensor) -> Tensor:
    """A^k = R^k − logsumexp_k R^k, for rewards (..., K) (paper, section 3)."""
    return rewards - rewards.logsumexp(-1, keepdim=True)


def importance_weights(advantage: Tensor, log_q: Tensor, eta: Tensor, beta: float) -> Tensor:
    """Self-normalised w^k = softmax_k log(q*/q) with log(q*/q) = (A^k − β log q^k)/(η + β) (paper, Eq. 5 and 6).

    Args:
        advantage, log_q: (..., K), nats.
        eta: the trust-region multiplier, a scalar.
        beta: weight of the entropy bonus.

    Returns:
        (..., K), summing to 1 over K.
    """
    return torch.softmax((advantage - beta * log_q) / (eta + beta), dim=-1)


def effective_sample_size(weights: Tensor) -> Tensor:
    """(Σ w)² / Σ w² over K, averaged over everything else (paper, Eq. 8): a scalar between 1 and K."""
    return (weights.sum(-1).square() / weights.square().sum(-1)).mean()


@dataclass(frozen=True)
class DAPSSettings:
    """Settings of the paper's Figure 11; the defaults are CIFAR-10's.

    ``ess_target`` is a share of K. ``credit``: ``global`` is the paper's one weight per sample; ``local`` gives every
    code its own weight, from log p(x|z) summed over the ``neighbourhood`` × ``neighbourhood`` codes around it.
    For runs that start from a trained model: ``batch_norm`` ``frozen`` keeps the running statistics, and
    ``start_sharpness`` multiplies the logits once, which lowers the entropy that the run starts with. ``search``: local
    search improves every sample before the samples are weighted, so that q is drawn to better codes than it would draw.
    ``rewards``: further rewards by name and weight, added to log p(x|z) (see ``train/methods/rewards.py``); those of
    classes know ``num_classes``, and what they train has ``reward_learning_rate``.
    """

    num_samples: int = 8
    beta_initial: float = 6.0
    beta_final: float = 0.01
    ess_target: float = 0.33
    eta_initial: float = 100.0
    eta_learning_rate: float = 1e-3
    credit: Literal["global", "local"] = "global"
    neighbourhood: int = 3
    batch_norm: BatchNorm = "batch"
    start_sharpness: float = 1.0
    search: CodeSearch | None = None
    rewards: dict[str, float] = field(default_factory=dict)
    num_classes: int = 10
    reward_learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ConfigError(f"daps compares samples, so num_samples must be at least 2, not {self.num_samples}")
        positive = (self.beta_initial, self.beta_final, self.eta_initial, self.start_sharpness)
        if min(positive) <= 0 or not 0 < self.ess_target < 1:
            raise ConfigError("daps needs positive beta, eta and sharpness, and an ess_target between 0 and 1")
        if self.credit not in ("global", "local"):
            raise ConfigError(f"daps: credit is global or local, not {self.credit!r}")
        check_batch_norm(self.batch_norm)
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood must be odd, not {self.neighbourhood}")
        check_weights(self.rewards)
        if self.num_classes < 2 or self.reward_learning_rate <= 0:
            raise ConfigError("daps needs num_classes of at least 2 and a positive reward_learning_rate")


class DAPS(PolicyMethod):
    """Weighted maximum likelihood for q, maximum likelihood for p, and η following the effective sample size."""

    settings_type = DAPSSettings
    settings: DAPSSettings

    def __init__(self, model: Autoencoder, settings: DAPSSettings) -> None:
        super().__init__(model, settings)
        if settings.credit == "local" and model.config.token_grid is None:
            raise ConfigError(f"credit: local needs codes on a grid, which {model.config.generative.kind} has not")
        self.log_eta = nn.Parameter(torch.tensor(math.log(settings.eta_initial)))
        self.rewards = WeightedRewards(settings.rewards, model.config, settings.num_classes)

    def start(self) -> None:
        """Sharpen what was loaded."""
        sharpen(self.model, self.settings.start_sharpness)

    def extra_parameters(self) -> list[dict[str, Any]]:
        """η has a learning rate of its own, and so has what rewards train."""
        groups = [{"params": [self.log_eta], "lr": self.settings.eta_learning_rate}]
        trained = list(self.rewards.parameters())
        return [*groups, {"params": trained, "lr": self.settings.reward_learning_rate}] if trained else groups

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """L(θ) + L(φ) + L(η), and the loss of rewards: they share no parameters, so one backward pass serves all."""
        settings = self.settings
        beta = beta_schedule(settings.beta_initial, settings.beta_final, progress)
        rollout = self.rollout(batch.inputs, generator, search=settings.search)

        rewards, log_q_terms = self._credit(rollout.log_p, rollout.log_q)
        task = self.rewards(batch, self.by_item(rollout.codes))
        rewards = rewards + task.values[:, None]
        eta = self.log_eta.exp()
        weights = importance_weights(advantages(rewards), log_q_terms.detach(), eta, beta)
        ess = effective_sample_size(weights)
        # The terms are (B, 1 or N, K): sum over codes, average over the batch.
        loss_theta = -(weights.detach() * log_q_terms).sum(dim=(-1, -2)).mean()
        loss_phi = -rollout.log_p.flatten(1).sum(1).mean()
        loss_eta = (ess - settings.ess_target * settings.num_samples).square()
        metrics = self.policy_metrics(rollout, beta) | {"ess": ess.detach(), "eta": eta.detach()} | task.metrics
        return Losses(loss_theta + loss_phi + loss_eta + task.loss, metrics)

    def _credit(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards (no gradient) and the log q that they pay for, each (B, 1, K), or (B, N, K) with local credit."""
        settings, model = self.settings, self.model
        if settings.credit == "global":
            rewards, paid = log_p.detach().flatten(1).sum(1)[:, None], log_q.sum(1, keepdim=True)
        else:
            grid = model.config.token_grid
            assert grid is not None  # checked in __init__
            rewards = sum_neighbourhood(model.sum_cells(log_p.detach()), grid, settings.neighbourhood)
            paid = log_q
        samples_last = (-1, settings.num_samples)
        return rewards.unflatten(0, samples_last).transpose(1, 2), paid.unflatten(0, samples_last).transpose(1, 2)
