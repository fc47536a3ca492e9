"""Feet that stand stay where they are: the root moves for both, and legs reach for what is left."""

import numpy as np
import pytest

from daps_tokenizer import Clip
from daps_tokenizer.motion.feet import hold_feet, plant_feet, standing_weights
from daps_tokenizer.motion.kinematics import forward_kinematics, joint_limits
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.robots import G1, H1
from tests.paths import EXAMPLES

WALKS = {robot.name: Clip.load(EXAMPLES / name) for robot, name in ((H1, "walk.csv"), (G1, "walk_g1.csv"))}
each_walk = pytest.mark.parametrize("clip", WALKS.values(), ids=WALKS)


def sliding_of(clip: Clip, poses: np.ndarray) -> float:
    return float(motion_metrics(clip.qpos[None], poses[None], fps=30.0, robot=clip.robot)["foot_sliding"][0])


def standing_clip(clip: Clip) -> np.ndarray:
    """A robot that stands still for two seconds."""
    return np.repeat(clip.qpos[:1], 60, axis=0)


@each_walk
def test_planted_feet_slide_less_than_half(clip: Clip) -> None:
    swaying = clip.qpos.copy()
    swaying[:, 0] += 0.04 * np.sin(np.arange(len(clip)) / 3)  # 4 cm to and fro
    assert sliding_of(clip, plant_feet(swaying, fps=30.0, robot=clip.robot)) < sliding_of(clip, swaying) / 2


@each_walk
def test_held_feet_slide_less_and_the_root_stays(clip: Clip) -> None:
    shaking = clip.qpos.copy()
    shaking[:, 7:] += np.random.default_rng(0).normal(0, 0.02, shaking[:, 7:].shape)  # as a decoder's joints do
    planted = plant_feet(shaking, fps=30.0, robot=clip.robot)
    held = hold_feet(planted, fps=30.0, robot=clip.robot)
    assert sliding_of(clip, held) < 0.7 * sliding_of(clip, planted)
    np.testing.assert_array_equal(held[:, :7], planted[:, :7])
    moved = np.abs(held - planted)[:, 7:].max(0) > 0
    assert moved.any() and not moved[clip.robot.joint_names.index("left_elbow")]  # legs alone
    lowest, highest = joint_limits(clip.robot).T
    assert (held[:, 7:] >= lowest).all() and (held[:, 7:] <= highest).all()


@each_walk
def test_feet_that_already_stand_still_are_left_alone(clip: Clip) -> None:
    still = standing_clip(clip)
    assert np.abs(plant_feet(still, fps=30.0, robot=clip.robot) - still).max() < 1e-6
    assert np.abs(hold_feet(still, fps=30.0, robot=clip.robot) - still).max() < 1e-6


@each_walk
def test_feet_in_the_air_are_left_alone(clip: Clip) -> None:
    flying = clip.qpos.copy()
    flying[:, 2] += 1.0
    assert standing_weights(flying, fps=30.0, robot=clip.robot)[0].max() < 1e-6
    assert np.abs(hold_feet(flying, fps=30.0, robot=clip.robot) - flying).max() < 1e-6


@each_walk
def test_an_offset_is_smooth_where_a_foot_is_set_down(clip: Clip) -> None:
    feet = [clip.robot.site_names.index(foot) for foot in clip.robot.feet]
    swaying = clip.qpos.copy()
    swaying[:, 1] += 0.03 * np.sin(np.arange(len(clip)) / 4)
    held = hold_feet(swaying, fps=30.0, robot=clip.robot)
    after, before = (forward_kinematics(poses, clip.robot).positions[:, feet] for poses in (held, swaying))
    assert 0.005 < np.abs(after - before).max() < 0.06
    assert np.abs(np.diff(after - before, axis=0)).max() < 0.5 * np.abs(np.diff(before, axis=0)).max()
