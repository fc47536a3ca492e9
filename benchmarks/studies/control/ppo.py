"""PPO in one file (after CleanRL): the policy that follows a reference, trained on CPUs, resumable at any moment."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.studies.control.policy import Policy
from benchmarks.studies.control.robot import CONTROL_FPS
from benchmarks.studies.control.tracking import HOLD, Tracking
from daps_tokenizer.errors import InputError
from daps_tokenizer.files import write_bytes_atomically


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


class Trainer:
    """Trains a policy in a folder: ``policy.safetensors``, ``trainer.safetensors`` (Adam), ``log.jsonl``."""

    def __init__(self, tracking: Tracking, policy: Policy, config: PPOConfig, folder: Path, *, seed: int = 0) -> None:
        self.tracking, self.policy, self.config, self.folder = tracking, policy, config, folder
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5)
        self.steps = self.seconds = 0.0
        self._generator = torch.Generator().manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "trainer.safetensors").is_file():
            self._resume()

    def train(self, *, max_seconds: float, max_steps: float = float("inf")) -> None:
        """Iterate until the time or the steps are over; what was there is gone on with."""
        began = saved = time.monotonic()
        before = self.seconds
        observation = torch.from_numpy(self.tracking.reset())
        while time.monotonic() - began < max_seconds and self.steps < max_steps:
            cpu = time.process_time()
            observation, record = self._iterate(observation)
            self.seconds = before + time.monotonic() - began
            record |= {"steps": int(self.steps), "seconds": round(self.seconds, 1)}
            record["steps_per_cpu_second"] = round(record.pop("samples") / (time.process_time() - cpu))
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            if time.monotonic() - saved > 60:
                self._save()
                saved = time.monotonic()
        self._save()

    def _iterate(self, observation: Tensor) -> tuple[Tensor, dict[str, float]]:
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
        self.steps += samples
        return observation, record | {
            "samples": samples,
            "reward": rewards.sum().item() / (1 - config.gamma) / rewards.numel(),
            "seconds_to_fall": samples / CONTROL_FPS / max(fell.sum().item(), 1.0),
            "deviation": policy.log_deviation.exp().mean().item(),
        }

    def _update(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        policy, config = self.policy, self.config
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
                self.optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_norm)
                self.optimiser.step()
                with torch.no_grad():
                    kls.append((ratio - 1 - (log_prob - old)).mean().item())
                    losses.append(value_loss.item())
        kl = float(np.mean(kls))
        for group in self.optimiser.param_groups:
            rate = group["lr"] * (1.3 if kl < config.target_kl / 1.5 else 1 / 1.3 if kl > config.target_kl * 1.5 else 1)
            group["lr"] = float(np.clip(rate, 3e-5, 2e-3))
        return {"kl": kl, "value_loss": float(np.mean(losses)), "learning_rate": self.optimiser.param_groups[0]["lr"]}

    def _save(self) -> None:
        state = self.optimiser.state_dict()["state"]
        tensors = {f"{i}.{name}": value for i, parts in state.items() for name, value in parts.items()}
        numbers = [self.steps, self.seconds, self.optimiser.param_groups[0]["lr"]]
        save_policy(self.policy, self.folder / "policy.safetensors")
        save_file(tensors | {"numbers": torch.tensor(numbers)}, self.folder / "trainer.part")
        (self.folder / "trainer.part").replace(self.folder / "trainer.safetensors")
        write_bytes_atomically(self.folder / "config.json", json.dumps(asdict(self.config), indent=2).encode())

    def _resume(self) -> None:
        load_policy(self.policy, self.folder / "policy.safetensors")
        tensors = load_file(self.folder / "trainer.safetensors")
        self.steps, self.seconds, rate = tensors.pop("numbers").tolist()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            place, name = key.split(".", 1)
            state.setdefault(int(place), {})[name] = value
        content = self.optimiser.state_dict()
        content["state"] = state
        content["param_groups"][0]["lr"] = rate
        self.optimiser.load_state_dict(content)


def save_policy(policy: Policy, path: Path) -> None:
    """Write the weights, under a temporary name first."""
    save_file({name: value.contiguous() for name, value in policy.state_dict().items()}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load_policy(policy: Policy, path: Path) -> None:
    """Read weights; a policy with a condition takes those of one without, and starts its condition at zero."""
    tensors = load_file(path)
    own = policy.state_dict()
    kept = {name: value for name, value in tensors.items() if own[name].shape == value.shape}
    policy.load_state_dict(own | kept)


def policy_size(path: Path) -> int:
    """How many numbers the observations of a policy have.

    Raises:
        InputError: there is no policy.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a policy that `benchmarks control train` wrote")
    return len(load_file(path)["normalise.mean"])


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
