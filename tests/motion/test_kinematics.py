"""The H1's kinematics: equal to MuJoCo's."""

import numpy as np
import pytest

from daps_tokenizer.motion.kinematics import (
    BONES,
    JOINT_LIMITS,
    JOINT_NAMES,
    SITE_NAMES,
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    mirrored,
    multiply_quaternions,
    rotation_from_quaternion,
    rotation_vector,
    split_heading,
)
from tests.motion.motions import random_poses
from tests.paths import DATA

MODEL = DATA / "h1" / "h1_kinematics.xml"
# The MJCF has names of LocoMuJoCo's in place of Unitree's, in the same order; hip pitch has the URDF's limits here.
HIP_PITCH = [JOINT_NAMES.index(f"{side}_hip_pitch") for side in ("left", "right")]


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    mujoco = pytest.importorskip("mujoco")
    if not MODEL.is_file():
        pytest.skip(f"no {MODEL}")
    return mujoco.MjModel.from_xml_path(str(MODEL))


def test_sites_are_where_mujoco_has_them(model) -> None:  # type: ignore[no-untyped-def]
    import mujoco

    poses = random_poses(1000)
    ours = forward_kinematics(poses)
    data = mujoco.MjData(model)
    identifiers = [model.site(f"{name}_mimic").id for name in SITE_NAMES]
    for number, pose in enumerate(poses):
        data.qpos[:] = pose[[0, 1, 2, 6, 3, 4, 5, *range(7, 26)]]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(ours.positions[number], data.site_xpos[identifiers], atol=1e-6)
        matrices = data.site_xmat[identifiers].reshape(-1, 3, 3)
        np.testing.assert_allclose(ours.rotations[number], matrices, atol=1e-6)


def test_limits_are_the_models_but_for_hip_pitch(model) -> None:  # type: ignore[no-untyped-def]
    others = [number for number in range(19) if number not in HIP_PITCH]
    np.testing.assert_allclose(JOINT_LIMITS[others], model.jnt_range[1:][others])
    assert (JOINT_LIMITS[HIP_PITCH] == (-3.14, 2.53)).all()


def test_angles_are_kept_within_the_limits() -> None:
    clipped = clip_to_limits(np.stack([np.full(19, -9.0), np.zeros(19), np.full(19, 9.0)]))
    np.testing.assert_array_equal(clipped, np.stack([JOINT_LIMITS[:, 0], np.zeros(19), JOINT_LIMITS[:, 1]]))


def test_bones_join_sites_into_one_figure() -> None:
    reached = {"pelvis"}
    for begin, end in BONES:
        assert begin in reached
        reached.add(end)
    assert reached == set(SITE_NAMES)


def test_heading_and_tilt_make_up_the_orientation() -> None:
    quaternions = random_poses(200)[:, 3:7]
    heading, tilt = split_heading(quaternions)
    assert (np.abs(heading) <= np.pi).all() and (tilt[:, 2] == 0).all() and (tilt[:, 3] >= 0).all()
    together = rotation_from_quaternion(multiply_quaternions(heading_quaternion(heading), tilt))
    np.testing.assert_allclose(together, rotation_from_quaternion(quaternions), atol=1e-12)


def test_a_turn_of_the_whole_robot_changes_its_heading_alone() -> None:
    quaternions = random_poses(50)[:, 3:7]
    heading, tilt = split_heading(quaternions)
    turned_heading, turned_tilt = split_heading(multiply_quaternions(heading_quaternion(np.full(50, 0.7)), quaternions))
    np.testing.assert_allclose(turned_tilt, tilt, atol=1e-12)
    np.testing.assert_allclose(np.exp(1j * (turned_heading - heading)), np.exp(0.7j), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 0.3, 3.0, np.pi])
def test_rotation_vectors_are_axis_times_angle(angle: float) -> None:
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    quaternion = np.append(np.sin(angle / 2) * axis, np.cos(angle / 2))
    np.testing.assert_allclose(rotation_vector(quaternion), angle * axis, atol=1e-12)
    np.testing.assert_allclose(np.abs(rotation_vector(-quaternion)), np.abs(angle * axis), atol=1e-12)


def test_a_mirrored_pose_has_left_and_right_exchanged() -> None:
    poses = random_poses(20)
    ours, others = forward_kinematics(poses), forward_kinematics(mirrored(poses))
    for name in SITE_NAMES:
        other = name.replace("left", "right") if "left" in name else name.replace("right", "left")
        np.testing.assert_allclose(others.position(other), ours.position(name) * (1, -1, 1), atol=1e-6)
    np.testing.assert_array_equal(mirrored(mirrored(poses)), poses)
