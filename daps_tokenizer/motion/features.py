"""The 127 features of a frame of motion, and the way back from features to a pose.

No feature depends on where the robot is or on which way it faces. The *heading frame* is the world turned about the
vertical so that it faces with the root (:func:`~daps_tokenizer.motion.kinematics.split_heading`).

====================  =====  ===========================================================================================
features              count  what
====================  =====  ===========================================================================================
root_height               1  of the pelvis, m
root_tilt                 2  x and y of the quaternion that is left of the root's orientation without its heading
foot_height               2  of the left and the right foot, m
joint angles             19  rad
root_velocity             3  of the pelvis in the heading frame, m/s
root_angular_velocity     3  x and y in the heading frame; z is how fast the heading turns; rad/s
joint velocities         19  rad/s
positions                42  of the 14 other sites from the upper body's, in the heading frame, m
rotations                33  of those sites against the upper body: sin(angle) · axis, which does not jump as rotation
                             vectors do at half a turn. The 9 of 42 that are 0 in every pose are left out
gravity                   3  the direction down in the root's frame
====================  =====  ===========================================================================================

The paper (section 5.4) has 127 features too but does not say which; its authors did not publish them. This composition
counts as many, from the same sites as LocoMuJoCo's mimic goals.

What a path is made of (root_velocity_x and _y, root_angular_velocity_z) are differences to the next frame, so that
adding them up gives the path back exactly; the last frame repeats the one before it. All other velocities are of
quantities that are features themselves, and are central differences.
"""

from __future__ import annotations

import numpy as np

from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import (
    JOINT_NAMES,
    LINKS,
    QPOS_SIZE,
    SITE_NAMES,
    STANDING_HEIGHT,
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    multiply_quaternions,
    rotation_about,
    rotation_from_quaternion,
    rotation_vector,
    split_heading,
)

FPS = 30.0  # frames per second of LAFAN1, and of the built-in model

_CENTRE = SITE_NAMES.index("upper_body")
_OTHER_SITES = tuple(name for name in SITE_NAMES if name != "upper_body")
# The head turns with the upper body, pelvis and hips turn against it about the vertical alone.
_TURNING = tuple(
    (site, axis)
    for site in _OTHER_SITES
    for axis in "xyz"
    if site != "head" and (axis == "z" or site not in ("pelvis", "left_hip", "right_hip"))
)
_TURNING_COLUMNS = [3 * _OTHER_SITES.index(site) + "xyz".index(axis) for site, axis in _TURNING]

FEATURE_NAMES = (
    "root_height",
    *(f"root_tilt_{axis}" for axis in "xy"),
    *(f"{side}_foot_height" for side in ("left", "right")),
    *JOINT_NAMES,
    *(f"root_velocity_{axis}" for axis in "xyz"),
    *(f"root_angular_velocity_{axis}" for axis in "xyz"),
    *(f"{joint}_velocity" for joint in JOINT_NAMES),
    *(f"{site}_position_{axis}" for site in _OTHER_SITES for axis in "xyz"),
    *(f"{site}_rotation_{axis}" for site, axis in _TURNING),
    *(f"gravity_{axis}" for axis in "xyz"),
)

_HEIGHT = 0
_TILT = slice(1, 3)
_ANGLES = slice(5, 24)
_VELOCITY = slice(24, 27)
_TURN_RATE = slice(29, 30)

__all__ = ["FEATURE_NAMES", "FPS", "JOINT_NAMES", "compute_features", "mirror_features", "standing", "to_qpos"]


def standing() -> np.ndarray:
    """The pose (26,) of a robot that stands at the origin, faces along x and has all joints at 0."""
    pose = np.zeros(QPOS_SIZE)
    pose[2], pose[6] = STANDING_HEIGHT, 1.0
    return pose


