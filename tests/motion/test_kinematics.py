"""Kinematics of the built-in robots: equal to MuJoCo's."""

import dataclasses

import numpy as np
import pytest

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import (
    clip_to_limits,
    euler_from_quaternion,
    forward_kinematics,
    heading_quaternion,
    joint_limits,
    link_frames,
    mirrored,
    multiply_quaternions,
    other_side,
    quaternion_from_euler,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_vector,
    split_heading,
)
from daps_tokenizer.motion.robots import G1, H1
from tests.motion.motions import random_poses
from tests.paths import DATA

# The H1's MJCF has names of LocoMuJoCo's in place of Unitree's, in the same order; hip pitch has the URDF's limits
# here.
HIP_PITCH = [H1.joint_names.index(f"{side}_hip_pitch") for side in ("left", "right")]
ROBOTS = pytest.mark.parametrize("robot", [H1, G1], ids=lambda robot: robot.name)


def mujoco_model(robot: Robot):  # type: ignore[no-untyped-def]
    mujoco = pytest.importorskip("mujoco")
    path = DATA / robot.name / f"{robot.name}_kinematics.xml"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return mujoco.MjModel.from_xml_path(str(path))


@ROBOTS
def test_links_are_where_mujoco_has_them(robot: Robot) -> None:
    model = mujoco_model(robot)
    import mujoco

    poses = random_poses(1000, robot=robot)
    rotations, positions = (np.stack(each, 1) for each in link_frames(poses, robot))
    data = mujoco.MjData(model)
    bodies = model.jnt_bodyid  # of the root's free joint, then of the hinges
    for number, pose in enumerate(poses):
        data.qpos[:] = pose[[0, 1, 2, 6, 3, 4, 5, *range(7, robot.pose_size)]]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(positions[number], data.xpos[bodies], atol=1e-6)
        np.testing.assert_allclose(rotations[number], data.xmat[bodies].reshape(-1, 3, 3), atol=1e-6)


def test_the_sites_of_the_h1_are_where_mujoco_has_them() -> None:
    model = mujoco_model(H1)
    import mujoco

    poses = random_poses(100)
    ours = forward_kinematics(poses)
    data = mujoco.MjData(model)
    identifiers = [model.site(f"{name}_mimic").id for name in H1.site_names]
    for number, pose in enumerate(poses):
        data.qpos[:] = pose[[0, 1, 2, 6, 3, 4, 5, *range(7, 26)]]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(ours.positions[number], data.site_xpos[identifiers], atol=1e-6)


@ROBOTS
def test_limits_are_the_models_but_for_hip_pitch(robot: Robot) -> None:
    ranges = mujoco_model(robot).jnt_range[1:].copy()
    if robot is H1:
        ranges[HIP_PITCH] = (-3.14, 2.53)
    np.testing.assert_allclose(joint_limits(robot), ranges)


@ROBOTS
def test_angles_are_kept_within_the_limits(robot: Robot) -> None:
    joints = len(robot.joints)
    clipped = clip_to_limits(np.stack([np.full(joints, -9.0), np.zeros(joints), np.full(joints, 9.0)]), robot)
    np.testing.assert_array_equal(
        clipped, np.stack([joint_limits(robot)[:, 0], np.zeros(joints), joint_limits(robot)[:, 1]])
    )


@ROBOTS
def test_bones_join_sites_into_one_figure(robot: Robot) -> None:
    reached = {"pelvis"}
    for begin, end in robot.bones:
        assert begin in reached
        reached.add(end)
    assert reached == set(robot.site_names)


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


@ROBOTS
def test_a_mirrored_pose_has_left_and_right_exchanged(robot: Robot) -> None:
    poses = random_poses(20, robot=robot)
    ours, others = forward_kinematics(poses, robot), forward_kinematics(mirrored(poses, robot), robot)
    for name in robot.site_names:
        # The MJCF of the G1 has shoulders that are 0.01 mm from being each other's mirror image.
        np.testing.assert_allclose(
            others.position(other_side(name)), ours.position(name) * (1, -1, 1), atol=1e-6 if robot is H1 else 1e-3
        )
    np.testing.assert_array_equal(mirrored(mirrored(poses, robot), robot), poses)


def test_a_robot_whose_sides_are_not_alike_has_no_mirror_image() -> None:
    first, *others = H1.joints
    longer = dataclasses.replace(first, position=(0.0, 0.0875, -0.2))
    lame = dataclasses.replace(H1, joints=(longer, *others))
    with pytest.raises(InputError, match="robot h1 is not the same on its left and right"):
        mirrored(random_poses(2), lame)


def test_a_joint_may_turn_about_any_axis() -> None:
    axis = (0.6, 0.0, 0.8)
    turning = dataclasses.replace(H1.joints[10], axis=axis)
    robot = dataclasses.replace(H1, joints=(*H1.joints[:10], turning, *H1.joints[11:]))
    pose = np.zeros((1, 26))
    pose[0, 6], pose[0, 17] = 1.0, 0.7
    rotations, _ = link_frames(pose, robot)
    expected = rotation_from_quaternion(np.append(np.sin(0.35) * np.array(axis), np.cos(0.35)))
    np.testing.assert_allclose(rotations[11][0], expected, atol=1e-12)


def test_quaternions_come_back_from_matrices_and_from_euler_angles() -> None:
    quaternions = random_poses(50)[:, 3:7]
    quaternions *= np.sign(quaternions[:, 3:])
    np.testing.assert_allclose(quaternion_from_rotation(rotation_from_quaternion(quaternions)), quaternions, atol=1e-7)
    turned = quaternion_from_euler(euler_from_quaternion(quaternions))
    np.testing.assert_allclose(turned * np.sign(turned[:, 3:]), quaternions, atol=1e-7)
    about_z_then_x = multiply_quaternions(
        quaternion_from_euler(np.array([0.0, 0.0, 0.5])), quaternion_from_euler(np.array([0.3, 0.0, 0.0]))
    )
    np.testing.assert_allclose(quaternion_from_euler(np.array([0.3, 0.0, 0.5])), about_z_then_x, atol=1e-12)
