"""Features of motion, and the way back to poses."""

import numpy as np
import pytest

from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.features import (
    compute_features,
    feature_table,
    mirror_features,
    standing,
    to_qpos,
)
from daps_tokenizer.motion.kinematics import (
    heading_quaternion,
    joint_limits,
    mirrored,
    multiply_quaternions,
    rotation_about,
)
from daps_tokenizer.motion.robots import H1
from tests.motion.motions import LAFAN, needs_lafan, random_poses, smooth_motion


def turned_and_moved(qpos: np.ndarray, angle: float) -> np.ndarray:
    """The same motion, elsewhere and facing another way."""
    moved = qpos.copy()
    moved[:, :3] = qpos[:, :3] @ rotation_about(2, np.array(angle)).T + (5.0, -3.0, 0.0)
    moved[:, 3:7] = multiply_quaternions(heading_quaternion(np.full(len(qpos), angle)), qpos[:, 3:7])
    return moved


def same_rotations(quaternions: np.ndarray, others: np.ndarray, tolerance: float) -> bool:
    return bool((1 - np.abs((quaternions * others).sum(1)) < tolerance).all())


def test_there_are_127_features_with_names_of_their_own() -> None:
    assert len(feature_table(H1).names) == len(set(feature_table(H1).names)) == 127
    features = compute_features(smooth_motion(40), fps=30.0)
    assert features.shape == (40, 127) and features.dtype == np.float32
    assert (features.std(0) > 0).all()


def test_features_depend_on_neither_place_nor_heading() -> None:
    qpos = smooth_motion(60)
    moved = turned_and_moved(qpos, 2.0)
    np.testing.assert_allclose(compute_features(moved, fps=30.0), compute_features(qpos, fps=30.0), atol=1e-4)


def test_a_quaternion_and_its_negative_are_one_pose() -> None:
    qpos = smooth_motion(30)
    flipped = qpos.copy()
    flipped[::3, 3:7] *= -1
    np.testing.assert_allclose(compute_features(flipped, fps=30.0), compute_features(qpos, fps=30.0), atol=1e-5)


def test_named_features_are_what_they_say() -> None:
    qpos = np.tile(standing(), (4, 1))
    qpos[:, 0] = np.arange(4) * 0.1  # 3 m/s forward
    qpos[:, 7 + H1.joint_names.index("torso")] = np.arange(4) * 0.01
    named = dict(zip(feature_table(H1).names, compute_features(qpos, fps=30.0)[1], strict=True))
    assert named["root_height"] == pytest.approx(1.045)
    assert named["root_velocity_x"] == pytest.approx(3.0)
    assert named["root_velocity_y"] == named["root_tilt_x"] == 0
    assert named["torso_velocity"] == pytest.approx(0.3)
    assert named["left_foot_height"] == pytest.approx(1.045 - 0.1742 - 0.8 - 0.05)
    assert named["gravity_z"] == pytest.approx(-1.0)
    assert named["head_position_z"] == pytest.approx(0.3)
    assert named["pelvis_rotation_z"] == pytest.approx(-np.sin(0.01))


def test_mirrored_features_are_those_of_mirrored_poses() -> None:
    qpos = smooth_motion(60)
    features = compute_features(qpos, fps=30.0)
    np.testing.assert_allclose(mirror_features(features), compute_features(mirrored(qpos), fps=30.0), atol=1e-5)
    np.testing.assert_array_equal(mirror_features(mirror_features(features)), features)


def test_velocities_are_per_second() -> None:
    qpos = smooth_motion(30)
    at_30, at_60 = compute_features(qpos, fps=30.0), compute_features(qpos, fps=60.0)
    velocities = np.array(["velocity" in name for name in feature_table(H1).names])
    np.testing.assert_allclose(at_60[:, velocities], 2 * at_30[:, velocities], rtol=1e-5)
    np.testing.assert_array_equal(at_60[:, ~velocities], at_30[:, ~velocities])


