"""The features of a frame of motion, and the way back from features to a pose.

No feature depends on where the robot is or on which way it faces. The *heading frame* is the world turned about the
vertical so that it faces with the root (:func:`~daps_tokenizer.motion.kinematics.split_heading`).

====================  ======  ==========================================================================================
features              H1, G1  what
====================  ======  ==========================================================================================
root_height            1,  1  of the root, m
root_tilt              2,  2  x and y of the quaternion that is left of the root's orientation without its heading
foot_height            2,  2  of the left and the right foot, m
joint angles          19, 29  rad
root_velocity          3,  3  of the root in the heading frame, m/s
root_angular_velocity  3,  3  x and y in the heading frame; z is how fast the heading turns; rad/s
joint velocities      19,  0  rad/s
positions             42, 42  of all other sites from the centre's, in the heading frame, m
rotations             33,  0  of those sites against the centre: sin(angle) · axis, which does not jump as rotation
                              vectors do at half a turn. Those that are 0 in every pose are left out
gravity                3,  3  the direction down in the root's frame
====================  ======  ==========================================================================================

These are 127 of the H1 and 85 of the G1: its table leaves out joint velocities and rotations, which follow from the
joint angles and would take bits from these (``Robot.features``). The paper (section 4) has 127 features of the H1 too
but does not say which; its authors did not publish them. This composition counts as many, from the same sites as
LocoMuJoCo's mimic goals.

What a path is made of (root_velocity_x and _y, root_angular_velocity_z) are differences to the next frame, so that
adding them up gives the path back exactly; the last frame repeats the one before it. All other velocities are of
quantities that are features themselves, and are central differences.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import (
    Poses,
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    mirror_of,
    multiply_quaternions,
    other_side,
    rotation_about,
    rotation_from_quaternion,
    rotation_vector,
    split_heading,
)
from daps_tokenizer.motion.robots import H1

FPS = 30.0  # frames per second of LAFAN1, and of the built-in models

_HEIGHT = 0
_TILT = slice(1, 3)  # the group ``root`` comes first
_ALWAYS_ZERO = 1e-9


@dataclass(frozen=True)
class FeatureTable:
    """The features of a robot: their names in order, and where those lie that a pose is made of again.

    ``mirror_columns`` and ``mirror_signs``: feature ``i`` of the mirror image is ``mirror_signs[i]`` times feature
    ``mirror_columns[i]``; None of a robot whose sides are not alike.
    """

    names: tuple[str, ...]
    turning: tuple[int, ...]
    mirror_columns: np.ndarray | None
    mirror_signs: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)

    def columns(self, *names: str) -> list[int]:
        """The columns of features, by their names."""
        return [self.names.index(name) for name in names]


@functools.cache
def feature_table(robot: Robot = H1) -> FeatureTable:
    """The features that a robot has."""
    others = [name for name in robot.site_names if name != robot.centre]
    rotations = [f"{site}_rotation_{axis}" for site in others for axis in "xyz"]
    turning = _turning_columns(robot)
    joints = robot.joint_names
    groups = {
        "root": ["root_height", "root_tilt_x", "root_tilt_y"],
        "foot_heights": [f"{side}_foot_height" for side in ("left", "right")],
        "joints": joints,
        "root_velocity": [f"root_{kind}velocity_{axis}" for kind in ("", "angular_") for axis in "xyz"],
        "joint_velocities": [f"{joint}_velocity" for joint in joints],
        "positions": [f"{site}_position_{axis}" for site in others for axis in "xyz"],
        "rotations": [rotations[column] for column in turning],
        "gravity": [f"gravity_{axis}" for axis in "xyz"],
    }
    names = tuple(name for group in robot.features for name in groups[group])
    mirror = mirror_of(robot)
    if mirror is None:
        return FeatureTable(names, turning, None, None)
    joint_signs = dict(zip(joints, mirror.signs.tolist(), strict=True))
    columns = np.array([names.index(other_side(name)) for name in names])
    signs = np.array([_mirror_sign(name, joint_signs) for name in names], np.float32)
    return FeatureTable(names, turning, columns, signs)


def _turning_columns(robot: Robot) -> tuple[int, ...]:
    """Columns of rotations that are not 0 in every pose: those of sites that turn against the centre."""
    random = np.random.default_rng(0)
    poses = np.concatenate([np.zeros((8, 6)), np.ones((8, 1)), random.uniform(-1, 1, (8, len(robot.joints)))], axis=1)
    _, rotations = _relative_to_centre(forward_kinematics(poses, robot), robot)
    seen = np.abs(_sine_axis(rotations).reshape(len(poses), -1)).max(0)
    return tuple(np.flatnonzero(seen > _ALWAYS_ZERO).tolist())


def standing(robot: Robot = H1) -> np.ndarray:
    """The pose (7 + joints,) of a robot that stands at the origin, faces along x and has all joints at 0."""
    pose = np.zeros(robot.pose_size)
    pose[2], pose[6] = robot.height, 1.0
    return pose


def _relative_to_centre(poses: Poses, robot: Robot) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (..., sites − 1, 3) in the world and rotations (..., sites − 1, 3, 3) of all sites but the centre."""
    centre = robot.site_names.index(robot.centre)
    others = [number for number in range(len(robot.sites)) if number != centre]
    offsets = (poses.positions - poses.positions[..., centre, None, :])[..., others, :]
    return offsets, poses.rotations[..., centre, None, :, :].swapaxes(-1, -2) @ poses.rotations[..., others, :, :]


