"""Scores of motion for a search: what :class:`~daps_tokenizer.BestOf` and :class:`~daps_tokenizer.LocalSearch` raise.

Each function makes a score for one model; a score looks at the decoded features of windows and returns one number for
each, higher is better. :func:`together` adds scores up. ``log_q_weight=`` of a search says how much log q(z|x) counts
too, which keeps the motion close to what the model has learned.

>>> tok.encode("walk.csv", search=LocalSearch(proposals=4, score=speed(tok, 1.0), log_q_weight=0.001))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from daps_tokenizer.backends.protocol import Decoded
from daps_tokenizer.config import MotionConfig, TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.motion.features import to_qpos
from daps_tokenizer.motion.feet import standing_weights
from daps_tokenizer.motion.robots import robot_of

Score = Callable[[np.ndarray, Decoded, np.ndarray], np.ndarray]  # inputs, what codes decode to, codes
_CM = 100.0


class HasConfig(Protocol):
    """A tokenizer, or anything else that has its config."""

    @property
    def config(self) -> TokenizerConfig:
        """Of a motion model."""


def speed(tokenizer: HasConfig, goal: float) -> Score:
    """How near the mean forward speed of the root is to a goal in m/s: minus the distance."""
    columns = _columns(tokenizer, "root_velocity_x")
    return lambda features, decoded, codes: -np.abs(decoded.reconstruction[..., columns[0]].mean(1) - goal)


def turning(tokenizer: HasConfig, goal: float) -> Score:
    """How near the mean rate of turning is to a goal in rad/s, to the left if positive: minus the distance."""
    columns = _columns(tokenizer, "root_angular_velocity_z")
    return lambda features, decoded, codes: -np.abs(decoded.reconstruction[..., columns[0]].mean(1) - goal)


def still_feet(tokenizer: HasConfig) -> Score:
    """Minus the mean speed along the ground of feet that stand, in cm/s, as decoded and before feet are planted."""
    motion, robot = _motion(tokenizer), robot_of(tokenizer.config)

    def score(features: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        found = []
        for poses in to_qpos(decoded.reconstruction, fps=motion.fps, robot=robot):
            weights, velocity = standing_weights(poses, fps=motion.fps, robot=robot)
            slip = (weights * np.linalg.norm(velocity, axis=-1)).sum() / max(weights.sum(), 1e-6)
            found.append(-_CM * slip)
        return np.array(found)

    return score


def away_from(tokenizer: HasConfig, point: tuple[float, float], radius: float) -> Score:
    """Minus how deep the root's path enters a circle on the ground, in m, at its deepest.

    ``point`` is (forward, left) of where the window begins, in metres, and ``radius`` in metres.
    """
    motion, robot = _motion(tokenizer), robot_of(tokenizer.config)

    def score(features: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        path = to_qpos(decoded.reconstruction, fps=motion.fps, robot=robot)[..., :2]
        nearest = np.linalg.norm(path - np.array(point), axis=-1).min(1)
        entered: np.ndarray = -np.maximum(0.0, radius - nearest)
        return entered

    return score


def together(*scores: tuple[float, Score]) -> Score:
    """The sum of scores, each with its weight: ``together((1.0, speed(tok, 1.0)), (0.05, still_feet(tok)))``."""

    def score(features: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        total: np.ndarray = sum(weight * each(features, decoded, codes) for weight, each in scores)  # type: ignore[assignment]
        return total

    return score


def _motion(tokenizer: HasConfig) -> MotionConfig:
    motion = tokenizer.config.motion
    if motion is None:
        raise ConfigError(f"{tokenizer.config.name}: is no motion model, so it has no scores of motion")
    return motion


def _columns(tokenizer: HasConfig, *names: str) -> list[int]:
    return [_motion(tokenizer).feature_names.index(name) for name in names]
