"""What makes one doubt that a clip is what it is taken for: joints in another order, a quaternion w x y z, other units.

A clip that is valid can still be misread. These checks compare it with what robots do: joints stay within their limits,
the root is upright most of the time, and the lower foot is near the ground.
"""

from __future__ import annotations

import numpy as np

from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.kinematics import forward_kinematics, joint_limits, rotation_from_quaternion

_BEYOND = 0.3  # rad past a limit; motion retargeted to the H1 turns its shoulders 0.2 rad past theirs
_OFTEN = 0.05  # of the frames
_UPRIGHT = 0.5  # the vertical part of the root's upward axis, as a mean over a clip
_LEAST_UPRIGHT = 0.2  # in LAFAN1 a clip of falls has 0.6
_FLOOR, _CEILING = -0.15, 0.35  # m, of the lower foot, in the median frame
_FRAMES = 500  # that are looked at


def find_doubts(clip: Clip) -> list[str]:
    """One sentence for each thing that is unlikely; none of an ordinary clip."""
    robot = clip.robot
    poses = clip.qpos[:: max(1, len(clip) // _FRAMES)]
    doubts = []
    low, high = joint_limits(robot).T
    beyond = ((poses[:, 7:] < low - _BEYOND) | (poses[:, 7:] > high + _BEYOND)).mean(0)
    if (beyond > _OFTEN).any():
        worst = int(beyond.argmax())
        doubts.append(
            f"{robot.columns[7 + worst]} is beyond its limits in {100 * beyond[worst]:.0f} % of the frames; are the "
            f"joints in the order of the {robot.name}?"
        )
    upright = _upright(poses[:, 3:7])
    if upright < _LEAST_UPRIGHT and _upright(poses[:, [4, 5, 6, 3]]) > _UPRIGHT:
        doubts.append("the robot lies on its side, and stands if its quaternion is read as w x y z; expected x y z w")
    feet = forward_kinematics(poses, robot)
    lower = float(np.median(np.minimum(*(feet.position(foot)[:, 2] for foot in robot.feet))))
    if not _FLOOR < lower < _CEILING:
        doubts.append(f"the lower foot is {lower:.2f} m above the ground; is the root's height in metres?")
    return doubts


def _upright(quaternions: np.ndarray) -> float:
    return float(rotation_from_quaternion(quaternions)[:, 2, 2].mean())
