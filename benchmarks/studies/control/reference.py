"""Motions to follow: clips, or what codes decode to, at 50 Hz, with everything that a reward compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from benchmarks.studies.control.robot import CONTROL_FPS, Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import G1

CLIP_FPS = 30.0
WALKS = ("walk1_subject1", "walk1_subject2", "walk1_subject5", "walk2_subject1", "walk2_subject3", "walk3_subject2")
HELD_OUT = {"walk": "walk2_subject4", "dance": "dance2_subject2", "run": "run2_subject1"}


@dataclass(frozen=True)
class Reference:
    """Motions in a row, T frames at 50 Hz.

    Attributes:
        qpos: (T, 36) as in MuJoCo: root position, quaternion w x y z, 29 joint angles.
        qvel: (T, 35) as in MuJoCo: linear velocity in the world, angular velocity in the pelvis's frame, joints.
        key_positions: (T, 21) of the key bodies in the pelvis's frame.
        clip_starts: the first frame of each motion, and T.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    key_positions: np.ndarray
    clip_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.qpos)

    @classmethod
    def from_clips(
        cls, robot: Robot, clips: Sequence[np.ndarray], *, fps: float = CLIP_FPS, on_floor: bool = True
    ) -> Reference:
        """From clips (T, 36) with quaternions x y z w, as LAFAN1's CSV files have them.

        With ``on_floor`` a clip is lifted or lowered as a whole so that its feet touch the floor where they are lowest,
        save for the lowest twentieth of its frames.
        """
        parts = [_of_clip(robot, clip, fps, on_floor) for clip in clips]
        ends = np.cumsum([0, *(len(part[0]) for part in parts)])
        qpos, qvel, key_positions = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(qpos, qvel, key_positions, ends)


def load_g1_clips(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Clips (T, 36) of ``lafan1_g1.npz``, root position, quaternion x y z w and 29 angles, by name.

    Raises:
        InputError: the file is not there, or has no such clip.
    """

    def choose(known: list[str]) -> list[str]:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f"{path}: no clip {unknown[0]!r}; expected one of {', '.join(known)}")
        return list(names)

    return [clip.qpos for clip in Clip.load_all(path, choose, robot=G1)]


def _of_clip(robot: Robot, clip: np.ndarray, fps: float, on_floor: bool) -> tuple[np.ndarray, ...]:
    if clip.ndim != 2 or clip.shape[1] != 36 or len(clip) < 2:
        raise InputError(f"a clip of shape {clip.shape}; expected (T, 36) of a Unitree G1, with at least 2 frames")
    qpos = resample(clip, from_fps=fps, to_fps=CONTROL_FPS)[:, [0, 1, 2, 6, 3, 4, 5, *range(7, 36)]]
    qpos[:, 7:] = np.clip(qpos[:, 7:], *robot.limits.T)
    model, data = robot.model, mujoco.MjData(robot.model)
    qvel = np.zeros((len(qpos), model.nv))
    for t in range(len(qpos)):
        before, after = max(t - 1, 0), min(t + 1, len(qpos) - 1)
        mujoco.mj_differentiatePos(model, qvel[t], (after - before) / CONTROL_FPS, qpos[before], qpos[after])
    # The sensors of the simulation are those of one physics step before a control step's end; so are these.
    timestep = model.opt.timestep
    lowest, key_positions = np.empty(len(qpos)), np.empty((len(qpos), 3 * len(robot.key_bodies)))
    feet = [i for i in range(model.ngeom) if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_SPHERE]
    for t in range(len(qpos)):
        data.qpos[:] = qpos[t]
        mujoco.mj_integratePos(model, data.qpos, qvel[t], -timestep)
        mujoco.mj_kinematics(model, data)
        lowest[t] = (data.geom_xpos[feet, 2] - model.geom_size[feet, 0]).min()
        pelvis = data.xmat[1].reshape(3, 3)
        key_positions[t] = ((data.xpos[robot.key_bodies] - data.xpos[1]) @ pelvis).ravel()
    if on_floor:
        qpos[:, 2] -= np.quantile(lowest, 0.05)
    return qpos, qvel, key_positions
