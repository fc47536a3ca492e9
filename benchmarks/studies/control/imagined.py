"""A policy by gradients through learned dynamics (after SuperTrack, Fussell et al., 2021).

Robots act, a network learns from that what an action does to a robot, and the policy follows the gradient of the reward
along motions that this network imagines. A reward is one number for an action; its gradient says for each of 15 joints
what would have been better, so far fewer robots are needed than by PPO.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.studies.control.policy import Policy
from benchmarks.studies.control.robot import ACTIVE, CONTROL_FPS, JOINTS
from benchmarks.studies.control.tracking import (
    HOLD,
    LOCAL,
    MOST_ACTION,
    STATE,
    Tracking,
    observation_of,
    tracking_errors,
)
from benchmarks.studies.control.training import Trainer


@dataclass(frozen=True)
class ImaginedConfig:
    """How policy and dynamics are trained. Of each: updates an iteration, robots in each, actions in a row."""

    horizon: int = 8  # actions of each robot an iteration
    kept: int = 60  # iterations that dynamics are learned from
    recent: int = 4  # iterations that imagined motions start from
    dynamics: tuple[int, int, int] = (50, 256, 4)
    policy: tuple[int, int, int] = (10, 192, 10)
    dynamics_rate: float = 1e-3
    policy_rate: float = 5e-4
    gamma: float = 0.9  # what comes after the last imagined action costs as much as that, for ever
    action: float = 0.005  # cost of a squared action, mean over joints
    max_norm: float = 0.5


class Dynamics(nn.Module):
    """What is seen of a robot after an action, (B, 72), by its standardised observation and the action (B, 15)."""

    scale: Tensor

    def __init__(self, observations: int, hidden: int = 384) -> None:
        super().__init__()
        layers = (nn.Linear(observations + ACTIVE, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU())
        self.net = nn.Sequential(*layers, nn.Linear(hidden, STATE))
        self.register_buffer("scale", torch.ones(STATE))  # standard deviations of changes

    def forward(self, state: Tensor, observation: Tensor, action: Tensor) -> Tensor:
        change: Tensor = self.net(torch.cat([observation, action], 1)) * self.scale
        return state + change


class Acted(NamedTuple):
    """What robots did in an iteration, each (T, B, ...): what was seen of them, their corrections, the frames,
    actions, what was seen after them, and whether the motion ended with them."""

    state: Tensor
    correction: Tensor
    frame: Tensor
    action: Tensor
    after: Tensor
    ended: Tensor


class ImaginedTrainer(Trainer):
    """Trains a policy and the dynamics it learns by; see :class:`Trainer`."""

    def __init__(
        self, tracking: Tracking, policy: Policy, config: ImaginedConfig, folder: Path, *, seed: int = 0
    ) -> None:
        self.policy, self.config = policy, config
        self.dynamics = Dynamics(len(policy.normalise.mean))
        rates = {"policy": config.policy_rate, "dynamics": config.dynamics_rate}
        super().__init__(tracking, {"policy": policy, "dynamics": self.dynamics}, rates, folder)
        self._generator = torch.Generator().manual_seed(seed)
        self._ends = torch.from_numpy(tracking.ends)
        self._joints = torch.from_numpy(tracking.reference.qpos[:, 7:]).float()
        self._acted: list[Acted] = []

    def iterate(self, observation: Tensor) -> tuple[Tensor, dict[str, float]]:
        config = self.config
        observation, acted, record = self._act(observation)
        self._acted = [*self._acted[-config.kept + 1 :], acted]
        if not self.steps:
            self.dynamics.scale.copy_((acted.after - acted.state)[~acted.ended].std(0) + 1e-3)
        record["dynamics_loss"] = self._learn("dynamics", config.dynamics, config.kept)
        if len(self._acted) > config.recent:  # by then the dynamics are better than none
            record["imagined_cost"] = self._learn("policy", config.policy, config.recent)
        return observation, record

    @torch.no_grad()
    def _act(self, observation: Tensor) -> tuple[Tensor, Acted, dict[str, float]]:
        tracking, policy, rows = self.tracking, self.policy, []
        fell, reward = 0, 0.0
        for _ in range(self.config.horizon):
            frame = torch.from_numpy(tracking.frame.copy())
            policy.normalise.update(observation)
            action = self._choose(policy.normalise(observation), frame)
            step = tracking.act(action.numpy())
            after, ended = torch.from_numpy(step.last)[:, :STATE], torch.from_numpy(step.ended)
            seen = observation.split([STATE, ACTIVE, observation.shape[1] - STATE - ACTIVE], 1)
            rows.append(Acted(seen[0], seen[1], frame, action, after, ended))
            fell, reward = fell + int(step.fell.sum()), reward + float(step.reward.mean())
            observation = torch.from_numpy(step.observation)
        samples = HOLD * len(rows) * tracking.count
        return (
            observation,
            Acted(*(torch.stack(parts) for parts in zip(*rows, strict=True))),
            {
                "samples": samples,
                "reward": reward / len(rows),
                "seconds_to_fall": samples / CONTROL_FPS / max(fell, 1),
                "deviation": self.policy.log_deviation.exp().mean().item(),
            },
        )

    def _choose(self, observation: Tensor, frame: Tensor) -> Tensor:
        mean, _ = self.policy(observation, self.policy.condition(frame))
        noise = torch.randn(mean.shape, generator=self._generator)
        return (mean + self.policy.log_deviation.detach().exp() * noise).clamp(-MOST_ACTION, MOST_ACTION)

    def _learn(self, name: str, amount: tuple[int, int, int], iterations: int) -> float:
        """Updates of a network, each by rows of actions of the last iterations; the mean loss."""
        updates, count, length = amount
        acted = Acted(*(torch.stack(parts) for parts in zip(*self._acted[-iterations:], strict=True)))
        loss, network, optimiser = getattr(self, f"_{name}_loss"), self.networks[name], self.optimisers[name]
        total = 0.0
        for _ in range(updates):
            value = loss(acted, count, length)
            optimiser.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.max_norm)
            optimiser.step()
            total += value.item()
        return total / updates

    def _draw(self, acted: Acted, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Iteration, time and robot of random rows of so many actions, each (count,)."""
        iterations, times, robots = acted.frame.shape
        return (
            torch.randint(iterations, (count,), generator=self._generator),
            torch.randint(times - length + 1, (count,), generator=self._generator),
            torch.randint(robots, (count,), generator=self._generator),
        )

    def _dynamics_loss(self, acted: Acted, count: int, length: int) -> Tensor:
        """Squared error of ``length`` steps in a row, in parts of the scale of a step's change."""
        iteration, time, robot = self._draw(acted, count, length)
        at = iteration, time, robot
        state, correction = acted.state[at], acted.correction[at]
        counts, loss, total = torch.ones(count), torch.zeros(()), torch.zeros(())
        for number in range(length):
            at = iteration, time + number, robot
            seen = observation_of(state, correction, self.tracking.ahead[acted.frame[at]])
            state = self.dynamics(state, self.policy.normalise(seen), acted.action[at])
            correction, counts = acted.action[at], counts * ~acted.ended[at]
            error = ((state - acted.after[at]) / self.dynamics.scale).square().mean(1)
            loss, total = loss + (counts * error).sum(), total + counts.sum()
        return loss / total.clamp(min=1)

    def _policy_loss(self, acted: Acted, count: int, length: int) -> Tensor:
        """Mean cost of an action, discounted, ``length`` of them imagined: 1 less the reward without that of bodies."""
        at = self._draw(acted, count, 1)
        frame = acted.frame[at]
        here = frame + HOLD * length < self._ends[frame]
        state, correction, frame = acted.state[at][here], acted.correction[at][here], frame[here]
        weights, cost = self.tracking.weights, torch.zeros(())
        for number in range(length):
            seen = self.policy.normalise(observation_of(state, correction, self.tracking.ahead[frame]))
            action = self._choose(seen, frame)
            state, frame = self.dynamics(state, seen, action), frame + HOLD
            local, joints, _, place, heading = state.split([LOCAL, JOINTS, JOINTS, 2, 2], 1)
            there = self.tracking.ahead[frame][:, -LOCAL:]
            errors = tracking_errors(local, there, joints - self._joints[frame], place, heading)
            lost = torch.zeros(len(frame))
            for name, error in errors.items():
                weight, scale = getattr(weights, name)
                lost = lost + weight * (1 - torch.exp(-error / scale**2))
            lost = lost + weights.action_change * (action - correction).square().mean(1) / HOLD**2
            lost = lost + self.config.action * action.square().mean(1)
            after = 1.0 if number + 1 < length else 1 / (1 - self.config.gamma)
            cost, correction = cost + after * self.config.gamma**number * lost.mean(), action
        return cost * (1 - self.config.gamma)
