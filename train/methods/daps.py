"""DAPS, Discrete Autoencoding via Policy Search (paper, section 3, Algorithm 1).

The recognition model draws K codes per item; each is weighted by how much a closed-form better policy q* would prefer
it; weighted maximum likelihood moves the recognition model there. Nothing is differentiated through the sampling.

The weights are normalised over the K samples, so the baseline of the advantage (log-sum-exp or mean) shifts every
log-weight of an item alike and cancels. There is no option for it.

With the default settings this is the paper's method, but both models are updated from the same samples in one step
(Algorithm 1), where the paper's text alternates. These settings are not in the paper: ``credit: local`` gives each
code a weight of its own, from log p(x|z) of the pixels near it; ``credit: counterfactual`` tries other codes at each
position of one sample (see :mod:`train.methods.counterfactual`); ``trust_region: solved`` finds η in every step (see
:mod:`train.methods.trust_region`); ``start_sharpness``, ``batch_norm: frozen``, ``search``, ``squared_error_weight``
and ``rewards``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sweep import DeviceGroup, Evaluate, objective_of, on_device
from daps_tokenizer.neighbourhoods import groups_of_codes
from train.code_search import CodeSearch
from train.methods.base import (
    Batch,
    BatchNorm,
    Losses,
    beta_schedule,
    check_batch_norm,
    check_squared_error_weight,
    entropy_of,
    expand_samples,
    reward_of,
    sum_neighbourhood,
)
from train.methods.counterfactual import (
    compare_alternatives,
    cross_entropy_to,
    divergence,
    improved_log_policy,
)
from train.methods.policy import PolicyMethod, Rollout
from train.methods.rewards import WeightedRewards, check_weights
from train.methods.trust_region import solve_eta
from train.processes import mean_of_all

Credit = Literal["global", "local", "counterfactual"]
TrustRegion = Literal["learned", "solved"]


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


@dataclass(frozen=True)
class DAPSSettings:
    """Settings of DAPS. Defaults of K, β and the ESS target are the paper's for CIFAR-10 (Figure 11, Table 1); where η
    starts, and its learning rate, are those of the authors' code.

    Args:
        num_samples: K, samples of each item; counterfactual credit needs one.
        beta_initial, beta_final: the entropy bonus, which decays exponentially.
        credit: ``global``, the paper's one weight per sample; ``local``, a weight per code from log p(x|z) summed over
            the 3 × 3 codes around it; ``counterfactual``, a better policy per code.
        trust_region: ``learned``, as in the paper, η follows its target by gradient descent from ``eta_initial`` with
            ``eta_learning_rate``, which follows the run's schedule; ``solved``, η is found in every step.
        ess_target: effective sample size, as a share of K; for global and local credit.
        kl_target: KL(q* ‖ q) per code in nats; for counterfactual credit.
        alternatives: M, codes that are tried in place of each drawn one; for counterfactual credit.
        batch_norm: ``frozen`` keeps the running statistics, for runs that start from a trained model.
        start_sharpness: multiplies the logits once, when the run begins, which lowers the entropy of q.
        search: local search improves every sample before the samples are weighted.
        squared_error_weight: w; R = log p(x|z) − w Σ (x − mean)², for both models (:func:`base.reward_of`).
        rewards: further rewards by name and weight, added to log p(x|z) (see ``train/methods/rewards.py``);
            ``num_classes`` and ``reward_learning_rate`` are for those that learn classes.
    """

    num_samples: int = 8
    beta_initial: float = 6.0
    beta_final: float = 0.01
    credit: Credit = "global"
    trust_region: TrustRegion = "learned"
    ess_target: float = 0.33
    kl_target: float = 0.003
    alternatives: int = 1
    eta_initial: float = 100.0
    eta_learning_rate: float = 1e-3
    batch_norm: BatchNorm = "batch"
    start_sharpness: float = 1.0
    search: CodeSearch | None = None
    squared_error_weight: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)
    num_classes: int = 10
    reward_learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        require_choice("daps: credit", self.credit, Credit)
        require_choice("daps: trust_region", self.trust_region, TrustRegion)
        if self.credit == "counterfactual" and self.num_samples != 1:
            raise ConfigError(f"daps: num_samples must be 1 with counterfactual credit, not {self.num_samples}")
        if self.credit != "counterfactual" and self.num_samples < 2:
            raise ConfigError(f"daps: num_samples must be at least 2 with {self.credit} credit, not {self.num_samples}")
        positive = (self.beta_initial, self.beta_final, self.eta_initial, self.start_sharpness, self.kl_target)
        if not all(0 < value < math.inf for value in positive) or not 0 < self.ess_target < 1:
            raise ConfigError(
                "daps needs positive beta, eta, kl_target and sharpness, and an ess_target between 0 and 1"
            )
        if self.credit != "counterfactual" and self.ess_target * self.num_samples <= 1:
            raise ConfigError(
                f"daps: ess_target {self.ess_target} of {self.num_samples} samples is at most 1, the least that an "
                "effective sample size can be"
            )
        if self.alternatives < 0:
            raise ConfigError(f"daps: alternatives must be at least 0, not {self.alternatives}")
        check_squared_error_weight(self.squared_error_weight)
        if self.squared_error_weight and self.search is not None:
            raise ConfigError("daps: a search has an objective of its own, so it takes no squared_error_weight")
        if self.credit == "counterfactual" and (self.search is not None or self.rewards):
            raise ConfigError("daps: counterfactual credit takes no search and no further rewards")
        check_batch_norm(self.batch_norm)
        check_weights(self.rewards)
        if self.num_classes < 2 or self.reward_learning_rate <= 0:
            raise ConfigError("daps needs num_classes of at least 2 and a positive reward_learning_rate")
        if not 0 <= self.eta_learning_rate < math.inf:
            raise ConfigError(f"daps: eta_learning_rate must be at least 0, not {self.eta_learning_rate}")


class DAPS(PolicyMethod):
    """Weighted maximum likelihood for q, maximum likelihood for p, and η following its trust region."""

    settings_type = DAPSSettings
    settings: DAPSSettings

    def __init__(self, model: Autoencoder, settings: DAPSSettings) -> None:
        super().__init__(model, settings)
        if settings.credit == "local" and model.config.token_grid is None:
            raise ConfigError(
                f"credit: local needs codes on a grid; generative.kind {model.config.generative.kind} has none"
            )
        if settings.credit == "counterfactual" and settings.alternatives >= model.config.vocab_size:
            raise ConfigError(
                f"daps: alternatives must be less than the {model.config.vocab_size} codes, not {settings.alternatives}"
            )
        # A solved η gets no gradient, and several processes would wait for one.
        is_learned = settings.trust_region == "learned"
        self.log_eta = nn.Parameter(torch.tensor(math.log(settings.eta_initial)), requires_grad=is_learned)
        self.rewards = WeightedRewards(settings.rewards, model.config, settings.num_classes)
        self._groups: list[DeviceGroup] | None = None

    def extra_parameters(self) -> list[dict[str, Any]]:
        """η has a learning rate of its own, and so has what rewards train."""
        groups = [{"params": [self.log_eta], "lr": self.settings.eta_learning_rate}]
        trained = list(self.rewards.parameters())
        return [*groups, {"params": trained, "lr": self.settings.reward_learning_rate}] if trained else groups

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """L(θ) + L(φ) + L(η), and the loss of rewards: they share no parameters, so one backward pass serves all."""
        beta = beta_schedule(self.settings.beta_initial, self.settings.beta_final, progress)
        rollout = self.rollout(batch.inputs, generator, search=self.settings.search)
        reward = self._reward(rollout)
        if self.settings.credit == "counterfactual":
            improved = self._improve_codes(rollout, beta)
        else:
            improved = self._weight_samples(batch, rollout, reward.detach(), beta)
        loss_phi = -reward.flatten(1).sum(1).mean()
        metrics = self.policy_metrics(rollout, beta) | improved.metrics
        if self.settings.squared_error_weight:
            metrics["reward"] = -loss_phi.detach()
        if self.settings.search is not None:
            # q did not draw the codes that a search found, so their log q is no entropy and bounds nothing.
            metrics["entropy"] = entropy_of(rollout.logits.detach()).sum(1).mean()
            del metrics["elbo"]
        return Losses(improved.total + loss_phi, metrics)

    def _reward(self, rollout: Rollout) -> Tensor:
        """R of each dimension, (B·K, *input_shape), with the gradient of the generative model."""
        x = expand_samples(rollout.x, self.settings.num_samples)
        return reward_of(self.model, x, rollout.parameters, rollout.log_p, self.settings.squared_error_weight)

    def _weight_samples(self, batch: Batch, rollout: Rollout, reward: Tensor, beta: float) -> Losses:
        """L(θ) + L(η) of weighted samples, one weight for each or one for each of their codes (paper, Eq. 6 and 8)."""
        settings = self.settings
        rewards, log_q_terms = self._credit(reward, rollout.log_q)
        task = self.rewards(batch, self.by_item(rollout.codes))
        rewards = rewards + task.values[:, None]
        log_q = log_q_terms.detach()
        target = settings.ess_target * settings.num_samples

        def ess_of(eta: Tensor) -> Tensor:
            return mean_of_all(effective_sample_size(importance_weights(rewards, log_q, eta, beta)))

        eta = self._eta(lambda eta: ess_of(eta) < target, rewards)
        ess = ess_of(eta)
        weights = importance_weights(rewards, log_q, eta.detach(), beta)
        # The terms are (B, 1 or N, K): sum over codes, average over the batch.
        loss_theta = -(weights * log_q_terms).sum(dim=(-1, -2)).mean()
        metrics = {"ess": ess.detach(), "eta": eta.detach()} | task.metrics
        return Losses(loss_theta + self._loss_eta(ess, target) + task.loss, metrics)

    def _improve_codes(self, rollout: Rollout, beta: float) -> Losses:
        """L(θ) + L(η) of counterfactual credit: at each position q moves to the better policy over the codes tried."""
        settings, model, x = self.settings, self.model, rollout.x
        log_q = rollout.logits.detach().log_softmax(-1)
        if self._groups is None:
            self._groups = on_device(groups_of_codes(model.config), x.device)
        was_training = model.generative.training
        model.generative.eval()  # an alternative is judged by the running statistics, not by those of its batch
        compared = compare_alternatives(
            self._reward_of_codes(x), rollout.codes, log_q, settings.alternatives, self._groups
        )
        model.generative.train(was_training)

        def kl_of(eta: Tensor) -> Tensor:
            return mean_of_all(divergence(compared, improved_log_policy(compared, eta, beta)))

        eta = self._eta(lambda eta: kl_of(eta) > settings.kl_target, log_q)
        kl, log_improved = kl_of(eta), improved_log_policy(compared, eta.detach(), beta)
        loss_theta = cross_entropy_to(compared, log_improved, rollout.logits)
        entropy = entropy_of(rollout.logits.detach()).sum(1).mean()
        metrics = {"kl": kl.detach(), "eta": eta.detach(), "entropy": entropy}
        return Losses(loss_theta + self._loss_eta(kl, settings.kl_target), metrics)

    def _reward_of_codes(self, x: Tensor) -> Evaluate:
        """R of each code's own part of the input, (B, N) float64 of codes (B, N), for standardised x."""
        model, weight = self.model, self.settings.squared_error_weight
        if not weight:
            return objective_of(model, x, "log_likelihood")

        def evaluate(codes: Tensor) -> Tensor:
            values = model.cell_values(x, codes)
            return values.log_likelihood.double() - weight * values.squared_error.double()

        return evaluate

    def _eta(self, is_too_small: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        return solve_eta(is_too_small, like) if self.settings.trust_region == "solved" else self.log_eta.exp()

    def _loss_eta(self, measured: Tensor, target: float) -> Tensor:
        """What moves a learned η; nothing moves a solved one."""
        return (measured - target).square() if self.settings.trust_region == "learned" else torch.zeros_like(measured)

    def _credit(self, reward: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards (no gradient) and the log q that they pay for, each (B, 1, K), or (B, N, K) with local credit."""
        settings, model = self.settings, self.model
        if settings.credit == "global":
            rewards, paid = reward.flatten(1).sum(1)[:, None], log_q.sum(1, keepdim=True)
        else:
            grid = model.config.token_grid
            assert grid is not None  # checked in __init__
            rewards = sum_neighbourhood(model.sum_cells(reward), grid)
            paid = log_q
        samples_last = (-1, settings.num_samples)
        return rewards.unflatten(0, samples_last).transpose(1, 2), paid.unflatten(0, samples_last).transpose(1, 2)
