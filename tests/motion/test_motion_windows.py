"""Clips at other frame rates, and as windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import heading_quaternion, split_heading
from daps_tokenizer.motion.resample import resample, resampled_length, slerp
from daps_tokenizer.motion.windows import cut_windows, join_windows, soften_seams
from tests.motion.motions import smooth_motion

# Windows


@given(st.integers(1, 100), st.integers(1, 9), st.data())
def test_windows_make_the_same_clip_again(frames: int, length: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, length - 1))
    features = np.random.default_rng(0).normal(size=(frames, 3))
    windows = cut_windows(features, length, overlap=overlap)
    assert windows.shape[1:] == (length, 3)
    np.testing.assert_allclose(join_windows(windows, frames, overlap=overlap), features, atol=1e-6)


def test_the_last_window_is_filled_with_its_last_frame() -> None:
    windows = cut_windows(np.arange(5.0)[:, None], 3)
    np.testing.assert_array_equal(windows[..., 0], [[0, 1, 2], [3, 4, 4]])


def test_one_window_fades_into_the_next() -> None:
    joined = join_windows(np.stack([np.zeros((4, 1)), np.ones((4, 1))]), 6, overlap=2)[:, 0]
    np.testing.assert_allclose(joined, [0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)


def test_a_jump_between_windows_is_shared_and_fades_on_both_sides() -> None:
    ramp = np.arange(40.0)[:, None] * [0.1, -0.2]  # continues evenly, so nothing is to be softened
    np.testing.assert_allclose(soften_seams(ramp.reshape(2, 20, 2)), ramp.reshape(2, 20, 2), atol=1e-12)
    jumping = ramp.reshape(2, 20, 2) + np.array([0.0, 1.0])[:, None, None]
    softened = soften_seams(jumping).reshape(40, 2)
    moved = softened - jumping.reshape(40, 2)
    np.testing.assert_array_equal(np.flatnonzero(moved[:, 0]), np.arange(14, 26))
    np.testing.assert_allclose(moved[14:20], -moved[20:26][::-1])
    steps = np.abs(np.diff(softened[:, 0]) - 0.1)
    assert steps.max() < 0.1 < np.abs(np.diff(jumping.reshape(40, 2)[:, 0]) - 0.1).max()


def test_clips_together_are_as_each_alone() -> None:
    clips = np.random.default_rng(0).normal(size=(2, 3, 20, 5))
    windows = cut_windows(clips, 8, overlap=2)
    softened, joined = soften_seams(windows), join_windows(windows, 20, overlap=2)
    for place in np.ndindex(2, 3):
        np.testing.assert_array_equal(windows[place], cut_windows(clips[place], 8, overlap=2))
        np.testing.assert_array_equal(softened[place], soften_seams(windows[place]))
        np.testing.assert_array_equal(joined[place], join_windows(windows[place], 20, overlap=2))
    poses = np.stack([smooth_motion(20, seed) for seed in range(2)])
    alone = [resample(each, from_fps=30.0, to_fps=50.0) for each in poses]
    np.testing.assert_allclose(resample(poses, from_fps=30.0, to_fps=50.0), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("overlap", [-1, 4, 1.5, True])
def test_impossible_overlaps_are_refused(overlap: object) -> None:
    with pytest.raises(InputError, match="overlap of windows of 4 frames must be an integer from 0 to 3, not "):
        cut_windows(np.zeros((9, 1)), 4, overlap=overlap)  # type: ignore[arg-type]


def test_windows_of_another_clip_are_refused() -> None:
    with pytest.raises(InputError, match="3 windows of 4 frames with an overlap of 0 do not make a clip of 8 frames"):
        join_windows(np.zeros((3, 4, 1)), 8)


# Frame rates


@given(st.integers(2, 200), st.sampled_from([24, 25, 29.97, 50, 60, 100, 120, 500]))
def test_a_clip_at_another_rate_is_as_long_and_comes_back_as_long(frames: int, fps: float) -> None:
    there = resampled_length(frames, from_fps=fps, to_fps=30.0)
    assert (there - 1) / 30 >= (frames - 1) / fps - 1e-6 > (there - 2) / 30 - 1e-5
    poses = smooth_motion(frames)
    middle = resample(poses, from_fps=fps, to_fps=30.0)
    assert middle.shape == (there, 26)
    assert resample(middle, from_fps=30.0, to_fps=fps, frames=frames).shape == poses.shape


def test_the_same_rate_changes_nothing() -> None:
    poses = smooth_motion(20)
    assert resample(poses, from_fps=30.0, to_fps=30.0) is poses


def test_frames_that_both_rates_have_are_kept_and_others_lie_between() -> None:
    poses = smooth_motion(31)
    finer = resample(poses, from_fps=30.0, to_fps=60.0)
    np.testing.assert_allclose(finer[::2], poses, atol=1e-12)
    np.testing.assert_allclose(finer[1::2, 7:], (poses[1:, 7:] + poses[:-1, 7:]) / 2, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(finer[:, 3:7], axis=1), 1.0, atol=1e-12)


def test_a_smooth_clip_survives_50_and_100_fps() -> None:
    poses = smooth_motion(90)
    for fps in (50.0, 100.0):
        back = resample(resample(poses, from_fps=30.0, to_fps=fps), from_fps=fps, to_fps=30.0, frames=90)
        np.testing.assert_allclose(back[:-1, 7:], poses[:-1, 7:], atol=0.02)
        np.testing.assert_allclose(back[:-1, :3], poses[:-1, :3], atol=0.005)
        # The last pose stands still for the rest of the last frame at the other rate.
        np.testing.assert_allclose(back[-1, 7:], poses[-1, 7:], atol=0.05)


def test_orientations_turn_evenly_and_the_shorter_way() -> None:
    quaternions = heading_quaternion(np.array([0.0, 1.0]))
    for sign in (1.0, -1.0):  # q and −q are the same orientation
        mixed = slerp(quaternions[:1], sign * quaternions[1:], np.array([[0.25]]))
        assert abs(float(split_heading(mixed)[0][0])) == pytest.approx(0.25)
    same = slerp(quaternions[:1], quaternions[:1], np.array([[0.5]]))
    np.testing.assert_allclose(same, quaternions[:1], atol=1e-15)