def test_poses_come_back_from_features() -> None:
    qpos = smooth_motion(300)
    features = compute_features(qpos, fps=30.0)
    back = to_qpos(features, fps=30.0, start=qpos[0])
    np.testing.assert_allclose(back[:, :3], qpos[:, :3], atol=1e-5)
    np.testing.assert_allclose(back[:, 7:], qpos[:, 7:], atol=1e-6)
    assert same_rotations(back[:, 3:7], qpos[:, 3:7], 1e-10)
    np.testing.assert_allclose(compute_features(back, fps=30.0), features, atol=1e-4)


def test_without_a_start_a_clip_begins_at_the_origin() -> None:
    qpos = smooth_motion(10)
    back = to_qpos(compute_features(qpos, fps=30.0), fps=30.0)
    assert (back[0, :2] == 0).all()
    assert back[0, 5] == pytest.approx(0, abs=1e-6)  # heading 0
    np.testing.assert_allclose(back[:, 2], qpos[:, 2], atol=1e-6)


def test_clips_together_are_as_each_alone() -> None:
    clips = np.stack([smooth_motion(40, seed) for seed in range(3)])
    features = compute_features(clips, fps=30.0)
    alone = [compute_features(clip, fps=30.0) for clip in clips]
    np.testing.assert_allclose(features, alone, rtol=0, atol=1e-6)
    back = [to_qpos(each, fps=30.0, start=clip[0]) for each, clip in zip(alone, clips, strict=True)]
    np.testing.assert_allclose(to_qpos(np.stack(alone), fps=30.0, start=clips[:, 0]), back, rtol=0, atol=1e-12)


def test_joints_stay_within_their_limits_and_quaternions_normalised() -> None:
    features = 10 * np.random.default_rng(0).standard_normal((20, 127))
    back = to_qpos(features, fps=30.0)
    assert (back[:, 7:] >= joint_limits(H1)[:, 0]).all() and (back[:, 7:] <= joint_limits(H1)[:, 1]).all()
    np.testing.assert_allclose(np.linalg.norm(back[:, 3:7], axis=1), 1.0, atol=1e-12)


def test_one_frame_stands_still() -> None:
    features = compute_features(random_poses(1), fps=30.0)
    assert not features[0, ["velocity" in name for name in feature_table(H1).names]].any()


@pytest.mark.parametrize("shape", [(0, 26), (26,), (3, 25)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"qpos: an array of shape .* expected \(frames, 26\)"):
        compute_features(np.zeros(shape), fps=30.0)


def test_features_and_start_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"features: .* expected \(frames, 127\)"):
        to_qpos(np.zeros((4, 126)), fps=30.0)
    with pytest.raises(InputError, match=r"start: .* expected \(frames, 26\)"):
        to_qpos(np.zeros((4, 127)), fps=30.0, start=np.zeros(7))


@pytest.mark.parametrize("fps", [0.0, -30.0, float("nan")])
def test_impossible_frame_rates_are_refused(fps: float) -> None:
    with pytest.raises(InputError, match="fps must be a positive number"):
        compute_features(smooth_motion(4), fps=fps)


@needs_lafan
@pytest.mark.parametrize("clip", ["dance2_subject2", "fallAndGetUp2_subject3", "run2_subject1"])
def test_round_trip_of_real_clips(clip: str) -> None:
    """30 s of a clip: the root's path to under 0.1 mm, features exactly but where a joint was beyond its limits."""
    from train.motion import load_clips

    qpos = load_clips(LAFAN)[clip][1000:1900].astype(np.float64)
    features = compute_features(qpos, fps=30.0)
    back = to_qpos(features, fps=30.0, start=qpos[0])
    assert np.abs(back[:, :3] - qpos[:, :3]).max() < 1e-4
    assert same_rotations(back[:, 3:7], qpos[:, 3:7] / np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True), 1e-10)
    within = np.clip(qpos[:, 7:], *joint_limits(H1).T)
    np.testing.assert_allclose(back[:, 7:], within, atol=1e-6)
    qpos[:, 7:] = within
    np.testing.assert_allclose(compute_features(back, fps=30.0), compute_features(qpos, fps=30.0), atol=1e-3)