def compute_features(qpos: np.ndarray, *, fps: float) -> np.ndarray:
    """The features of clips.

    Args:
        qpos: (..., T, 26) poses, see :mod:`daps_tokenizer.motion.kinematics`; at least one.
        fps: frames per second.

    Returns:
        (..., T, 127) float32, columns as in :data:`FEATURE_NAMES`.

    Raises:
        InputError: an array of another shape, no frames, or fps that are not positive.
    """
    qpos = _checked(qpos, QPOS_SIZE, "qpos", fps)
    orientation = qpos[..., 3:7] / np.linalg.norm(qpos[..., 3:7], axis=-1, keepdims=True)
    heading, tilt = split_heading(orientation)
    to_heading_frame = rotation_about(2, -heading)
    poses = forward_kinematics(qpos)

    velocity = np.einsum("...ij,...j->...i", to_heading_frame, _to_next(qpos[..., :3], fps))
    velocity[..., 2:] = _central(qpos[..., 2:3], fps)
    turned = _to_next(np.unwrap(heading)[..., None], fps)
    positions = poses.positions - poses.positions[..., _CENTRE, None, :]
    others = [number for number in range(len(SITE_NAMES)) if number != _CENTRE]
    positions = positions[..., others, :] @ to_heading_frame.swapaxes(-1, -2)
    relative = poses.rotations[..., _CENTRE, None, :, :].swapaxes(-1, -2) @ poses.rotations[..., others, :, :]

    columns = (
        qpos[..., 2:3],
        tilt[..., :2],
        poses.position("left_foot")[..., 2:],
        poses.position("right_foot")[..., 2:],
        qpos[..., 7:],
        velocity,
        _angular_velocity(orientation, heading, fps)[..., :2],
        turned,
        _central(qpos[..., 7:], fps),
        positions.reshape(*heading.shape, 3 * len(others)),
        _sine_axis(relative).reshape(*heading.shape, 3 * len(others))[..., _TURNING_COLUMNS],
        -rotation_from_quaternion(orientation)[..., 2, :],
    )
    return np.concatenate(columns, axis=-1).astype(np.float32)


def to_qpos(features: np.ndarray, *, fps: float, start: np.ndarray | None = None) -> np.ndarray:
    """The poses of clips: a path is the root's velocity and turning, added up from a start.

    Height, tilt and joint angles are features themselves; angles are kept within the joints' limits.

    Args:
        features: (..., T, 127), in their own units.
        fps: frames per second.
        start: poses (..., 26) whose place and heading the first frames get; the origin, facing along x, without it.

    Returns:
        (..., T, 26) float64.

    Raises:
        InputError: an array of another shape, no frames, or fps that are not positive.
    """
    features = _checked(features, len(FEATURE_NAMES), "features", fps)
    first = standing() if start is None else np.asarray(start)
    first = _checked(first[..., None, :], QPOS_SIZE, "start", fps)  # with an axis of frames
    first_heading, _ = split_heading(first[..., 3:7] / np.linalg.norm(first[..., 3:7], axis=-1, keepdims=True))
    heading = first_heading + _added_up(features[..., _TURN_RATE] / fps)[..., 0]
    velocity = np.einsum("...ij,...j->...i", rotation_about(2, heading), features[..., _VELOCITY])

    tilt = np.zeros((*heading.shape, 4))
    tilt[..., :2] = features[..., _TILT]
    length = np.linalg.norm(tilt, axis=-1, keepdims=True)
    tilt /= np.maximum(length, 1.0)  # decoded features may overshoot by a little
    tilt[..., 3] = np.sqrt(np.maximum(0.0, 1.0 - (tilt * tilt).sum(-1)))

    qpos = np.empty((*heading.shape, QPOS_SIZE))
    qpos[..., :2] = first[..., :2] + _added_up(velocity[..., :2] / fps)
    qpos[..., 2] = features[..., _HEIGHT]
    qpos[..., 3:7] = multiply_quaternions(heading_quaternion(heading), tilt)
    qpos[..., 7:] = clip_to_limits(features[..., _ANGLES])
    return qpos


def mirror_features(features: np.ndarray) -> np.ndarray:
    """Features (..., 127) of the same motion with left and right exchanged: those of ``kinematics.mirrored`` poses."""
    mirrored: np.ndarray = features[..., MIRROR_COLUMNS] * MIRROR_SIGNS
    return mirrored


def _mirror_sign(name: str) -> float:
    """Whether a feature keeps its sign in a mirror whose plane is y = 0."""
    if name in _JOINT_SIGNS:
        return _JOINT_SIGNS[name]
    if name.removesuffix("_velocity") in _JOINT_SIGNS:
        return _JOINT_SIGNS[name.removesuffix("_velocity")]
    turns = any(word in name for word in ("tilt", "rotation", "angular"))
    along_y = name.endswith("_y")
    # Vectors turn around in y; axes of rotation turn around in x and z, because the sense of rotation does too.
    return -1.0 if (turns and name[-2:] in ("_x", "_z")) or (along_y and not turns) else 1.0


def _other_side(name: str) -> str:
    if name.startswith("left"):
        return name.replace("left", "right", 1)
    return name.replace("right", "left", 1)


_JOINT_SIGNS = {link.name: 1.0 if link.axis == 1 else -1.0 for link in LINKS}
MIRROR_COLUMNS = np.array([FEATURE_NAMES.index(_other_side(name)) for name in FEATURE_NAMES])
MIRROR_SIGNS = np.array([_mirror_sign(name) for name in FEATURE_NAMES], np.float32)


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
