"""Many robots that follow a reference: observations, rewards of DeepMimic's form, starts on the reference, early ends.

Everything is an array over robots; a robot that fell, or has come to its clip's end, starts anew at a random frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.studies.control.reference import Reference
from benchmarks.studies.control.robot import ACTIVE, CONTROL_FPS, JOINTS, Physics, split_states, states

AHEAD = (1, 5, 15)  # control steps: the reference's poses that a policy sees
HOLD = 5  # control steps that an action takes: a policy acts 10 times a second
_MOST_STEPS = int(10 * CONTROL_FPS)
LOCAL = 10  # numbers of a pelvis, see _local
STATE = 72  # numbers of what is seen of a robot
_NEAR = 0.5  # m: how much of a distance from the reference's path is observed
MOST_ACTION = 4.0
_SCALE = 0.15  # rad: what an action of 1 moves a servo target by
_BIN = int(CONTROL_FPS)  # frames whose starts are equally probable


Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class RewardWeights:
    """A reward is Σ weight · exp(−error² / scale²), less the change of actions; (weight, scale) each."""

    joints: tuple[float, float] = (0.25, 0.25)  # rad, root mean square
    bodies: tuple[float, float] = (0.25, 0.12)  # m, of key bodies in the pelvis's frame, root mean square
    tilt: tuple[float, float] = (0.15, 0.2)  # of the direction down in the pelvis's frame
    height: tuple[float, float] = (0.05, 0.08)  # m
    velocity: tuple[float, float] = (0.15, 0.5)  # m/s, of the pelvis in its heading frame
    turning: tuple[float, float] = (0.05, 1.5)  # rad/s
    path: tuple[float, float] = (0.1, 0.5)  # m and rad, distance from the reference's place and heading
    action_change: float = 0.03  # per squared action, mean over joints


class Step(NamedTuple):
    """A control step or an action of B robots. ``last``: observations (B, O) before those that ended started anew."""

    observation: np.ndarray
    reward: np.ndarray
    fell: np.ndarray
    ended: np.ndarray
    last: np.ndarray


class Tracking:
    """B robots, each on its own stretch of the reference.

    Actions (B, 15) correct legs and waist: servo target = reference angle of the next frame + 0.15 rad · correction.
    The correction goes from one action to the next in a straight line of 5 control steps. All other joints get the
    reference.

    Args:
        physics: that steps them.
        reference: what they follow.
        count: B.
        seed: of starts and their noise.
        weights: of the reward.
        noise: of starts, in parts of 0.05 rad and 0.5 rad/s.
        restart: whether robots that end start anew; without it they are left out by ``keep``.
        judged: what rewards and falls compare with, frame by frame, where it is not what the robots see.
    """

    def __init__(
        self,
        physics: Physics,
        reference: Reference,
        count: int,
        *,
        seed: int = 0,
        weights: RewardWeights = RewardWeights(),
        noise: float = 0.5,
        restart: bool = True,
        judged: Reference | None = None,
    ) -> None:
        self.physics, self.reference, self.count, self.weights, self.noise = physics, reference, count, weights, noise
        self.restart, self.judged = restart, judged or reference
        robot = physics.robot
        self._limits = robot.limits
        self._rng = np.random.default_rng(seed)
        ends = reference.clip_starts[1:]
        self.ends = np.repeat(ends, np.diff(reference.clip_starts))  # of each frame's clip
        frames = np.arange(len(reference))
        self._startable = frames[frames < self.ends - 2 * CONTROL_FPS]
        self._bins = self._startable // _BIN
        self._failures = np.full(len(reference) // _BIN + 1, 0.5)  # share of starts in a bin that fell, smoothed
        self._reference_local = _local(reference.qpos, reference.qvel)
        self.ahead = self._look_ahead()
        self._judged_local = _local(self.judged.qpos, self.judged.qvel)
        self.frame = np.zeros(count, np.int64)
        self.began = np.zeros(count, np.int64)
        self.state = np.zeros((count, robot.state_size))
        self.action, self.goal = np.zeros((count, ACTIVE)), np.zeros((count, ACTIVE))
        self._steps = 0
        self.torque = np.zeros((count, JOINTS))

    def reset(self, frames: np.ndarray | None = None) -> np.ndarray:
        """Start all robots, at these frames of the reference or at random ones; observations (B, O)."""
        self._start(np.arange(self.count), frames)
        self.began = self.frame - self._rng.integers(0, _MOST_STEPS, self.count) * (frames is None)
        return self.observe()

    def keep(self, places: np.ndarray) -> None:
        """Go on with these robots only (where no robot starts anew: ``restart=False``)."""
        self.count = len(places)
        for name in ("frame", "began", "state", "action", "goal", "torque"):
            setattr(self, name, getattr(self, name)[places])

    def _look_ahead(self) -> Tensor:
        """What observations have of the reference at each frame, (T, O - 87)."""
        reference, now = self.reference, np.arange(len(self.reference))
        parts = []
        for ahead in AHEAD:
            then = np.minimum(now + ahead, self.ends - 1)
            parts += [reference.qpos[then, 7:], self._reference_local[then]]
        parts += [0.1 * reference.qvel[:, 6:], self._reference_local]
        return torch.from_numpy(np.concatenate(parts, 1)).float()

    def observe(self) -> np.ndarray:
        """Observations (B, O) float32: the robot (72), its correction (15), and the reference near its frame."""
        qpos, qvel = split_states(self.state)
        place, heading = _distance(qpos, self.reference.qpos[self.frame])
        seen = (_local(qpos, qvel), qpos[:, 7:], 0.1 * qvel[:, 6:], np.clip(place, -_NEAR, _NEAR), heading)
        state, action = (torch.from_numpy(part).float() for part in (np.concatenate(seen, 1), self.action))
        return observation_of(state, action, self.ahead[self.frame]).numpy()

    def step(self, action: np.ndarray) -> Step:
        """One control step towards the last actions (B, 15); these are taken at every fifth step."""
        before, done = self.action, self._steps % HOLD
        if not done:
            self.goal = np.clip(action, -MOST_ACTION, MOST_ACTION).astype(np.float64)
        self.action = before + (self.goal - before) / (HOLD - done)
        self._steps += 1
        self.frame = self.frame + 1
        targets = self.reference.qpos[self.frame, 7:].copy()
        targets[:, :ACTIVE] += _SCALE * self.action
        self.state, sensors = self.physics.step(self.state, np.clip(targets, *self._limits.T))
        self.torque = sensors[:, -JOINTS:]
        reward, fell = self._judge(sensors[:, :-JOINTS])
        reward -= self.weights.action_change * np.square(self.action - before).mean(1)
        late = (self.frame - self.began >= _MOST_STEPS) | (self.frame + 1 >= self.ends[self.frame])
        ended = fell | late
        last = observation = self.observe()
        if self.restart and ended.any():
            places = np.flatnonzero(ended)
            self._count_falls(places, fell)
            self._start(places, None)
            observation = self.observe()
        return Step(observation, reward, fell, ended, last)

    def act(self, action: np.ndarray) -> Step:
        """Apply actions (B, 15) for 5 control steps; rewards are means over them, none after an end."""
        reward, fell, ended = np.zeros(self.count), np.zeros(self.count, bool), np.zeros(self.count, bool)
        last = np.empty(0)
        for number in range(HOLD):
            step = self.step(action)
            reward += step.reward * ~ended / HOLD
            last = np.where(ended[:, None], last, step.last) if number else step.last
            fell |= step.fell & ~ended
            ended |= step.ended
        return Step(step.observation, reward, fell, ended, last)

    def _judge(self, key_positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards (B,) and whether a robot has fallen or lost the reference (B,)."""
        qpos, qvel = split_states(self.state)
        reference, frame, weights = self.judged, self.frame, self.weights
        here, there = _local(qpos, qvel), self._judged_local[frame]
        place, heading = _distance(qpos, reference.qpos[frame])
        bodies = np.square(key_positions - reference.key_positions[frame]).sum(1) / (key_positions.shape[1] / 3)
        errors = tracking_errors(here, there, qpos[:, 7:] - reference.qpos[frame, 7:], place, heading)
        reward = sum(
            weight * np.exp(-error / scale**2)
            for name, error in (errors | {"bodies": bodies}).items()
            for weight, scale in [getattr(weights, name)]
        )
        height, tilt = here[:, 0] - there[:, 0], errors["tilt"]
        fell = (np.abs(height) > 0.25) | (tilt > 0.8**2) | (bodies > 0.35**2) | ~np.isfinite(reward)
        return np.nan_to_num(reward), fell

    def _start(self, places: np.ndarray, frames: np.ndarray | None) -> None:
        if frames is None:
            chance = self._failures[self._bins]
            chance = 0.5 / len(chance) + 0.5 * chance / chance.sum()
            frames = self._rng.choice(self._startable, len(places), p=chance / chance.sum())
        reference = self.reference
        qpos, qvel = reference.qpos[frames], reference.qvel[frames]
        qpos[:, 7:] += 0.05 * self.noise * self._rng.standard_normal((len(places), JOINTS))
        qpos[:, 7:] = np.clip(qpos[:, 7:], *self._limits.T)
        qvel += 0.5 * self.noise * self._rng.standard_normal(qvel.shape) * np.where(np.arange(35) < 6, 0.3, 1.0)
        self.state[places] = states(qpos, qvel)
        self.frame[places] = self.began[places] = frames
        self.action[places] = self.goal[places] = 0.0

    def _count_falls(self, places: np.ndarray, fell: np.ndarray) -> None:
        bins = self.frame[places] // _BIN
        rates = self._failures
        rates[bins] = 0.9 * rates[bins] + 0.1 * np.where(fell[places], 1.0, 0.0)