def compute_features(qpos: np.ndarray, *, fps: float, robot: Robot = H1) -> np.ndarray:
    """The features of clips.

    Args:
        qpos: (..., T, 7 + joints) poses, see :mod:`daps_tokenizer.motion.kinematics`; at least one.
        fps: frames per second.
        robot: whose poses.

    Returns:
        (..., T, F) float32, columns as in the robot's :func:`feature_table`.

    Raises:
        InputError: an array of another shape, no frames, or fps that are not positive.
    """
    qpos = _checked(qpos, robot.pose_size, "qpos", fps)
    orientation = qpos[..., 3:7] / np.linalg.norm(qpos[..., 3:7], axis=-1, keepdims=True)
    heading, tilt = split_heading(orientation)
    to_heading_frame = rotation_about(2, -heading)
    poses = forward_kinematics(qpos, robot)

    velocity = np.einsum("...ij,...j->...i", to_heading_frame, _to_next(qpos[..., :3], fps))
    velocity[..., 2:] = _central(qpos[..., 2:3], fps)
    turned = _to_next(np.unwrap(heading)[..., None], fps)
    offsets, relative = _relative_to_centre(poses, robot)
    positions = offsets @ to_heading_frame.swapaxes(-1, -2)

    turning = _angular_velocity(orientation, heading, fps)[..., :2]
    groups = {
        "root": [qpos[..., 2:3], tilt[..., :2]],
        "foot_heights": [poses.position(foot)[..., 2:] for foot in robot.feet],
        "joints": [qpos[..., 7:]],
        "root_velocity": [velocity, turning, turned],
        "joint_velocities": [_central(qpos[..., 7:], fps)],
        "positions": [positions.reshape(*heading.shape, -1)],
        "rotations": [_sine_axis(relative).reshape(*heading.shape, -1)[..., feature_table(robot).turning]],
        "gravity": [-rotation_from_quaternion(orientation)[..., 2, :]],
    }
    columns = [column for group in robot.features for column in groups[group]]
    return np.concatenate(columns, axis=-1).astype(np.float32)


def to_qpos(features: np.ndarray, *, fps: float, start: np.ndarray | None = None, robot: Robot = H1) -> np.ndarray:
    """The poses of clips: a path is the root's velocity and turning, added up from a start.

    Height, tilt and joint angles are features themselves; angles are kept within the joints' limits.

    Args:
        features: (..., T, F), in their own units.
        fps: frames per second.
        robot: whose features.
        start: poses (..., 7 + joints) whose place and heading the first frames get; the origin, facing along x, if
        None.

    Returns:
        (..., T, 7 + joints) float64.

    Raises:
        InputError: an array of another shape, no frames, or fps that are not positive.
    """
    table = feature_table(robot)
    features = _checked(features, len(table), "features", fps)
    velocities = table.columns(*(f"root_velocity_{axis}" for axis in "xyz"))
    turn_rate = table.columns("root_angular_velocity_z")
    first = standing(robot) if start is None else np.asarray(start)
    first = _checked(first[..., None, :], robot.pose_size, "start", fps)  # with an axis of frames
    first_heading, _ = split_heading(first[..., 3:7] / np.linalg.norm(first[..., 3:7], axis=-1, keepdims=True))
    heading = first_heading + _added_up(features[..., turn_rate] / fps)[..., 0]
    velocity = np.einsum("...ij,...j->...i", rotation_about(2, heading), features[..., velocities])

    tilt = np.zeros((*heading.shape, 4))
    tilt[..., :2] = features[..., _TILT]
    length = np.linalg.norm(tilt, axis=-1, keepdims=True)
    tilt /= np.maximum(length, 1.0)  # decoded features may overshoot by a little
    tilt[..., 3] = np.sqrt(np.maximum(0.0, 1.0 - (tilt * tilt).sum(-1)))

    qpos = np.empty((*heading.shape, robot.pose_size))
    qpos[..., :2] = first[..., :2] + _added_up(velocity[..., :2] / fps)
    qpos[..., 2] = features[..., _HEIGHT]
    qpos[..., 3:7] = multiply_quaternions(heading_quaternion(heading), tilt)
    qpos[..., 7:] = clip_to_limits(features[..., table.columns(*robot.joint_names)], robot)
    return qpos


