"""Real clips where they are, and poses made up to test with."""

import numpy as np
import pytest

from daps_tokenizer.config import Robot
from daps_tokenizer.motion.kinematics import heading_quaternion, joint_limits, multiply_quaternions
from daps_tokenizer.motion.robots import H1
from tests.paths import DATA

LAFAN = DATA / "lafan1_h1.npz"
needs_lafan = pytest.mark.skipif(
    not LAFAN.is_file(), reason="lafan1_h1.npz is neither in $DAPS_DATA nor ../shared/data"
)


def random_poses(count: int, seed: int = 0, robot: Robot = H1) -> np.ndarray:
    """(count, 7 + joints): anywhere, turned anyhow, joints anywhere within their limits."""
    rng = np.random.default_rng(seed)
    quaternions = rng.standard_normal((count, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    angles = rng.uniform(*joint_limits(robot).T, (count, len(robot.joints)))
    return np.concatenate([rng.uniform(-2, 2, (count, 3)), quaternions, angles], axis=1)


def smooth_motion(frames: int, seed: int = 0, robot: Robot = H1) -> np.ndarray:
    """(frames, 7 + joints): a robot that walks a curve, sways and swings its joints."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames) / 30.0
    heading = 2.5 + 1.5 * time + 0.3 * np.sin(3 * time)  # turns past ±π
    sway = 0.2 * np.sin(2 * time)
    poses = np.zeros((frames, robot.pose_size))
    poses[:, 0], poses[:, 1] = np.cumsum([np.cos(heading), np.sin(heading)], axis=1) / 30.0
    poses[:, 2] = 1.0 + 0.03 * np.sin(8 * time)
    tilt = np.stack([0.8 * np.sin(sway), 0.6 * np.sin(2 * sway), np.zeros(frames), np.ones(frames)], axis=1)
    tilt /= np.linalg.norm(tilt, axis=1, keepdims=True)
    poses[:, 3:7] = multiply_quaternions(heading_quaternion(heading), tilt)
    joints = len(robot.joints)
    swing = np.sin(np.outer(time, rng.uniform(1, 6, joints)) + rng.uniform(0, 6, joints))
    middle, reach = joint_limits(robot).mean(1), np.diff(joint_limits(robot))[:, 0] / 2
    poses[:, 7:] = middle + 0.5 * reach * swing
    return poses
