"""Make up ``walk.csv``: four seconds of a Unitree H1 that walks a gentle curve, in the LAFAN1 layout at 30 fps.

No motion of a data set is in it. Feet follow a gait written down here (a foot stands still for 58 % of a stride, then
swings forward over the ground), hips sway over the standing foot, arms swing against the legs; the angles of the legs
follow from where the feet are, by solving the two-link leg of the robot's kinematic table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.kinematics import (
    JOINT_NAMES,
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    rotation_about,
)

FPS, SECONDS = 30.0, 4.0
STRIDE_SECONDS, STANCE = 1.3, 0.58  # of one foot: from step to step, and which share of that it stands
SPEED, TURN_RATE = 0.72, 0.18  # m/s and rad/s
HEIGHT, BOUNCE, SWAY = 0.985, 0.018, 0.025  # of the pelvis, metres
FOOT_OUT, LIFT = 0.17, 0.06  # how far a foot is from the path, and how high it swings, metres
ANKLE_HEIGHT, THIGH, SHANK = 0.07, 0.4, 0.4  # metres
HIP = np.array([0.039468, 0.20286, -0.1742])  # of the left hip's pitch axis from the pelvis, metres


def main() -> None:
    """Write the clip next to this script."""
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
            qpos[:, 7 + JOINT_NAMES.index(f"{side}_{name}")] = angles
        swing = np.cos(phase + 2 * np.pi * shift)
        out = 1.0 if side == "left" else -1.0
        arm = {
            "shoulder_pitch": 0.12 + 0.38 * swing,
            "shoulder_roll": out * (0.16 + 0.02 * np.sin(2 * phase)),
            "shoulder_yaw": out * 0.1 + 0.05 * swing,
            "elbow": 1.15 - 0.22 * swing,
        }
        for name, angles in arm.items():
            qpos[:, 7 + JOINT_NAMES.index(f"{side}_{name}")] = angles
    qpos[:, 7 + JOINT_NAMES.index("torso")] = -0.12 * np.sin(phase)
    qpos[:, 7:] = clip_to_limits(qpos[:, 7:])
    lowest = np.minimum(*(forward_kinematics(qpos).position(f"{side}_foot")[:, 2] for side in ("left", "right")))
    qpos[:, 2] += 0.02 - lowest.min()
    Clip(qpos, FPS).save(Path(__file__).parent / "walk.csv")


def follow_path(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the walker is (..., 2) and which way it faces (...), on a circle."""
    heading = 0.4 + TURN_RATE * time
    radius = SPEED / TURN_RATE
    return radius * np.stack([np.sin(heading) - np.sin(0.4), np.cos(0.4) - np.cos(heading)], axis=-1), heading


def foot_positions(side: str, time: np.ndarray, shift: float) -> np.ndarray:
    """Of the ankle (T, 3): standing still beside the path, or on its way to where it stands next."""
    stride = time / STRIDE_SECONDS + shift
    number, share = np.floor(stride), stride % 1.0
    places = []
    for step in (0, 1):
        middle = (number + step - shift + STANCE / 2) * STRIDE_SECONDS  # when the body passes over the foot
        centre, heading = follow_path(middle)
        out = FOOT_OUT if side == "left" else -FOOT_OUT
        places.append(centre + out * np.stack([-np.sin(heading), np.cos(heading)], axis=-1))
    swung = np.clip((share - STANCE) / (1 - STANCE), 0.0, 1.0)
    eased = swung - np.sin(2 * np.pi * swung) / (2 * np.pi)
    ground = (1 - eased[:, None]) * places[0] + eased[:, None] * places[1]
    return np.column_stack([ground, ANKLE_HEIGHT + LIFT * np.sin(np.pi * swung) ** 2])


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
