"""Where a pose puts a robot's points in space, and the algebra of rotations.

A pose is a row of numbers, called ``qpos`` here and laid out as in the files of the LAFAN1 retargeting data set: root
position x y z (m), root orientation as a quaternion x y z w, then the joint angles (rad) in the order of the robot's
table: 26 numbers for the Unitree H1, 36 for the G1. MuJoCo's own qpos differs in one thing: its quaternion is w x y z.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from daps_tokenizer.config import Joint, Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.robots import H1

_UPRIGHT = (0.0, 0.0, 0.0, 1.0)
_ALIKE = 2e-3  # metres and radians: what one side of a robot differs by from the other's mirror image


@dataclass(frozen=True)
class Poses:
    """Where the sites of a robot are, in its table's order: positions (..., sites, 3) in metres and rotation matrices
    (..., sites, 3, 3), site to world."""

    positions: np.ndarray
    rotations: np.ndarray
    names: tuple[str, ...]

    def position(self, site: str) -> np.ndarray:
        """Of one site, (..., 3)."""
        chosen: np.ndarray = self.positions[..., self.names.index(site), :]
        return chosen


def forward_kinematics(qpos: np.ndarray, robot: Robot = H1) -> Poses:
    """Where a pose puts the sites.

    Args:
        qpos: (..., 7 + joints), see above; quaternions need not be normalised.
        robot: whose.

    Returns:
        Positions and rotations in the world, float64.
    """
    rotations, positions = link_frames(qpos, robot)
    places = [positions[site.link + 1] + _offset(rotations[site.link + 1], site.position) for site in robot.sites]
    turned = [rotations[site.link + 1] for site in robot.sites]
    return Poses(np.stack(places, -2), np.stack(turned, -3), robot.site_names)


def link_frames(qpos: np.ndarray, robot: Robot) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rotation matrices (..., 3, 3) and positions (..., 3) of the root and of each joint's link, link to world."""
    qpos = np.asarray(qpos, np.float64)
    rotations, positions = [rotation_from_quaternion(qpos[..., 3:7])], [qpos[..., :3]]
    for number, joint in enumerate(robot.joints):
        carrier = rotations[joint.parent + 1]
        positions.append(positions[joint.parent + 1] + _offset(carrier, joint.position))
        if joint.mounting != _UPRIGHT:
            carrier = carrier @ rotation_from_quaternion(np.array(joint.mounting))
        rotations.append(_turned(carrier, joint.axis, qpos[..., 7 + number]))
    return rotations, positions


def _offset(rotation: np.ndarray, place: tuple[float, ...]) -> np.ndarray:
    """``rotation @ place`` of rotations (..., 3, 3), in half the time."""
    turned: np.ndarray = np.einsum("...ij,j->...i", rotation, np.array(place))
    return turned


def _turned(rotation: np.ndarray, axis: tuple[float, ...], angle: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) followed by a turn about an axis of their own frame."""
    if sorted(map(abs, axis)) != [0.0, 0.0, 1.0]:
        half = np.asarray(angle)[..., None] / 2
        turn = np.concatenate([np.sin(half) * np.array(axis), np.cos(half)], -1)
        return rotation @ rotation_from_quaternion(turn)
    # About x, y or z only two columns change.
    number = int(np.argmax(np.abs(axis)))
    cosine, sine = np.cos(angle)[..., None], axis[number] * np.sin(angle)[..., None]
    first, second = (number + 1) % 3, (number + 2) % 3
    turned = np.empty_like(rotation)
    turned[..., number] = rotation[..., number]
    turned[..., first] = cosine * rotation[..., first] + sine * rotation[..., second]
    turned[..., second] = cosine * rotation[..., second] - sine * rotation[..., first]
    return turned


def rotation_about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about x, y or z (0, 1, 2) by angles (...) in radians."""
    angle = np.asarray(angle, np.float64)
    matrix = np.zeros((*angle.shape, 3, 3))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first] = np.sin(angle)
    matrix[..., first, second] = -matrix[..., second, first]
    return matrix


def rotation_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) x y z w of any length but zero."""
    quaternion = np.asarray(quaternion, np.float64)
    x, y, z, w = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) turned by quaternions (..., 4) x y z w."""
    turned: np.ndarray = np.einsum("...ij,...j->...i", rotation_from_quaternion(quaternion), vector)
    return turned


def multiply_quaternions(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Hamilton product of quaternions (..., 4) x y z w: first ``right``, then ``left``."""
    a, b = left[..., :3], right[..., :3]
    vector = left[..., 3:] * b + right[..., 3:] * a + np.cross(a, b)
    scalar = left[..., 3:] * right[..., 3:] - (a * b).sum(-1, keepdims=True)
    return np.concatenate([vector, scalar], -1)


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) x y z w with w at least 0 of rotation matrices (..., 3, 3)."""
    # The eigenvector of the largest eigenvalue (Bar-Itzhack, 2000): no case is special.
    r = np.asarray(rotation, np.float64)
    matrix = np.empty((*r.shape[:-2], 4, 4))
    matrix[..., :3, :3] = r + r.swapaxes(-1, -2)
    trace = np.trace(r, axis1=-2, axis2=-1)
    matrix[..., range(3), range(3)] -= trace[..., None]
    skew = (r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1])
    for number, value in enumerate(skew):
        matrix[..., number, 3] = matrix[..., 3, number] = value
    matrix[..., 3, 3] = trace
    quaternion = np.linalg.eigh(matrix).eigenvectors[..., -1]
    positive: np.ndarray = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    return positive


