"""Motion to train on: clips of a robot, as LAFAN1 retargeted to the Unitree H1 or G1, cut into windows when they are
asked for.

A window may begin at any frame that leaves room for it, so an epoch has every window of every training clip once.
"""

from __future__ import annotations

import fnmatch
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daps_tokenizer.config import NormalisationConfig, Robot
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS, VALIDATION_WINDOWS, draw_windows, window_starts
from daps_tokenizer.motion.features import FPS, compute_features, feature_table, mirror_features
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import H1
from train.items import uniform_of

EXPECTED = "clips of the LAFAN1 data set with their names"


@dataclass(frozen=True)
class MotionAugmentation:
    """Which clips are trained on, and how they are augmented.

    ``clips``: the file in the folder of data sets. ``held_out``: names of the clips that are never trained on and that
    the model is tested on. ``mirror``: half of the windows have left and right exchanged. ``speeds``: every clip is in
    the data once for each speed, a factor; velocities are those of the faster or slower clip.
    """

    clips: str = "lafan1_h1.npz"
    held_out: tuple[str, ...] = VALIDATION_CLIPS
    mirror: bool = False
    speeds: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.speeds or min(self.speeds) < 0.25 or max(self.speeds) > 4:
            raise ConfigError(f"motion.speeds must be numbers from 0.25 to 4, not {list(self.speeds)}")
        if not self.held_out:
            raise ConfigError("motion.held_out is empty; name at least one clip to test on")


@dataclass(frozen=True)
class MotionWindows:
    """Windows of clips that lie one after the other in memory.

    Args:
        features: (frames of all clips, F) float32, in the features' own units.
        starts: the first frame of each window, (windows,).
        length: frames in a window.
        robot: whose clips.
        mirror: whether a window's seed decides that left and right are exchanged.
    """

    features: np.ndarray
    starts: np.ndarray
    length: int
    robot: Robot = H1
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """(B, length, F) float32; each is mirrored or not as ``seed`` and its index decide."""
        frames = self.starts[indices][:, None] + np.arange(self.length)
        windows: np.ndarray = self.features[frames]
        if self.mirror:
            chosen = uniform_of(indices, seed, 1)[:, 0] < 0.5
            windows[chosen] = mirror_features(windows[chosen], self.robot)
        return windows


class MotionSplits(NamedTuple):
    """Windows to train and to test on, and those held out of the training clips."""

    train: MotionWindows
    test: MotionWindows
    validation: MotionWindows | None = None


