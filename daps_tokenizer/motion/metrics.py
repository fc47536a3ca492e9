"""How close a reconstructed motion is to the original, and how natural: one value per clip.

NumPy alone, and functions of arrays alone, as in :mod:`daps_tokenizer.evaluation.metrics`.
"""

from __future__ import annotations

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.motion.kinematics import forward_kinematics
from daps_tokenizer.motion.robots import H1

# A foot stands where it is this low and, in the original, this slow. The sites of feet that stand are 1 to 4 cm above
# the ground in LAFAN1.
_CONTACT_HEIGHT = 0.08  # m
_CONTACT_SPEED = 0.15  # m/s, along the ground
_CM, _DEGREES = 100.0, 180.0 / np.pi


def motion_metrics(
    original: np.ndarray, reconstruction: np.ndarray, *, fps: float, robot: Robot = H1
) -> dict[str, np.ndarray]:
    """Compare clips with their reconstructions.

    Args:
        original, reconstruction: (B, T, 7 + joints) poses, T at least 2.
        fps: frames per second.
        robot: whose poses.

    Returns:
        (B,) float64 each:

        - ``joint_error``: mean absolute error of the joint angles, degrees.
        - ``root_error``: mean distance of the root from where it was, cm; grows with the length of a clip, as the path
          is added up from velocities.
        - ``site_error``: mean distance of the sites from where they were relative to the root, world axes, cm.
        - ``foot_sliding``: mean speed along the ground of feet that stand in the original, cm/s; 0 where none stands.
        - ``jerk``: mean size of the third derivative of the positions of the sites, m/s³; NaN of fewer
          than 4 frames, which have none.
        - ``foot_sliding_original``, ``jerk_original``: the same of the original, which is what to compare them with.
    """
    shape = original.shape[:2]
    sites, decoded_sites = (
        forward_kinematics(clips.reshape(-1, clips.shape[-1]), robot).positions.reshape(*shape, len(robot.sites), 3)
        for clips in (original, reconstruction)
    )
    feet = [robot.site_names.index(foot) for foot in robot.feet]
    standing = feet_on_the_ground(sites[:, :, feet], fps=fps)
    offsets = (decoded_sites - reconstruction[:, :, None, :3]) - (sites - original[:, :, None, :3])
    return {
        "joint_error": _DEGREES * np.abs(reconstruction[..., 7:] - original[..., 7:]).mean((1, 2)),
        "root_error": _CM * np.linalg.norm(reconstruction[..., :3] - original[..., :3], axis=-1).mean(1),
        "site_error": _CM * np.linalg.norm(offsets, axis=-1).mean((1, 2)),
        "foot_sliding": _sliding(decoded_sites[:, :, feet], standing, fps),
        "jerk": _jerk(decoded_sites, fps),
        "foot_sliding_original": _sliding(sites[:, :, feet], standing, fps),
        "jerk_original": _jerk(sites, fps),
    }


def feet_on_the_ground(feet: np.ndarray, *, fps: float) -> np.ndarray:
    """Which feet stand, (B, T − 1, 2) bool for the left and the right between a frame and the next.

    Args:
        feet: positions (B, T, 2, 3) in metres.
        fps: frames per second.
    """
    low = np.maximum(feet[:, :-1, :, 2], feet[:, 1:, :, 2]) < _CONTACT_HEIGHT
    return low & (_ground_speed(feet, fps) < _CONTACT_SPEED)


def _ground_speed(feet: np.ndarray, fps: float) -> np.ndarray:
    """Of the feet along the ground, (B, T − 1, 2) m/s."""
    speed: np.ndarray = fps * np.linalg.norm(np.diff(feet[..., :2], axis=1), axis=-1)
    return speed


def _sliding(feet: np.ndarray, standing: np.ndarray, fps: float) -> np.ndarray:
    total = (_ground_speed(feet, fps) * standing).sum((1, 2))
    mean: np.ndarray = _CM * total / np.maximum(1, standing.sum((1, 2)))
    return mean


def _jerk(sites: np.ndarray, fps: float) -> np.ndarray:
    if sites.shape[1] < 4:
        return np.full(len(sites), np.nan)
    size: np.ndarray = np.linalg.norm(np.diff(sites, 3, axis=1) * fps**3, axis=-1).mean((1, 2))
    return size
