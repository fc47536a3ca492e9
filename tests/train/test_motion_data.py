"""Motion as training data: windows of real clips, training and validation clips apart."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.features import compute_features, mirror_features
from tests.motion.motions import smooth_motion
from tests.settings import MNIST, SMALL_MOTION
from train.data import load_dataset
from train.experiment import Experiment
from train.motion import MotionAugmentation, MotionWindows, windows_of


def write_archive(folder: Path, names: tuple[str, ...], frames: int = 40, fps: int = 30, columns: int = 26) -> Path:
    """A small ``lafan1_h1.npz``; clip i is ``smooth_motion`` of seed i."""
    clips = [smooth_motion(frames, seed)[:, :columns].astype(np.float32) for seed in range(len(names))]
    ends = np.arange(len(names) + 1) * frames
    np.savez(folder / "lafan1_h1.npz", data=np.concatenate(clips), split_points=ends, names=np.array(names), fps=fps)
    return folder


def test_every_window_of_the_training_clips_and_none_over_their_ends(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS, "run1_subject2"))
    dataset = load_dataset("motion", folder, input_shape=(32, 127))
    assert len(dataset.train) == 2 * 9 and len(dataset.test) == 4 * 9
    clip = compute_features(smooth_motion(40, 5).astype(np.float32), fps=30.0)
    windows = dataset.train.read(np.array([9, 17]), seed=(0,))
    assert windows.dtype == np.float32
    np.testing.assert_array_equal(windows, np.stack([clip[:32], clip[8:]]))


def test_half_of_the_windows_are_mirrored_as_the_seed_decides(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS))
    plain = load_dataset("motion", folder, input_shape=(32, 127)).train
    mirrored = load_dataset("motion", folder, motion=MotionAugmentation(mirror=True), input_shape=(32, 127))
    indices = np.tile(np.arange(9), 20)
    original = plain.read(indices, seed=(0,))
    seen = [mirrored.train.read(indices, seed=(seed,)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
    exchanged = (seen[0] != original).any((1, 2))
    np.testing.assert_array_equal(seen[0][exchanged], mirror_features(original[exchanged]))


def test_about_half_of_the_windows_are_mirrored() -> None:
    plain = windows_of([smooth_motion(1000)], 2)
    indices = np.arange(len(plain))
    seen = dataclasses.replace(plain, mirror=True).read(indices, seed=(0,))
    assert (seen != plain.read(indices, seed=(0,))).any((1, 2)).mean() == pytest.approx(0.5, abs=0.05)


def test_a_clip_played_twice_as_fast_has_half_the_frames_and_twice_the_velocity(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS), frames=80)
    dataset = load_dataset("motion", folder, motion=MotionAugmentation(speeds=(1.0, 2.0)), input_shape=(32, 127))
    assert len(dataset.train) == (80 - 31) + (41 - 31)  # the last frame of 80 lies half a frame past the 40th
    assert len(dataset.test) == 4 * (80 - 31)  # held-out clips are left as they are
    clip = compute_features(smooth_motion(80, 0).astype(np.float32)[::2], fps=30.0)
    np.testing.assert_allclose(dataset.train.read(np.array([49]), seed=(0,))[0], clip[:32], atol=1e-5)


def test_augmentation_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"motion\.speeds must be numbers from 0\.25 to 4, not \[0\.1\]"):
        MotionAugmentation(speeds=(0.1,))
    with pytest.raises(ConfigError, match="it goes with dataset motion, not mnist"):
        Experiment("odd", MNIST, "mnist", "daps", steps=1, batch_size=1, motion=MotionAugmentation())


def test_validation_windows_are_the_same_every_time(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS))
    first, second = (load_dataset("motion", folder, input_shape=(32, 127)).test for _ in range(2))
    assert isinstance(first, MotionWindows) and isinstance(second, MotionWindows)
    np.testing.assert_array_equal(first.starts, second.starts)
    assert len(set(first.starts)) == len(first.starts)
    assert not (np.sort(first.starts) == first.starts).all()  # a part of them is of all clips


def test_clips_shorter_than_a_window_have_none() -> None:
    assert len(windows_of([smooth_motion(40), smooth_motion(20)], 32)) == 9


def test_a_model_with_other_features_is_refused(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS))
    with pytest.raises(ConfigError, match=r"motion has items of \(frames, 127\) of the h1, not \[32, 126\]"):
        load_dataset("motion", folder, input_shape=(32, 126))


def test_a_model_of_another_frame_rate_is_refused() -> None:
    assert SMALL_MOTION.motion is not None
    fast = dataclasses.replace(SMALL_MOTION, motion=dataclasses.replace(SMALL_MOTION.motion, fps=50.0))
    with pytest.raises(ConfigError, match=r"dataset motion has 30 frames per second; set motion\.fps to it, not 50"):
        Experiment("fast", fast, "motion", "daps", steps=1, batch_size=1)


def test_clips_of_another_frame_rate_are_brought_to_30_frames_per_second(tmp_path: Path) -> None:
    folder = write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS), frames=80, fps=60)
    train = load_dataset("motion", folder, input_shape=(32, 127)).train
    clip = compute_features(smooth_motion(80).astype(np.float32)[::2], fps=30.0)
    assert len(train) == 41 - 31  # the last frame of 80 lies half a frame past the 40th
    np.testing.assert_allclose(train.read(np.array([0]), seed=(0,))[0], clip[:32], atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"fps": 60}, "all clips to train on are shorter than a window of 32 frames"),
        ({"columns": 25}, r"an array of shape \(40, 25\); expected \(T, 26\) of the h1"),
        (
            {"names": ("walk1_subject1", "run1_subject2")},
            r"cannot be read \(not dance2_subject2, .* expected clips of the LAFAN1 data set with their names",
        ),
    ],
)
def test_another_file_is_refused(tmp_path: Path, wrong: dict[str, object], reason: str) -> None:
    folder = write_archive(tmp_path, **({"names": ("walk1_subject1", *VALIDATION_CLIPS)} | wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"lafan1_h1\.npz: {reason}"):
        load_dataset("motion", folder, input_shape=(32, 127))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lafan1_h1\.npz: no such file; expected clips of the LAFAN1 data set"):
        load_dataset("motion", tmp_path, input_shape=(32, 127))
