"""Motion to train on: LAFAN1 clips retargeted to the Unitree H1, cut into windows when they are asked for.

A window may begin at any frame that leaves room for it, so an epoch has every window of every training clip once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daps_tokenizer.config import NormalisationConfig
from daps_tokenizer.data.archives import read_npz, reading
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS, draw_windows, window_starts
from daps_tokenizer.motion.features import FEATURE_NAMES, FPS, compute_features, mirror_features
from daps_tokenizer.motion.resample import resample

EXPECTED = "the LAFAN1 clips of the H1 with data, split_points, names and fps"


@dataclass(frozen=True)
class MotionAugmentation:
    """How training clips are augmented.

    ``mirror``: half of the windows have left and right exchanged. ``speeds``: every clip is in the data once for each
    speed, a factor; velocities are those of the faster or slower clip.
    """

    mirror: bool = False
    speeds: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.speeds or min(self.speeds) < 0.25 or max(self.speeds) > 4:
            raise ConfigError(f"motion.speeds must be numbers from 0.25 to 4, not {list(self.speeds)}")


@dataclass(frozen=True)
class MotionWindows:
    """Windows of clips that lie one after the other in memory.

    Args:
        features: (frames of all clips, 127) float32, in the features' own units.
        starts: the first frame of each window, (windows,).
        length: frames in a window.
        mirror: whether a window's seed decides that left and right are exchanged.
    """

    features: np.ndarray
    starts: np.ndarray
    length: int
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """(B, length, 127) float32; each is mirrored or not as ``seed`` and its index decide."""
        frames = self.starts[indices][:, None] + np.arange(self.length)
        windows: np.ndarray = self.features[frames]
        if self.mirror:
            chosen = np.array([np.random.default_rng([*seed, index]).random() < 0.5 for index in indices.tolist()])
            windows[chosen] = mirror_features(windows[chosen])
        return windows


class MotionSplits(NamedTuple):
    """Windows to train and to test on, and those held out of the training clips."""

    train: MotionWindows
    test: MotionWindows
    validation: MotionWindows | None = None


def load_clips(path: Path) -> dict[str, np.ndarray]:
    """The clips of ``lafan1_h1.npz`` by name, each (frames, 26) float32 at 30 frames per second.

    Raises:
        InputError: not that file.
    """
    arrays = read_npz(path, "data", "split_points", "names", "fps", source=str(path), expected=EXPECTED)
    data, ends, names, fps = arrays.values()
    with reading(path, EXPECTED):
        if int(fps) != FPS or data.ndim != 2 or data.shape[1] != 26 or len(ends) != len(names) + 1:
            raise ValueError("not 26 columns at 30 fps")
        return {str(name): data[begin:end] for name, begin, end in zip(names, ends[:-1], ends[1:], strict=True)}


def open_motion(
    path: Path, input_shape: tuple[int, ...], augmentation: MotionAugmentation | None = None, validation_items: int = 0
) -> MotionSplits:
    """Every window of the training clips, and 10,000 windows drawn uniformly from the four clips of the test set.

    Args:
        path: ``lafan1_h1.npz``.
        input_shape: (frames, 127) of an item.
        augmentation: of the training clips; None leaves them as they are.
        validation_items: windows that are held out: the end of every training clip, so that no frame is in both.

    Raises:
        ConfigError: a model with other features, or a clip that is too short for what is held out of it.
        InputError: not that file.
    """
    if len(input_shape) != 2 or input_shape[1] != len(FEATURE_NAMES):
        raise ConfigError(f"dataset motion has items of (frames, {len(FEATURE_NAMES)}), not {list(input_shape)}")
    clips = load_clips(path)
    if not set(VALIDATION_CLIPS) < set(clips):
        raise InputError(f"{path}: cannot be read (not {', '.join(VALIDATION_CLIPS)} and others); expected {EXPECTED}")
    train = [clip for name, clip in clips.items() if name not in VALIDATION_CLIPS]
    length, held_out = input_shape[0], None
    if validation_items:
        frames = length - 1 + -(-validation_items // len(train))
        if min(map(len, train)) < frames + length:
            raise ConfigError(f"validation_items {validation_items} leave nothing of the shortest clip to train on")
        tails = windows_of([clip[-frames:] for clip in train], length)
        held_out = replace(tails, starts=draw_windows(tails.starts)[:validation_items])
        train = [clip[:-frames] for clip in train]
    augmentation = augmentation or MotionAugmentation()
    played = [
        clip if speed == 1 else resample(clip.astype(np.float64), from_fps=FPS, to_fps=FPS / speed)
        for speed in augmentation.speeds
        for clip in train
    ]
    windows = replace(windows_of(played, length), mirror=augmentation.mirror)
    test = windows_of([clips[name] for name in VALIDATION_CLIPS], length)
    return MotionSplits(windows, replace(test, starts=draw_windows(test.starts)), held_out)


def normalisation_of(clips: Sequence[np.ndarray]) -> NormalisationConfig:
    """Mean and standard deviation of each feature over all frames of clips and of their mirror images."""
    features = np.concatenate([compute_features(clip, fps=FPS) for clip in clips])
    features = np.concatenate([features, mirror_features(features)])
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return NormalisationConfig(tuple((mean.round(6) + 0.0).tolist()), tuple(std.round(6).tolist()))


def windows_of(clips: Sequence[np.ndarray], length: int) -> MotionWindows:
    """Every window of clips (frames, 26) at 30 frames per second; no window reaches over the end of its clip."""
    features = np.concatenate([compute_features(clip, fps=FPS) for clip in clips])
    return MotionWindows(features, window_starts([len(clip) for clip in clips], length), length)