def load_clips(path: Path, robot: Robot = H1) -> dict[str, np.ndarray]:
    """The clips of a file by name, each (frames, 7 + joints) float64 at 30 frames per second.

    Raises:
        InputError: it cannot be read, or holds clips without names or of another robot.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {EXPECTED}")
    clips = Clip.load_all(path, list, robot=robot)
    return {str(clip.file_layout.clip): resample(clip.qpos, from_fps=clip.fps, to_fps=FPS) for clip in clips}


def open_motion(
    path: Path,
    input_shape: tuple[int, ...],
    augmentation: MotionAugmentation | None = None,
    validation_items: int = 0,
    robot: Robot = H1,
) -> MotionSplits:
    """Every window of the training clips, and 10,000 windows drawn uniformly from the held-out clips.

    Args:
        path: of the clips, as ``lafan1_h1.npz``.
        input_shape: (frames, F) of an item.
        augmentation: of the training clips; None leaves them as they are.
        validation_items: windows that are held out: the end of every training clip, so that no frame is in both.
        robot: whose clips.

    Raises:
        ConfigError: a model with other features, or a clip that is too short for what is held out of it.
        InputError: a file that cannot be read, or that lacks a clip to hold out or others to train on, or only clips
            shorter than a window.
    """
    augmentation = augmentation or MotionAugmentation()
    features = len(feature_table(robot))
    if len(input_shape) != 2 or input_shape[1] != features:
        raise ConfigError(
            f"dataset motion has items of (frames, {features}) of the {robot.name}, not {list(input_shape)}"
        )
    clips = load_clips(path, robot)
    if not set(augmentation.held_out) < set(clips):
        raise InputError(
            f"{path}: cannot be read (not {', '.join(augmentation.held_out)} and others); expected {EXPECTED}"
        )
    train = [clip for name, clip in clips.items() if name not in augmentation.held_out]
    length, held_out = input_shape[0], None
    if validation_items > VALIDATION_WINDOWS:
        raise ConfigError(f"validation_items of motion are at most {VALIDATION_WINDOWS:,}, not {validation_items}")
    if validation_items:
        frames = length - 1 + -(-validation_items // len(train))
        if min(map(len, train)) < frames + length:
            raise ConfigError(f"validation_items {validation_items} leave nothing of the shortest clip to train on")
        tails = windows_of([clip[-frames:] for clip in train], length, robot)
        held_out = replace(tails, starts=draw_windows(tails.starts)[:validation_items])
        train = [clip[:-frames] for clip in train]
    played = [
        clip if speed == 1 else resample(clip, from_fps=FPS, to_fps=FPS / speed)
        for speed in augmentation.speeds
        for clip in train
    ]
    windows = replace(windows_of(played, length, robot), mirror=augmentation.mirror)
    test = windows_of([clips[name] for name in augmentation.held_out], length, robot)
    for found, purpose in ((windows, "train"), (test, "test")):
        if not len(found):
            raise InputError(f"{path}: all clips to {purpose} on are shorter than a window of {length} frames")
    return MotionSplits(windows, replace(test, starts=draw_windows(test.starts)), held_out)


def normalisation_of(clips: Sequence[np.ndarray], robot: Robot = H1) -> NormalisationConfig:
    """Mean and standard deviation of each feature over all frames of clips.

    Mirror images count too where the robot's two sides are alike.
    """
    features = np.concatenate([compute_features(clip, fps=FPS, robot=robot) for clip in clips])
    if feature_table(robot).mirror_columns is not None:
        features = np.concatenate([features, mirror_features(features, robot)])
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return NormalisationConfig(tuple((mean.round(6) + 0.0).tolist()), tuple(std.round(6).tolist()))


def windows_of(clips: Sequence[np.ndarray], length: int, robot: Robot = H1) -> MotionWindows:
    """Every window of clips (frames, 7 + joints) at 30 frames per second; none reaches over the end of its clip."""
    features = np.concatenate([compute_features(clip, fps=FPS, robot=robot) for clip in clips])
    return MotionWindows(features, window_starts([len(clip) for clip in clips], length), length, robot)


_NETWORKS = """modality: motion
num_tokens: 64
vocab_size: 1024
recognition: {hidden_size: 32, num_heads: 4, num_layers: 1, mlp_ratio: 4}
generative: {kind: spectral, embedding_size: 256, hidden_size: 512, num_layers: 1, refinement: 224}
transform: {frequencies: 14, components: 64, size: 256, hidden: 512}
likelihood: {kind: gaussian_constant, variance: 0.25}
"""


def model_yaml(
    robot: Robot,
    clips: Sequence[np.ndarray],
    *,
    name: str,
    frames: int = 32,
    weights: Mapping[str, float] | None = None,
) -> str:
    """The config of a motion tokenizer for a robot: networks of 640 bits a window, and what its clips are standardised
    by. Sizes are for the user to change."""
    table = feature_table(robot)
    normalisation = normalisation_of(clips, robot)
    scales = [_weight_of(feature, robot, weights or {}) for feature in table.names]
    std = [round(value / scale, 6) for value, scale in zip(normalisation.std, scales, strict=True)]
    said = ", ".join(f"{pattern} {weight:g}" for pattern, weight in (weights or {}).items())
    lines = [
        f"# A motion tokenizer for the {robot.name}, made by `python -m train motion-model`.",
        f"name: {name}",
        f"input_shape: [{frames}, {len(table)}]",
        *_NETWORKS.splitlines(),
        "# Of each feature over all frames of the training clips and their mirror images"
        + (f"; standard deviations divided by: {said}." if said else "."),
        "normalisation:",
        *_listed("mean", normalisation.mean),
        *_listed("std", std),
        "motion:",
        f"  fps: {FPS}",
        *_listed("joint_names", robot.joint_names),
        *_listed("feature_names", table.names),
        f"  robot: {json.dumps(asdict(robot))}",
    ]
    return "\n".join(lines) + "\n"


def _weight_of(feature: str, robot: Robot, weights: Mapping[str, float]) -> float:
    """The weight of the last pattern that fits a feature."""
    fitting = [
        weight
        for pattern, weight in weights.items()
        if fnmatch.fnmatch(feature, pattern) or (pattern == "joints" and feature in robot.joint_names)
    ]
    return fitting[-1] if fitting else 1.0


def _listed(key: str, values: Sequence[object]) -> list[str]:
    """A list in YAML, in lines of at most 118 characters."""
    text = f"{key}: [{', '.join(map(str, values))}]"
    return textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
