"""DAPS, Discrete Autoencoding via Policy Search (paper, section 3, Algorithm 1).

The recognition model draws K codes per item; each is weighted by how much a closed-form better policy q* would prefer
it; weighted maximum likelihood moves the recognition model there (:mod:`train.methods.weighted_samples`). Nothing is
differentiated through the sampling.

With the default settings this is the paper's method, but both models are updated from the same samples in one step
(Algorithm 1), where the paper's text alternates. These settings are not in the paper: ``credit: local`` gives each
code a weight of its own, from log p(x|z) of the pixels near it; ``credit: counterfactual`` tries other codes at each
position of one sample (see :mod:`train.methods.counterfactual`); ``trust_region: solved`` finds η in every step (see
:mod:`train.methods.trust_region`); ``start_sharpness``, ``batch_norm: frozen``, ``search``, ``squared_error_weight``
and ``rewards``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
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
)
from train.methods.counterfactual import CounterfactualCredit
from train.methods.policy import PolicyMethod, Rollout
from train.methods.rewards import WeightedRewards, check_weights
from train.methods.trust_region import TrustRegion
from train.methods.weighted_samples import WeightedSamples

Credit = Literal["global", "local", "counterfactual"]
TrustRegionKind = Literal["learned", "solved"]


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
    trust_region: TrustRegionKind = "learned"
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
        require_choice("daps: trust_region", self.trust_region, TrustRegionKind)
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
        self._check_all_have_effect()

    def _check_all_have_effect(self) -> None:
        is_counterfactual = self.credit == "counterfactual"
        has_effect = {
            "ess_target": not is_counterfactual,
            "kl_target": is_counterfactual,
            "alternatives": is_counterfactual,
        }
        for setting in fields(self):
            if not has_effect.get(setting.name, True) and getattr(self, setting.name) != setting.default:
                raise ConfigError(f"daps: {setting.name} has no effect with {self.credit} credit")


class DAPS(PolicyMethod):
    """Weighted maximum likelihood for q, maximum likelihood for p, and η following its trust region."""

    settings_type = DAPSSettings
    settings: DAPSSettings

    def __init__(self, model: Autoencoder, settings: DAPSSettings) -> None:
        super().__init__(model, settings)
        chosen = settings
        self.trust_region = TrustRegion(chosen.eta_initial, learned=chosen.trust_region == "learned")
        self.rewards = WeightedRewards(chosen.rewards, model.config, chosen.num_classes)
        if chosen.credit == "counterfactual":
            self.counterfactual = CounterfactualCredit(
                model, chosen.alternatives, chosen.kl_target, chosen.squared_error_weight, self.trust_region
            )
        else:
            self.weighted_samples = WeightedSamples(
                model, chosen.num_samples, chosen.ess_target, self.trust_region, local=chosen.credit == "local"
            )

    def extra_parameters(self) -> list[dict[str, Any]]:
        """η has a learning rate of its own, and so has what rewards train."""
        groups = [{"params": list(self.trust_region.parameters()), "lr": self.settings.eta_learning_rate}]
        trained = list(self.rewards.parameters())
        return [*groups, {"params": trained, "lr": self.settings.reward_learning_rate}] if trained else groups

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """L(θ) + L(φ) + L(η), and the loss of rewards: they share no parameters, so one backward pass serves all."""
        beta = beta_schedule(self.settings.beta_initial, self.settings.beta_final, progress)
        rollout = self.rollout(batch.inputs, generator, search=self.settings.search)
        reward = self._reward(rollout)
        if self.settings.credit == "counterfactual":
            improved = self.counterfactual.improve(rollout, beta)
        else:
            task = self.rewards(batch, self.by_item(rollout.codes))
            improved = self.weighted_samples.improve(reward.detach(), task.values, rollout.log_q, beta)
            improved = Losses(improved.total + task.loss, improved.metrics | task.metrics)
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