def quaternion_from_euler(angles: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) x y z w of turns (..., 3) in radians about the fixed axes x, then y, then z."""
    half = np.asarray(angles, np.float64)[..., None] / 2
    x, y, z = (np.sin(half[..., n, :]) * np.eye(4)[n] + np.cos(half[..., n, :]) * np.eye(4)[3] for n in range(3))
    return multiply_quaternions(z, multiply_quaternions(y, x))


def euler_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Turns (..., 3) in radians about the fixed axes x, then y, then z, of quaternions (..., 4) x y z w."""
    r = rotation_from_quaternion(quaternion)
    about_y = np.arcsin(np.clip(-r[..., 2, 0], -1.0, 1.0))
    return np.stack([np.arctan2(r[..., 2, 1], r[..., 2, 2]), about_y, np.arctan2(r[..., 1, 0], r[..., 0, 0])], -1)


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Axis times angle, (..., 3) in radians with angles up to π, of unit quaternions (..., 4) x y z w."""
    quaternion = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., :3], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., 3:])
    # For small angles, angle / sine tends to 2 / w.
    small = sine < 1e-9
    scale = np.where(small, 2.0 / np.where(small, quaternion[..., 3:], 1.0), angle / np.where(small, 1.0, sine))
    scaled: np.ndarray = quaternion[..., :3] * scale
    return scaled


def split_heading(quaternion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut an orientation into a turn about the vertical and the tilt that is left: q = heading · tilt.

    Args:
        quaternion: (..., 4) x y z w, unit length.

    Returns:
        The heading (...) in radians between −π and π, and the tilt (..., 4), whose z is 0 and whose w is at least 0.
        Both are smooth as long as the robot is not upside down (in LAFAN1 it tilts up to 142 degrees).
    """
    x, y, z, w = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    heading = 2 * np.arctan2(z, w)
    heading = (heading + np.pi) % (2 * np.pi) - np.pi
    turn = heading_quaternion(-heading)
    tilt = multiply_quaternions(turn, np.stack([x, y, z, w], -1))
    tilt = np.where(tilt[..., 3:] < 0, -tilt, tilt)
    tilt[..., 2] = 0.0
    return heading, tilt


def heading_quaternion(heading: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) x y z w that turn about the vertical by angles (...) in radians."""
    heading = np.asarray(heading, np.float64)
    zero = np.zeros_like(heading)
    return np.stack([zero, zero, np.sin(heading / 2), np.cos(heading / 2)], -1)


@dataclass(frozen=True)
class Mirror:
    """What an exchange of left and right does: joint ``i`` gets ``signs[i]`` times the angle of ``joints[i]``."""

    joints: np.ndarray
    signs: np.ndarray


@functools.cache
def mirror_of(robot: Robot) -> Mirror | None:
    """How a robot is mirrored in the plane y = 0, or None if its two sides are not alike (to 2 mm).

    Joints and sites named ``left...`` and ``right...`` exchange places; all others stay.
    """
    others = [other_side(name) for name in robot.joint_names]
    places = [other_side(site.name) for site in robot.sites]
    if not (set(others) <= set(robot.joint_names) and set(places) <= set(robot.site_names)):
        return None
    partners = [robot.joint_names.index(name) for name in others]
    # Axes of rotation turn around in x and z, because the sense of rotation does too.
    signs = [
        float(np.dot(robot.joints[j].axis, _axis_in_mirror(joint)))
        for j, joint in zip(partners, robot.joints, strict=True)
    ]
    if max(abs(abs(sign) - 1) for sign in signs) > _ALIKE:
        return None
    mirror = Mirror(np.array(partners), np.sign(signs))
    random = np.random.default_rng(0)
    poses = np.concatenate([np.zeros((8, 6)), np.ones((8, 1)), random.uniform(-1, 1, (8, len(partners)))], 1)
    seen = poses.copy()
    seen[:, 7:] = poses[:, 7 + mirror.joints] * mirror.signs
    ours, image = forward_kinematics(poses, robot), forward_kinematics(seen, robot)
    for name, place in zip(robot.site_names, places, strict=True):
        if np.abs(image.position(place) - ours.position(name) * (1, -1, 1)).max() > _ALIKE:
            return None
    return mirror


def _axis_in_mirror(joint: Joint) -> tuple[float, float, float]:
    x, y, z = joint.axis
    return -x, y, -z


def other_side(name: str) -> str:
    """The name of the same part on the other side of a robot: ``left_knee`` of ``right_knee``."""
    for side, other in (("left", "right"), ("right", "left")):
        if name.startswith(side):
            return name.replace(side, other, 1)
    return name


def mirrored(qpos: np.ndarray, robot: Robot = H1) -> np.ndarray:
    """The same motion with left and right exchanged: poses (T, 7 + joints) reflected in the plane y = 0.

    Raises:
        InputError: of a robot whose sides are not alike.
    """
    mirror = mirror_of(robot)
    if mirror is None:
        raise InputError(f"the robot {robot.name} is not the same on its left and right, so it has no mirror image")
    qpos = np.asarray(qpos, np.float64)
    root = qpos[:, :7] * (1, -1, 1, -1, 1, -1, 1)
    return np.concatenate([root, qpos[:, 7 + mirror.joints] * mirror.signs], axis=1)


def joint_limits(robot: Robot) -> np.ndarray:
    """The smallest and the largest angle of each joint, (joints, 2) in radians."""
    return np.array([joint.limits for joint in robot.joints])


def clip_to_limits(angles: np.ndarray, robot: Robot = H1) -> np.ndarray:
    """Joint angles (..., joints) in radians, each within its limits."""
    clipped: np.ndarray = np.clip(angles, *joint_limits(robot).T)
    return clipped
