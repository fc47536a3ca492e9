"""The path of the root over a long clip: anchors end the drift.

A path is decoded as velocities, whose errors add up. Anchors say where the root was and which way it faced at the end
of every window, in whole centimetres and half degrees from the anchor before. They are part of a clip's layout, three
small integers a window; the path is bent to pass through them, most where no foot stands.
"""

from __future__ import annotations

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.motion.feet import standing_weights
from daps_tokenizer.motion.kinematics import (
    heading_quaternion,
    multiply_quaternions,
    rotation_about,
    split_heading,
)

ANCHOR_UNITS = (0.01, 0.01, np.pi / 360)  # metres, metres and radians
_ALWAYS = 0.05  # of an anchor's correction that frames with a standing foot take part in


def anchors_of(poses: np.ndarray, frames: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """Anchors of poses (T, 7 + joints) at some frames, each as steps from the one before, the first from frame 0."""
    places = _places(poses)
    found, last = [], places[0]
    for place in places[frames]:
        step = place - last
        step[2] = (step[2] + np.pi) % (2 * np.pi) - np.pi
        units = np.round(step / ANCHOR_UNITS)
        last = last + units * ANCHOR_UNITS  # as decoding adds them up: rounding does not
        found.append((int(units[0]), int(units[1]), int(units[2])))
    return tuple(found)


def follow_anchors(
    poses: np.ndarray, frames: np.ndarray, anchors: np.ndarray, *, fps: float, robot: Robot
) -> np.ndarray:
    """Poses (T, 7 + joints) bent so that the root passes through its anchors.

    Args:
        poses: that start where the original did.
        frames: of the anchors, rising.
        anchors: (anchors, 3) whole numbers, see :func:`anchors_of`.
        fps: frames per second.
        robot: whose poses.
    """
    places = _places(poses)
    targets = places[0] + np.cumsum(anchors * ANCHOR_UNITS, axis=0)
    knots = np.concatenate([[0], frames])
    off = targets[:, 2] - places[frames, 2]
    off = np.concatenate([[0.0], np.unwrap((off + np.pi) % (2 * np.pi) - np.pi)])
    turned = np.interp(np.arange(len(poses)), knots, off)
    bent = poses.copy()
    bent[:, 3:7] = multiply_quaternions(heading_quaternion(turned), poses[:, 3:7])
    steps = np.einsum("tij,tj->ti", rotation_about(2, turned[:-1])[:, :2, :2], np.diff(poses[:, :2], axis=0))
    bent[1:, :2] = poses[0, :2] + np.cumsum(steps, axis=0)
    weights, _ = standing_weights(bent, fps=fps, robot=robot)
    free = _ALWAYS + 1.0 - np.minimum(weights.sum(1), 1.0)
    done = np.concatenate([[0.0], np.cumsum(free)])  # how much of the correction each frame has had
    missing = np.concatenate([[[0.0, 0.0]], targets[:, :2] - bent[frames, :2]])
    for axis in range(2):
        bent[:, axis] += np.interp(done, done[knots], missing[:, axis])
    return bent


def _places(poses: np.ndarray) -> np.ndarray:
    """x, y and heading, continuous over time, (T, 3)."""
    heading, _ = split_heading(poses[:, 3:7])
    return np.column_stack([poses[:, :2], np.unwrap(heading)])
