"""PPO in one file (after CleanRL): the policy that follows a reference, trained on CPUs, resumable at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.control.policy import Policy
from benchmarks.studies.control.robot import CONTROL_FPS
from benchmarks.studies.control.tracking import HOLD, Tracking
from benchmarks.studies.control.training import Trainer


@dataclass(frozen=True)
class PPOConfig:
    """How a policy is trained; ``horizon`` · robots actions an iteration."""

    horizon: int = 16
    epochs: int = 5
    minibatch: int = 1024
    gamma: float = 0.9
    lambda_: float = 0.95
    clip: float = 0.2
    learning_rate: float = 5e-4
    target_kl: float = 0.012  # per update; the learning rate goes where this is met
    entropy: float = 0.0
    value: float = 1.0
    max_norm: float = 1.0


class PPOTrainer(Trainer):
    """Trains a policy with PPO; see :class:`Trainer`."""

    def __init__(self, tracking: Tracking, policy: Policy, config: PPOConfig, folder: Path, *, seed: int = 0) -> None:
        self.policy, self.config = policy, config
        super().__init__(tracking, {"policy": policy}, {"policy": config.learning_rate}, folder)
        self._generator = torch.Generator().manual_seed(seed)

    def iterate(self, observation: Tensor) -> tuple[Tensor, dict[str, float]]:
        tracking, policy, config = self.tracking, self.policy, self.config
        shape = (config.horizon, tracking.count)
        observations = torch.empty(*shape, observation.shape[1])
        actions = torch.empty(*shape, tracking.action.shape[1])
        frames = torch.empty(shape, dtype=torch.long)
        rewards, values, log_probs, ended, fell = (torch.zeros(shape) for _ in range(5))
        with torch.no_grad():
            deviation = policy.log_deviation.exp()
            for t in range(config.horizon):
                observations[t], frames[t] = observation, torch.from_numpy(tracking.frame)
                mean, values[t] = policy(policy.normalise(observation), policy.condition(frames[t]))
                noise = torch.randn(mean.shape, generator=self._generator)
                actions[t] = mean + deviation * noise
                log_probs[t] = _log_prob(noise, policy.log_deviation)
                step = tracking.act(actions[t].numpy())
                rewards[t] = torch.from_numpy(step.reward * (1 - config.gamma)).float()
                ended[t], fell[t] = torch.from_numpy(step.ended), torch.from_numpy(step.fell)
                observation = torch.from_numpy(step.observation)
                late = torch.from_numpy(step.ended & ~step.fell)
                if late.any():  # the motion is over, the robot stands: what would have followed counts
                    last = torch.from_numpy(step.last)[late]
                    _, value = policy(policy.normalise(last), policy.condition(frames[t][late]))
                    rewards[t, late] += config.gamma * value
            _, following = policy(policy.normalise(observation), policy.condition(torch.from_numpy(tracking.frame)))
            advantages = _advantages(rewards, values, ended, following, config)
        batch = (
            policy.normalise(observations.flatten(0, 1)),
            frames.flatten(),
            actions.flatten(0, 1),
            log_probs.flatten(),
            advantages.flatten(),
            (advantages + values).flatten(),
        )
        record = self._update(batch)
        policy.normalise.update(observations.flatten(0, 1))
        samples = HOLD * rewards.numel()
        return observation, record | {
            "samples": samples,
            "reward": rewards.sum().item() / (1 - config.gamma) / rewards.numel(),
            "seconds_to_fall": samples / CONTROL_FPS / max(fell.sum().item(), 1.0),
            "deviation": policy.log_deviation.exp().mean().item(),
        }

    def _update(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        policy, config, optimiser = self.policy, self.config, self.optimisers["policy"]
        kls, losses = [], []
        for _ in range(config.epochs):
            order = torch.randperm(len(batch[0]), generator=self._generator)
            for places in order.split(config.minibatch):
                observation, frames, action, old, advantage, returns = (part[places] for part in batch)
                mean, value = policy(observation, policy.condition(frames))
                log_prob = _log_prob((action - mean) / policy.log_deviation.exp(), policy.log_deviation)
                ratio = (log_prob - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                bounded = ratio.clamp(1 - config.clip, 1 + config.clip)
                value_loss = (value - returns).square().mean()
                loss = -torch.minimum(ratio * advantage, bounded * advantage).mean()
                loss = loss + config.value * value_loss - config.entropy * policy.log_deviation.sum()
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_norm)
                optimiser.step()
                with torch.no_grad():
                    kls.append((ratio - 1 - (log_prob - old)).mean().item())
                    losses.append(value_loss.item())
        kl = float(np.mean(kls))
        for group in optimiser.param_groups:
            rate = group["lr"] * (1.3 if kl < config.target_kl / 1.5 else 1 / 1.3 if kl > config.target_kl * 1.5 else 1)
            group["lr"] = float(np.clip(rate, 3e-5, 2e-3))
        return {"kl": kl, "value_loss": float(np.mean(losses)), "learning_rate": optimiser.param_groups[0]["lr"]}


def _log_prob(noise: Tensor, log_deviation: Tensor) -> Tensor:
    return -(0.5 * noise.square() + log_deviation).sum(-1)


def _advantages(rewards: Tensor, values: Tensor, ended: Tensor, following: Tensor, config: PPOConfig) -> Tensor:
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(following)
    for t in reversed(range(len(rewards))):
        goes = 1 - ended[t]
        delta = rewards[t] + config.gamma * following * goes - values[t]
        running = delta + config.gamma * config.lambda_ * goes * running
        advantages[t], following = running, values[t]
    return advantages
