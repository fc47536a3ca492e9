"""The Unitree H1 as a table: where its joints are, how far they turn, and where a pose puts them in space.

Lengths, axes, limits and sites are those of the MJCF model that Unitree and LocoMuJoCo publish under the BSD-3-Clause
licence (``h1_kinematics.xml``). One limit is Unitree's URDF's: hip pitch reaches from −3.14 to 2.53 there, ±1.57 in the
MJCF, and motions retargeted to the H1 use the former.

A pose is a row of 26 numbers, called ``qpos`` here and laid out as in the files of the LAFAN1 retargeting data set:
root position x y z (m), root orientation as a quaternion x y z w, then 19 joint angles (rad) in the order of
:data:`JOINT_NAMES`. MuJoCo's own qpos differs in one thing: its quaternion is w x y z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QPOS_SIZE = 26
STANDING_HEIGHT = 1.045  # m, of the root with straight legs: the MJCF's pelvis


@dataclass(frozen=True)
class Link:
    """A body that one joint turns.

    Args:
        name: the joint's name without ``_joint``.
        parent: the index of the link that carries it, −1 for the pelvis.
        position: of the joint in its parent's frame, in metres.
        axis: 0, 1 or 2: x, y or z.
        limits: the smallest and the largest angle, in radians.
        twist: angle in radians about x that the link is mounted at.
    """

    name: str
    parent: int
    position: tuple[float, float, float]
    axis: int
    limits: tuple[float, float]
    twist: float = 0.0


# The MJCF's quaternion (0.976296, ±0.216438, 0, 0) of the shoulders.
_SHOULDER = 2 * float(np.arctan2(0.216438, 0.976296))

LINKS = (
    Link("left_hip_yaw", -1, (0.0, 0.0875, -0.1742), 2, (-0.43, 0.43)),
    Link("left_hip_roll", 0, (0.039468, 0.0, 0.0), 0, (-0.43, 0.43)),
    Link("left_hip_pitch", 1, (0.0, 0.11536, 0.0), 1, (-3.14, 2.53)),
    Link("left_knee", 2, (0.0, 0.0, -0.4), 1, (-0.26, 2.05)),
    Link("left_ankle", 3, (0.0, 0.0, -0.4), 1, (-0.87, 0.52)),
    Link("right_hip_yaw", -1, (0.0, -0.0875, -0.1742), 2, (-0.43, 0.43)),
    Link("right_hip_roll", 5, (0.039468, 0.0, 0.0), 0, (-0.43, 0.43)),
    Link("right_hip_pitch", 6, (0.0, -0.11536, 0.0), 1, (-3.14, 2.53)),
    Link("right_knee", 7, (0.0, 0.0, -0.4), 1, (-0.26, 2.05)),
    Link("right_ankle", 8, (0.0, 0.0, -0.4), 1, (-0.87, 0.52)),
    Link("torso", -1, (0.0, 0.0, 0.0), 2, (-2.35, 2.35)),
    Link("left_shoulder_pitch", 10, (0.0055, 0.15535, 0.42999), 1, (-2.87, 2.87), twist=_SHOULDER),
    Link("left_shoulder_roll", 11, (-0.0055, 0.0565, -0.0165), 0, (-0.34, 3.11), twist=-_SHOULDER),
    Link("left_shoulder_yaw", 12, (0.0, 0.0, -0.1343), 2, (-1.3, 4.45)),
    Link("left_elbow", 13, (0.0185, 0.0, -0.198), 1, (-1.25, 2.61)),
    Link("right_shoulder_pitch", 10, (0.0055, -0.15535, 0.42999), 1, (-2.87, 2.87), twist=-_SHOULDER),
    Link("right_shoulder_roll", 15, (-0.0055, -0.0565, -0.0165), 0, (-3.11, 0.34), twist=_SHOULDER),
    Link("right_shoulder_yaw", 16, (0.0, 0.0, -0.1343), 2, (-4.45, 1.3)),
    Link("right_elbow", 17, (0.0185, 0.0, -0.198), 1, (-1.25, 2.61)),
)

JOINT_NAMES = tuple(link.name for link in LINKS)
_OTHER_SIDE = {
    name: other.join(name.split(side, 1))
    for name in JOINT_NAMES
    for side, other in (("left", "right"), ("right", "left"))
    if name.startswith(side)
}
JOINT_LIMITS = np.array([link.limits for link in LINKS])
JOINT_LIMITS.flags.writeable = False

# Points on the robot: the link each is fixed to (-1: the pelvis) and its place in that link's frame, in metres.
SITES: dict[str, tuple[int, tuple[float, float, float]]] = {
    "pelvis": (-1, (0.0, 0.0, 0.0)),
    "left_hip": (0, (0.05, 0.0, 0.0)),
    "left_knee": (3, (0.0, 0.0, 0.0)),
    "left_foot": (4, (0.075, 0.0, -0.05)),
    "right_hip": (5, (0.05, 0.0, 0.0)),
    "right_knee": (8, (0.0, 0.0, 0.0)),
    "right_foot": (9, (0.075, 0.0, -0.05)),
    "upper_body": (10, (0.05, 0.0, 0.3)),
    "head": (10, (0.0, 0.0, 0.6)),
    "left_shoulder": (12, (0.0, 0.0, 0.0)),
    "left_elbow": (14, (0.0, 0.0, 0.0)),
    "left_hand": (14, (0.3, 0.0, 0.0)),
    "right_shoulder": (16, (0.0, 0.0, 0.0)),
    "right_elbow": (18, (0.0, 0.0, 0.0)),
    "right_hand": (18, (0.3, 0.0, 0.0)),
}
SITE_NAMES = tuple(SITES)

# The lines of a stick figure, as pairs of sites.
BONES = (
    ("pelvis", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_foot"),
    ("pelvis", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_foot"),
    ("pelvis", "upper_body"),
    ("upper_body", "head"),
    ("upper_body", "left_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_hand"),
    ("upper_body", "right_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_hand"),
)


@dataclass(frozen=True)
class Poses:
    """Where the sites are, in the order of :data:`SITE_NAMES`: positions (..., 15, 3) in metres and rotation matrices
    (..., 15, 3, 3), site to world."""

    positions: np.ndarray
    rotations: np.ndarray

    def position(self, site: str) -> np.ndarray:
        """Of one site, (..., 3)."""
        chosen: np.ndarray = self.positions[..., SITE_NAMES.index(site), :]
        return chosen


def forward_kinematics(qpos: np.ndarray) -> Poses:
    """Where a pose puts the sites.

    Args:
        qpos: (..., 26), see above; quaternions need not be normalised.

    Returns:
        Positions and rotations in the world, float64.
    """
    qpos = np.asarray(qpos, np.float64)
    root = rotation_from_quaternion(qpos[..., 3:7])
    rotations, positions = [root], [qpos[..., :3]]  # of the pelvis, then of each link
    for number, link in enumerate(LINKS):
        carrier = rotations[link.parent + 1]
        positions.append(positions[link.parent + 1] + _offset(carrier, link.position))
        mounted = _turned(carrier, 0, np.array(link.twist)) if link.twist else carrier
        rotations.append(_turned(mounted, link.axis, qpos[..., 7 + number]))
    places = [positions[link + 1] + _offset(rotations[link + 1], place) for link, place in SITES.values()]
    return Poses(np.stack(places, -2), np.stack([rotations[link + 1] for link, _ in SITES.values()], -3))


def _offset(rotation: np.ndarray, place: tuple[float, float, float]) -> np.ndarray:
    """``rotation @ place`` of rotations (..., 3, 3), in half the time."""
    turned: np.ndarray = np.einsum("...ij,j->...i", rotation, np.array(place))
    return turned


def _turned(rotation: np.ndarray, axis: int, angle: np.ndarray) -> np.ndarray:
    """``rotation @ rotation_about(axis, angle)`` of rotations (..., 3, 3): only two columns change, by products."""
    cosine, sine = np.cos(angle)[..., None], np.sin(angle)[..., None]
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turned = np.empty_like(rotation)
    turned[..., axis] = rotation[..., axis]
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


def multiply_quaternions(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Hamilton product of quaternions (..., 4) x y z w: first ``right``, then ``left``."""
    a, b = left[..., :3], right[..., :3]
    vector = left[..., 3:] * b + right[..., 3:] * a + np.cross(a, b)
    scalar = left[..., 3:] * right[..., 3:] - (a * b).sum(-1, keepdims=True)
    return np.concatenate([vector, scalar], -1)


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


def mirrored(qpos: np.ndarray) -> np.ndarray:
    """The same motion with left and right exchanged: poses (T, 26) reflected in the plane y = 0."""
    qpos = np.asarray(qpos, np.float64)
    joints = [_OTHER_SIDE.get(name, name) for name in JOINT_NAMES]
    # Turns about y look the same in the mirror, those about x and z are reversed.
    signs = np.array([1.0 if link.axis == 1 else -1.0 for link in LINKS])
    places = [7 + JOINT_NAMES.index(name) for name in joints]
    root = qpos[:, :7] * (1, -1, 1, -1, 1, -1, 1)
    return np.concatenate([root, qpos[:, places] * signs], axis=1)


def clip_to_limits(angles: np.ndarray) -> np.ndarray:
    """Joint angles (..., 19) in radians, each within its limits."""
    clipped: np.ndarray = np.clip(angles, JOINT_LIMITS[:, 0], JOINT_LIMITS[:, 1])
    return clipped