def observation_of(state: Tensor, action: Tensor, ahead: Tensor) -> Tensor:
    """Observations (B, O) of what is seen of robots (B, 72), their corrections (B, 15), and the reference (B, O - 87).

    The next pose of the reference and its pelvis now are seen as differences from the robot's.
    """
    joints, between, local = ahead.split([JOINTS, ahead.shape[1] - JOINTS - LOCAL, LOCAL], 1)
    here = state[:, :LOCAL]
    return torch.cat([state, action, joints - state[:, LOCAL : LOCAL + JOINTS], between, local - here], 1)


def tracking_errors(here: Array, there: Array, joints: Array, place: Array, heading: Array) -> dict[str, Array]:
    """Squared errors (B,) by their name in :class:`RewardWeights`; all but those of bodies.

    Args:
        here: height, direction down, velocity and angular velocity of robots' pelvises, (B, 10).
        there: those of the reference.
        joints: differences of angles (B, 29).
        place: from robots to the reference (B, 2).
        heading: the same, sine and 1 - cosine (B, 2).
    """
    off = (here - there) ** 2
    return {
        "joints": (joints**2).mean(1),
        "tilt": off[:, 1:4].sum(1),
        "height": off[:, 0],
        "velocity": off[:, 4:7].sum(1),
        "turning": off[:, 7:].sum(1),
        "path": (place**2).sum(1) + heading[:, 0] ** 2,
    }


def _local(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Height, direction down, velocity in the heading frame and angular velocity of pelvises: (B, 10)."""
    w, x, y, z = qpos[:, 3:7].T
    down = -np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z], 1)
    forward = np.stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)], 1)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True) + 1e-9
    along = (forward * qvel[:, :2]).sum(1)
    across = forward[:, 0] * qvel[:, 1] - forward[:, 1] * qvel[:, 0]
    return np.column_stack([qpos[:, 2], down, along, across, qvel[:, 2:6]])


def _distance(qpos: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From robots to the reference: place in the robot's heading frame (B, 2), and heading as sine and 1 − cosine."""
    heading, other = (
        np.arctan2(2 * (q[:, 4] * q[:, 5] + q[:, 3] * q[:, 6]), 1 - 2 * (q[:, 5] ** 2 + q[:, 6] ** 2))
        for q in (qpos, reference)
    )
    offset = reference[:, :2] - qpos[:, :2]
    c, s = np.cos(heading), np.sin(heading)
    place = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]], 1)
    turn = other - heading
    return place, np.stack([np.sin(turn), 1 - np.cos(turn)], 1)
