"""Feet that stand stay where they are: which feet do, and two corrections of decoded poses.

A foot that stands slides by the errors of the root's velocity and of the leg's joints. Both corrections move as much as
the decoded feet themselves stand, so nothing is stored for them:

- :func:`plant_feet`: the root moves along the ground so that standing feet do not, smoothly. It corrects the path.
- :func:`hold_feet`: each leg's joints move its foot to where it stood, by a smooth offset that is found for all frames
  together (footskate cleanup; Kovar, Schreiner and Gleicher, 2002). It corrects the legs, so it comes after the path.
"""

from __future__ import annotations

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.motion.kinematics import forward_kinematics, joint_limits, link_frames

# Chosen on 20 s of six training clips of the H1 and of the G1.
_LOW, _LOW_SOFT = 0.08, 0.02  # m: how high a foot that stands may be
_SLOW, _SLOW_SOFT = 0.8, 0.1  # m/s along the ground, smoothed: how fast
_SMOOTH, _SMOOTH_ROOT = 5, 9  # frames of a Hann window at 30 fps: of a foot's velocity, and of the root's correction
# What a foot's offset costs: in every frame, more in a frame where the foot does not stand, and for its change.
_ALWAYS, _IN_THE_AIR, _CHANGE = 0.001, 0.1, 0.03
_ROUNDS, _DAMPING = 2, 1e-3  # of inverse kinematics


def standing_weights(poses: np.ndarray, *, fps: float, robot: Robot) -> tuple[np.ndarray, np.ndarray]:
    """How surely each foot stands between a frame and the next, (T − 1, ..., 2) from 0 to 1, and how fast it moves
    along the ground, (T − 1, ..., 2, 2) m/s; of poses (T, ..., 7 + joints), time first."""
    feet = [robot.site_names.index(foot) for foot in robot.feet]
    places = forward_kinematics(poses, robot).positions[..., feet, :]
    velocity = np.diff(places[..., :2], axis=0) * fps
    height = np.maximum(places[:-1, ..., 2], places[1:, ..., 2])
    speed = np.linalg.norm(_smoothed(velocity, fps, _SMOOTH), axis=-1)
    return _below(height, _LOW, _LOW_SOFT) * _below(speed, _SLOW, _SLOW_SOFT), velocity


def plant_feet(poses: np.ndarray, *, fps: float, robot: Robot) -> np.ndarray:
    """Poses (..., T, 7 + joints) whose root moves smoothly along the ground so that feet that stand move less."""
    planted = np.moveaxis(poses, -2, 0).copy()
    weights, velocity = standing_weights(planted, fps=fps, robot=robot)
    total = weights.sum(-1, keepdims=True)
    mean = (weights[..., None] * velocity).sum(-2) / np.maximum(total, 1e-6)
    planted[1:, ..., :2] -= np.cumsum(_smoothed(np.minimum(total, 1.0) * mean, fps, _SMOOTH_ROOT), axis=0) / fps
    return np.moveaxis(planted, 0, -2)


def hold_feet(poses: np.ndarray, *, fps: float, robot: Robot) -> np.ndarray:
    """Poses (..., T, 7 + joints) whose legs keep feet that stand from sliding; the root stays where it is.

    Offsets e of a foot's place p minimise Σ w ‖Δp + Δe‖² + 0.03 ‖Δe‖² + (0.001 + 0.1 (1 − w)) ‖e‖², where w says how
    surely the foot stands. The joints between root and foot reach for p + e, within their limits.
    """
    held, (lowest, highest) = np.moveaxis(poses, -2, 0).copy(), joint_limits(robot).T
    weights, velocity = standing_weights(held, fps=fps, robot=robot)
    offsets = _offsets(weights, velocity / fps)
    offsets = np.concatenate([offsets, np.zeros_like(offsets[..., :1])], axis=-1)  # nothing along the vertical
    legs = [_leg(robot, foot) for foot in robot.feet]
    targets: list[np.ndarray] = []
    for _ in range(_ROUNDS):
        rotations, positions = link_frames(held, robot)
        for foot, leg in enumerate(legs):
            site = robot.sites[robot.site_names.index(robot.feet[foot])]
            place = positions[site.link + 1] + rotations[site.link + 1] @ np.array(site.position)
            if len(targets) == foot:
                targets.append(place + offsets[..., foot, :])
            axes = [rotations[joint + 1] @ np.array(robot.joints[joint].axis) for joint in leg]
            moves = [np.cross(axis, place - positions[joint + 1]) for axis, joint in zip(axes, leg, strict=True)]
            jacobian = np.stack(moves, axis=-1)  # (T, ..., 3, joints of the leg)
            square = jacobian @ jacobian.swapaxes(-1, -2) + _DAMPING * np.eye(3)
            step = jacobian.swapaxes(-1, -2) @ np.linalg.solve(square, (targets[foot] - place)[..., None])
            held[..., [7 + joint for joint in leg]] += step[..., 0]
        held[..., 7:] = np.clip(held[..., 7:], lowest, highest)
    return np.moveaxis(held, 0, -2)


def _offsets(weights: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How far each foot is moved along the ground, (T, ..., 2, 2) in m, by weights (T − 1, ..., 2) and steps."""
    before, after = _with_ends(weights)
    diagonal = _ALWAYS + _IN_THE_AIR * (1 - np.maximum(before, after))
    pull = weights + _CHANGE
    diagonal[:-1] += pull
    diagonal[1:] += pull
    before, after = _with_ends(weights[..., None] * steps)
    offsets = after - before
    # A tridiagonal system for each foot: elimination forwards, substitution backwards.
    for t in range(1, len(offsets)):
        share = pull[t - 1] / diagonal[t - 1]
        diagonal[t] -= share * pull[t - 1]
        offsets[t] += share[..., None] * offsets[t - 1]
    offsets[-1] /= diagonal[-1][..., None]
    for t in range(len(offsets) - 2, -1, -1):
        offsets[t] = (offsets[t] + pull[t][..., None] * offsets[t + 1]) / diagonal[t][..., None]
    return offsets


def _with_ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of values (T − 1, ...) between frames the one before each frame and the one after it, (T, ...); 0 at the ends."""
    nothing = np.zeros_like(values[:1])
    return np.concatenate([nothing, values]), np.concatenate([values, nothing])


def _leg(robot: Robot, foot: str) -> list[int]:
    """The joints that carry a foot, from the root down."""
    joint, joints = robot.sites[robot.site_names.index(foot)].link, []
    while joint >= 0:
        joints.append(joint)
        joint = robot.joints[joint].parent
    return joints[::-1]


def _smoothed(values: np.ndarray, fps: float, frames: int) -> np.ndarray:
    """(T, ...) by a Hann window over time, ``frames`` long at 30 fps."""
    reach = max(1, round(frames * fps / 30 / 2))
    window = np.hanning(2 * reach + 3)[1:-1]
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    slices = [padded[start : start + len(values)] * weight for start, weight in enumerate(window / window.sum())]
    total: np.ndarray = np.sum(slices, axis=0)
    return total


def _below(values: np.ndarray, limit: float, soft: float) -> np.ndarray:
    """1 far below a limit, 0 far above it."""
    shares: np.ndarray = 1 / (1 + np.exp(np.clip((values - limit) / soft, -50, 50)))
    return shares
