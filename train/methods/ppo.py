"""PPO (Schulman et al., 2017) on codes: clipped ratios to the policy that drew them, and an adaptive KL penalty.

The paper gives its PPO baseline one sentence and no equation. Known of the authors' settings: clip 0.2, an adaptive KL
penalty against the old policy, a learned value as the baseline, β 0.01, learning rate 1e-4. So this is a PPO baseline,
not theirs step by step. Chosen here, and not known of theirs:

- the ratio is one per code, q(z_t)/q_old(z_t), clipped by itself; all codes of a sample share its advantage. A ratio of
  the whole sample would leave the clip range after the smallest step where N is large.
- K is 8 samples an item, as for DAPS; every batch is drawn anew and used for one update, not for several epochs.
- the policy that draws is refreshed every 4 updates (``refresh_every``).
- the penalty starts at 1, aims at 0.01 nats per code, is halved or doubled at each refresh, and stays in [1e-4, 1e4].
- rewards are standardised by a running mean and scale, and β is divided by that scale, so that β keeps its unit.
- the value network has one hidden layer of 64 and a learning rate of 1e-3.
- there is no discount and no generalised advantage: the reward comes once, after the last code.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from train.methods.base import Batch, BatchNorm, Losses, check_batch_norm, entropy_of
from train.methods.policy import PolicyMethod
from train.processes import mean_of_all, place

VALUE_HIDDEN_SIZE = 64


def clipped_objective(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r, 1 − ε, 1 + ε) A), elementwise (their Eq. 7): no gain from moving a ratio further than ε."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def adapt(coefficient: Tensor, divergence: Tensor, target: float) -> Tensor:
    """Half the penalty where the policy moved less than target / 1.5, double where more than 1.5 · target (Eq. 8)."""
    lower, higher = divergence < target / 1.5, divergence > target * 1.5
    return torch.where(lower, coefficient / 2, torch.where(higher, coefficient * 2, coefficient)).clamp(1e-4, 1e4)


@dataclass(frozen=True)
class PPOSettings:
    """``refresh_every``: updates before the policy that draws becomes the present one. ``target_kl`` in nats per code.

    ``beta`` weighs the entropy against log p(x|z) in nats, as in the other methods; ``start_sharpness`` multiplies the
    logits once; ``batch_norm`` as DAPS's.
    """

    num_samples: int = 8
    clip: float = 0.2
    target_kl: float = 0.01
    kl_coefficient: float = 1.0
    beta: float = 0.01
    refresh_every: int = 4
    value_learning_rate: float = 1e-3
    start_sharpness: float = 1.0
    batch_norm: BatchNorm = "batch"

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.refresh_every < 1:
            raise ConfigError("ppo needs num_samples and refresh_every of at least 1")
        positive = (self.target_kl, self.kl_coefficient, self.beta, self.value_learning_rate, self.start_sharpness)
        if not 0 < self.clip < 1 or min(positive) <= 0:
            raise ConfigError("ppo needs a clip between 0 and 1, and positive target_kl, kl_coefficient and beta")
        check_batch_norm(self.batch_norm)


class PPO(PolicyMethod):
    """Each code is an action; all codes of a sample share its advantage, log p(x|z) less a learned value of x."""

    settings_type = PPOSettings
    settings: PPOSettings
    coefficient: Tensor
    divergence: Tensor
    reward_mean: Tensor
    reward_scale: Tensor

    def __init__(self, model: Autoencoder, settings: PPOSettings) -> None:
        super().__init__(model, settings)
        self.behaviour = copy.deepcopy(model.recognition).requires_grad_(False)
        size = math.prod(model.config.input_shape)
        self.value = nn.Sequential(
            nn.Flatten(), nn.Linear(size, VALUE_HIDDEN_SIZE), nn.ReLU(), nn.Linear(VALUE_HIDDEN_SIZE, 1)
        )
        self.register_buffer("coefficient", torch.tensor(settings.kl_coefficient))
        self.register_buffer("divergence", torch.tensor(settings.target_kl))
        self.register_buffer("reward_mean", torch.tensor(0.0))
        self.register_buffer("reward_scale", torch.tensor(0.0))  # 0: no reward seen yet

    def start(self) -> None:
        """The policy that was loaded draws first, sharpened."""
        super().start()
        self.behaviour.load_state_dict(self.model.recognition.state_dict())

    def extra_parameters(self) -> list[dict[str, Any]]:
        """The value has a learning rate of its own."""
        return [{"params": list(self.value.parameters()), "lr": self.settings.value_learning_rate}]

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """Clipped surrogate, KL penalty, entropy bonus and value loss for q; −log p for p.

        Rewards are standardised by their running mean and scale, and β with them, so what is weighed against what
        stays the same in nats.
        """
        settings = self.settings
        rollout = self.rollout(batch.inputs, generator, self.behaviour)
        log_p = rollout.log_p.flatten(1).sum(1)
        with torch.no_grad():
            old = self.behaviour.logits(self.behaviour.context(rollout.x), rollout.codes).float().log_softmax(-1)
            old_log_q = old.gather(-1, rollout.codes[..., None])[..., 0]
            if self.training:
                self._observe(log_p)
            rewards = (self.by_item(log_p) - self.reward_mean) / self.reward_scale.clamp_min(1e-3)
        value = self.value(rollout.x)  # (B, 1), the same for all samples of an item
        advantage = (rewards - value.detach()).flatten()[:, None]  # (B·K, 1), the same for all codes of a sample
        new = rollout.logits.log_softmax(-1)
        divergence = (old.exp() * (old - new)).sum(-1).mean()
        surrogate = clipped_objective((rollout.log_q - old_log_q).exp(), advantage, settings.clip).mean()
        bonus = settings.beta / self.reward_scale.clamp_min(1e-3) * entropy_of(rollout.logits).sum(1).mean()
        if self.training:
            self.divergence.copy_(mean_of_all(divergence.detach()))
        loss_theta = self.coefficient * divergence - surrogate - bonus / rollout.log_q.shape[1]
        loss_value = (value - rewards).square().mean()
        metrics = self.policy_metrics(rollout, settings.beta) | {
            "kl_to_old": divergence.detach(),
            "kl_coefficient": self.coefficient.clone(),
            "value_loss": loss_value.detach(),
        }
        return Losses(loss_theta + loss_value - log_p.mean(), metrics)

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Adapt the penalty to how far the policy went, and let the present one draw."""
        if (step + 1) % self.settings.refresh_every == 0:
            self.coefficient.copy_(adapt(self.coefficient, self.divergence, self.settings.target_kl))
            self.behaviour.load_state_dict(self.model.recognition.state_dict())

    def _observe(self, rewards: Tensor) -> None:
        """Follow mean and scale of the rewards of all processes; a batch that is not finite leaves no trace."""
        mean, count = mean_of_all(rewards.mean()), rewards.numel() * place()[1]
        share = 0.01 if self.reward_scale > 0 else 1.0
        variance = mean_of_all((rewards - mean).square().mean()) * count / max(1, count - 1)
        scale = variance.sqrt() if count > 1 else torch.ones_like(mean)
        if mean.isfinite() and scale.isfinite():
            self.reward_mean.lerp_(mean, share)
            self.reward_scale.lerp_(scale, share)
