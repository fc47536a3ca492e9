"""Make up ``walk.csv`` and ``walk_g1.csv``: four seconds of a Unitree H1 and of a G1 that walk a gentle curve, in the
LAFAN1 layout at 30 fps.

No motion of a data set is in it. Feet follow a gait written down here (a foot stands still for 58 % of a stride, then
swings forward over the ground), hips sway over the standing foot, arms swing against the legs; the angles of the legs
follow from where the feet are: the H1's by solving a two-link leg, the G1's, whose hips are tilted, by Gauss-Newton on
the robot's kinematic table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.kinematics import (
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    link_frames,
    rotation_about,
)
from daps_tokenizer.motion.robots import G1, H1

FPS, SECONDS = 30.0, 4.0
STRIDE_SECONDS, STANCE = 1.3, 0.58  # of one foot: from step to step, and which share of that it stands
SPEED, TURN_RATE = 0.72, 0.18  # m/s and rad/s
HEIGHT, BOUNCE, SWAY = 0.985, 0.018, 0.025  # of the pelvis, metres
FOOT_OUT, LIFT = 0.17, 0.06  # how far a foot is from the path, and how high it swings, metres
ANKLE_HEIGHT, THIGH, SHANK = 0.07, 0.4, 0.4  # metres
G1_SPEED, G1_HEIGHT, G1_FOOT_OUT, G1_ANKLE_HEIGHT = 0.5, 0.71, 0.12, 0.045
HIP = np.array([0.039468, 0.20286, -0.1742])  # of the left hip's pitch axis from the pelvis, metres


def main() -> None:
    """Write the clips next to this script."""
    folder = Path(__file__).parent
    Clip(walk_of_h1(), FPS).save(folder / "walk.csv")
    Clip(walk_of_g1(), FPS).save(folder / "walk_g1.csv")


def walk_of_h1() -> np.ndarray:
    """Poses (T, 26)."""
    time = np.arange(round(FPS * SECONDS)) / FPS
    path, heading = follow_path(time)
    phase = 2 * np.pi * time / STRIDE_SECONDS
    qpos = np.zeros((len(time), 26))
    sideways = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    qpos[:, :2] = path + SWAY * np.sin(phase - 0.4)[:, None] * sideways
    qpos[:, 2] = HEIGHT + BOUNCE * np.cos(2 * phase - 0.9)
    qpos[:, 3:7] = heading_quaternion(heading + 0.05 * np.sin(phase))
    for side, shift in (("left", 0.0), ("right", 0.5)):
        foot = foot_positions(side, time, shift)
        for name, angles in leg_angles(side, qpos, foot).items():
            qpos[:, 7 + H1.joint_names.index(f"{side}_{name}")] = angles
        swing = np.cos(phase + 2 * np.pi * shift)
        out = 1.0 if side == "left" else -1.0
        arm = {
            "shoulder_pitch": 0.12 + 0.38 * swing,
            "shoulder_roll": out * (0.16 + 0.02 * np.sin(2 * phase)),
            "shoulder_yaw": out * 0.1 + 0.05 * swing,
            "elbow": 1.15 - 0.22 * swing,
        }
        for name, angles in arm.items():
            qpos[:, 7 + H1.joint_names.index(f"{side}_{name}")] = angles
    qpos[:, 7 + H1.joint_names.index("torso")] = -0.12 * np.sin(phase)
    qpos[:, 7:] = clip_to_limits(qpos[:, 7:])
    lowest = np.minimum(*(forward_kinematics(qpos).position(f"{side}_foot")[:, 2] for side in ("left", "right")))
    qpos[:, 2] += 0.02 - lowest.min()
    return qpos


def walk_of_g1() -> np.ndarray:
    """Poses (T, 36)."""
    time = np.arange(round(FPS * SECONDS)) / FPS
    path, heading = follow_path(time, G1_SPEED)
    phase = 2 * np.pi * time / STRIDE_SECONDS
    qpos = np.zeros((len(time), 36))
    sideways = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    qpos[:, :2] = path + SWAY * np.sin(phase - 0.4)[:, None] * sideways
    qpos[:, 2] = G1_HEIGHT + BOUNCE * np.cos(2 * phase - 0.9)
    qpos[:, 3:7] = heading_quaternion(heading + 0.05 * np.sin(phase))
    for side, shift in (("left", 0.0), ("right", 0.5)):
        swing, out = np.cos(phase + 2 * np.pi * shift), 1.0 if side == "left" else -1.0
        arm = {"shoulder_pitch": 0.1 + 0.35 * swing, "shoulder_roll": out * 0.2, "elbow": 0.8 - 0.2 * swing}
        for name, angles in arm.items():
            qpos[:, 7 + G1.joint_names.index(f"{side}_{name}")] = angles
        ankle = foot_positions(side, time, shift, speed=G1_SPEED, out=G1_FOOT_OUT, height=G1_ANKLE_HEIGHT)
        qpos = place_foot(qpos, side, ankle, heading)
    qpos[:, 7 + G1.joint_names.index("waist_yaw")] = -0.1 * np.sin(phase)
    return qpos


def place_foot(qpos: np.ndarray, side: str, ankle: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """Poses of the G1 whose ankle is at (T, 3) with a foot that is level and looks along the heading (T,)."""
    columns = [
        7 + n
        for n, name in enumerate(G1.joint_names)
        if name.startswith((f"{side}_hip", f"{side}_knee", f"{side}_ankle"))
    ]
    last = columns[-1] - 6  # the foot's link, counted from the root
    level = rotation_about(2, heading)

    def missing(poses: np.ndarray) -> np.ndarray:
        rotations, positions = link_frames(poses, G1)
        turned = level.swapaxes(-1, -2) @ rotations[last]
        axis = np.stack([turned[:, 2, 1], turned[:, 0, 2], turned[:, 1, 0]], axis=1)
        return np.concatenate([positions[last] - ankle, 0.3 * axis], axis=1)

    found = qpos.copy()
    found[:, columns] = [-0.3, 0.0, 0.0, 0.6, -0.3, 0.0]
    for _ in range(20):
        off, step = missing(found), 1e-5
        jacobian = np.empty((len(found), 6, 6))
        for number, column in enumerate(columns):
            moved = found.copy()
            moved[:, column] += step
            jacobian[:, :, number] = (missing(moved) - off) / step
        damped = jacobian.swapaxes(-1, -2) @ jacobian + 1e-5 * np.eye(6)
        found[:, columns] -= np.linalg.solve(damped, jacobian.swapaxes(-1, -2) @ off[..., None])[..., 0]
        found[:, 7:] = clip_to_limits(found[:, 7:], G1)
    return found


def follow_path(time: np.ndarray, speed: float = SPEED) -> tuple[np.ndarray, np.ndarray]:
    """Where the walker is (..., 2) and which way it faces (...), on a circle."""
    heading = 0.4 + TURN_RATE * time
    radius = speed / TURN_RATE
    return radius * np.stack([np.sin(heading) - np.sin(0.4), np.cos(0.4) - np.cos(heading)], axis=-1), heading


def foot_positions(
    side: str,
    time: np.ndarray,
    shift: float,
    *,
    speed: float = SPEED,
    out: float = FOOT_OUT,
    height: float = ANKLE_HEIGHT,
) -> np.ndarray:
    """Of the ankle (T, 3): standing still beside the path, or on its way to where it stands next."""
    stride = time / STRIDE_SECONDS + shift
    number, share = np.floor(stride), stride % 1.0
    places = []
    for step in (0, 1):
        middle = (number + step - shift + STANCE / 2) * STRIDE_SECONDS  # when the body passes over the foot
        centre, heading = follow_path(middle, speed)
        aside = out if side == "left" else -out
        places.append(centre + aside * np.stack([-np.sin(heading), np.cos(heading)], axis=-1))
    swung = np.clip((share - STANCE) / (1 - STANCE), 0.0, 1.0)
    eased = swung - np.sin(2 * np.pi * swung) / (2 * np.pi)
    ground = (1 - eased[:, None]) * places[0] + eased[:, None] * places[1]
    return np.column_stack([ground, height + LIFT * np.sin(np.pi * swung) ** 2])


def leg_angles(side: str, qpos: np.ndarray, foot: np.ndarray) -> dict[str, np.ndarray]:
    """Angles of a leg whose ankle is at ``foot`` (T, 3): hip roll, then pitch and knee as a two-link arm."""
    sign = 1.0 if side == "left" else -1.0
    heading = 2 * np.arctan2(qpos[:, 5], qpos[:, 6])
    local = np.einsum("tij,tj->ti", rotation_about(2, -heading), foot - qpos[:, :3])
    x = local[:, 0] - HIP[0]
    y, z = local[:, 1] - sign * 0.0875, local[:, 2] - HIP[2]
    offset = sign * (HIP[1] - 0.0875)  # the leg hangs beside the roll axis
    reach_down = np.sqrt(np.maximum(y * y + z * z - offset * offset, 1e-6))
    roll = np.arctan2(y, -z) - np.arctan2(offset, reach_down)
    distance = np.clip(np.hypot(x, reach_down), 0.3, THIGH + SHANK - 1e-3)
    knee = np.pi - np.arccos((THIGH**2 + SHANK**2 - distance**2) / (2 * THIGH * SHANK))
    pitch = -np.arctan2(x, reach_down) - np.arcsin(np.clip(SHANK * np.sin(knee) / distance, -1, 1))
    return {"hip_roll": roll, "hip_pitch": pitch, "knee": knee, "ankle": -0.8 * (pitch + knee)}


if __name__ == "__main__":
    main()