def mirror_features(features: np.ndarray, robot: Robot = H1) -> np.ndarray:
    """Features (..., F) of the same motion with left and right exchanged: those of ``kinematics.mirrored`` poses.

    Raises:
        InputError: of a robot whose sides are not alike.
    """
    table = feature_table(robot)
    if table.mirror_columns is None or table.mirror_signs is None:
        raise InputError(f"the robot {robot.name} is not the same on its left and right, so it has no mirror image")
    mirrored: np.ndarray = features[..., table.mirror_columns] * table.mirror_signs
    return mirrored


def _mirror_sign(name: str, joint_signs: dict[str, float]) -> float:
    """Whether a feature keeps its sign in a mirror whose plane is y = 0."""
    if name.removesuffix("_velocity") in joint_signs:
        return joint_signs[name.removesuffix("_velocity")]
    turns = any(word in name for word in ("tilt", "rotation", "angular"))
    along_y = name.endswith("_y")
    # Vectors turn around in y; axes of rotation turn around in x and z, because the sense of rotation does too.
    return -1.0 if (turns and name[-2:] in ("_x", "_z")) or (along_y and not turns) else 1.0


def _checked(array: np.ndarray, columns: int, name: str, fps: float) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.ndim < 2 or array.shape[-1] != columns or not array.shape[-2]:
        raise InputError(f"{name}: an array of shape {array.shape}; expected (frames, {columns}) with at least 1 frame")
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"fps must be a positive number, not {fps}")
    return array


def _to_next(values: np.ndarray, fps: float) -> np.ndarray:
    """Rates (..., T, n) of change to the next frame; the last frame repeats the one before it."""
    if values.shape[-2] == 1:
        return np.zeros_like(values)
    rates = np.diff(values, axis=-2) * fps
    return np.concatenate([rates, rates[..., -1:, :]], axis=-2)


def _central(values: np.ndarray, fps: float) -> np.ndarray:
    """Rates (..., T, n) of change from the frame before to the frame after; to the only neighbour at both ends."""
    if values.shape[-2] == 1:
        return np.zeros_like(values)
    rates: np.ndarray = np.gradient(values, axis=-2) * fps
    return rates


def _added_up(steps: np.ndarray) -> np.ndarray:
    """Sums (..., T, n) of all earlier steps, the first 0: the inverse of :func:`_to_next`."""
    return np.concatenate([np.zeros_like(steps[..., :1, :]), np.cumsum(steps[..., :-1, :], axis=-2)], axis=-2)


def _angular_velocity(orientation: np.ndarray, heading: np.ndarray, fps: float) -> np.ndarray:
    """Of the root in the heading frame, (..., T, 3) in rad/s, from the frame before to the frame after."""
    frames = np.arange(orientation.shape[-2])
    before, after = np.maximum(frames - 1, 0), np.minimum(frames + 1, len(frames) - 1)
    backwards = orientation[..., before, :] * np.array([-1.0, -1.0, -1.0, 1.0])
    turned = rotation_vector(multiply_quaternions(orientation[..., after, :], backwards))
    rates = turned * (fps / np.maximum(after - before, 1))[:, None]
    return np.einsum("...ij,...j->...i", rotation_about(2, -heading), rates)


def _sine_axis(rotation: np.ndarray) -> np.ndarray:
    """sin(angle) · axis of rotation matrices (..., 3, 3): the skew part, smooth in every rotation."""
    return 0.5 * np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        -1,
    )
