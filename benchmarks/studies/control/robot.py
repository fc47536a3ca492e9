"""The simulated Unitree G1: its MJCF with a floor, contacts and position servos, and many of them stepped at once.

A control step is 20 ms (50 Hz). Within it the servos hold their targets, as the robot's own motor drives do:
torque = kp · (target − angle) − kd · velocity, cut at the joint's torque limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from daps_tokenizer.errors import InputError

CONTROL_FPS = 50.0
JOINTS = 29
ACTIVE = 15  # joints that a policy corrects: legs and waist; arms follow the reference
KEY_BODIES = (
    "left_ankle_roll_link",
    "right_ankle_roll_link",
    "left_knee_link",
    "right_knee_link",
    "torso_link",
    "left_wrist_yaw_link",
    "right_wrist_yaw_link",
)

# Rotor inertia as seen at the joint, kg·m², of the motors that Unitree builds in; as BeyondMimic has them.
_SMALL, _HIP, _KNEE, _WRIST = 0.003609725, 0.010177520, 0.025101925, 0.00425
_ARMATURES = (
    ("hip_pitch", _HIP),
    ("hip_yaw", _HIP),
    ("hip_roll", _KNEE),
    ("knee", _KNEE),
    ("ankle", 2 * _SMALL),  # two motors drive both ankle joints
    ("waist_yaw", _HIP),
    ("waist", 2 * _SMALL),
    ("wrist_pitch", _WRIST),
    ("wrist_yaw", _WRIST),
    ("", _SMALL),
)


@dataclass(frozen=True)
class ServoGains:
    """How stiff the servos are: kp = stiffness · torque limit, kd = damping · kp.

    With 5 per radian the robot stands by its servos alone. With those of BeyondMimic, a tenth of that at the hips, it
    tips over within two seconds, and a policy must learn to stand before it learns to follow.
    """

    stiffness: float = 5.0  # 1/rad
    damping: float = 0.05  # s


class Robot:
    """A Unitree G1 on a flat floor.

    Args:
        mjcf: path of ``g1_kinematics.xml``.
        gains: of the servos.
        substeps: physics steps in a control step.

    Attributes:
        model: the compiled ``mujoco.MjModel``; controls are the targets of the 29 servos in radians.
    """

    def __init__(self, mjcf: Path, gains: ServoGains = ServoGains(), *, substeps: int = 2) -> None:
        if not mjcf.is_file():
            raise InputError(f"{mjcf}: no such file; expected the MJCF of the Unitree G1 with 29 joints")
        self.gains, self.substeps = gains, substeps
        self.model = _build(mjcf, gains, 1 / CONTROL_FPS / substeps)
        self.limits = self.model.jnt_range[1:].copy()
        self.torque_limits = self.model.jnt_actfrcrange[1:, 1].copy()
        self.key_bodies = [mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name) for name in KEY_BODIES]

    @cached_property
    def state_size(self) -> int:
        """Numbers in a full physics state: time, 36 of qpos, 35 of qvel."""
        return mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)


def states(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Full physics states (B, 72) at time 0 from qpos (B, 36) and qvel (B, 35)."""
    return np.concatenate([np.zeros((len(qpos), 1)), qpos, qvel], axis=1)


def split_states(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The qpos (..., 36) and qvel (..., 35) of full physics states (..., 72)."""
    return state[..., 1:37], state[..., 37:72]


class Physics:
    """Steps many robots at once, in C, on several threads."""

    def __init__(self, robot: Robot, *, threads: int = 1) -> None:
        self.robot = robot
        self._data = [mujoco.MjData(robot.model) for _ in range(threads)]
        self._rollout = Rollout(nthread=threads if threads > 1 else 0)

    def step(self, state: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold servo targets (B, 29) for one control step from states (B, 72).

        Returns:
            The states after it (B, 72), and the sensors (B, 50) one physics step before its end: positions of the 7 key
            bodies in the pelvis's frame (21), torques (29).
        """
        found, sensors = self.run(state, targets[:, None])
        return found[:, -1], sensors[:, -1]

    def run(self, state: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold servo targets (B, T, 29), each for a control step; states (B, T, 72) and sensors (B, T, 50)."""
        steps = self.robot.substeps
        found, sensors = self._rollout.rollout(
            self.robot.model, self._data, state, np.repeat(targets, steps, axis=1), skip_checks=False
        )
        return found[:, steps - 1 :: steps], sensors[:, steps - 1 :: steps]


def _build(mjcf: Path, gains: ServoGains, timestep: float) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(mjcf))
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations, spec.option.ls_iterations = 6, 10
    # Newton's start at each control step would be zero, which is further away than the unconstrained acceleration.
    spec.option.disableflags = mujoco.mjtDisableBit.mjDSBL_WARMSTART
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    for geom in spec.geoms:  # only feet touch the floor: a robot of which more does has fallen
        is_foot = geom.type == mujoco.mjtGeom.mjGEOM_SPHERE
        geom.contype, geom.conaffinity, geom.condim = 0, int(is_foot), 3
        geom.friction[0] = 1.0
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[0, 0, 0.05],
        contype=1,
        conaffinity=0,
        friction=[1, 0.005, 0.0001],
    )
    for joint in spec.joints:
        if joint.type == mujoco.mjtJoint.mjJNT_FREE:
            continue
        armature = next(value for name, value in _ARMATURES if name in joint.name)
        kp = gains.stiffness * joint.actfrcrange[1]
        joint.armature, joint.damping, joint.frictionloss = armature, [0, 0, 0], 0
        servo = spec.add_actuator(name=joint.name.removesuffix("_joint"), target=joint.name)
        servo.trntype = mujoco.mjtTrn.mjTRN_JOINT
        servo.set_to_position(kp=kp, kv=gains.damping * kp)
    for body in KEY_BODIES:
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_FRAMEPOS,
            objtype=mujoco.mjtObj.mjOBJ_XBODY,
            objname=body,
            reftype=mujoco.mjtObj.mjOBJ_XBODY,
            refname="pelvis",
        )
    for joint in spec.joints[1:]:
        spec.add_sensor(type=mujoco.mjtSensor.mjSENS_JOINTACTFRC, objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=joint.name)
    return spec.compile()
