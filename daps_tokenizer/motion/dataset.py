"""Windows of many clips, to train on and to evaluate on: LAFAN1, or clips of one's own.

A window may begin at any frame that leaves room for it, so all windows together have every frame of every clip in every
place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.clip_files import FORMATS
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.features import FPS, compute_features
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import H1

# Held out in training, as in the code of the paper's authors.
VALIDATION_CLIPS = ("dance2_subject2", "fight1_subject2", "run2_subject1", "walk2_subject4")
VALIDATION_WINDOWS = 10_000
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class WindowData:
    """Windows of the features of clips; implements :class:`~daps_tokenizer.data.datasets.Data`.

    Args:
        features: (frames of all clips, F) float32.
        starts: the first frame of each window, (windows,).
        length: frames in a window.
        description: what protocols call the data.
    """

    features: np.ndarray
    starts: np.ndarray
    length: int
    description: str
    fit: str = "window"
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def entries(self) -> Iterable[tuple[str, int]]:
        """The first frame of each window, counted over all clips."""
        return ((f"frame {start}", -1) for start in self.starts)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Windows (B, length, F) float32."""
        windows: np.ndarray = self.features[self.starts[indices][:, None] + np.arange(self.length)]
        return windows


def open_motion_data(
    path: Path,
    length: int,
    *,
    fps: float = FPS,
    robot: Robot = H1,
    split: Literal["train", "test"] = "test",
    limit: int | None = None,
) -> WindowData:
    """Windows of clips, at most 10,000 drawn uniformly: the same ones every time.

    Args:
        path: an NPZ archive, a CSV file, or a folder of these. Of LAFAN1 the test split is the four clips that no
            built-in model was trained on; anything else has one split, and is used whole.
        length: frames in a window.
        fps: frames per second of the model, which clips are brought to.
        robot: whose clips.
        split: of LAFAN1.
        limit: how many windows, the first ones.

    Raises:
        InputError: nothing there, no clips, a clip that is not valid, or only clips shorter than a window.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no clips; expected {' or '.join(FORMATS)} files")
    choose = functools.partial(names_of, split)
    clips = [clip for file in files for clip in Clip.load_all(file, choose, robot=robot)]
    features = [
        compute_features(resample(clip.qpos, from_fps=clip.fps, to_fps=fps), fps=fps, robot=robot) for clip in clips
    ]
    starts = window_starts([len(each) for each in features], length)
    if not len(starts):
        raise InputError(f"{path}: all clips are shorter than a window of {length} frames")
    starts = draw_windows(starts)[:limit]
    return WindowData(np.concatenate(features), starts, length, f"{path.name}, {split}, windows of {length} frames")


def window_starts(lengths: Sequence[int], length: int) -> np.ndarray:
    """The first frame of every window in clips that lie one after the other; none reaches over the end of its clip."""
    ends = np.cumsum(lengths)
    parts = [np.arange(end - size, end - length + 1) for size, end in zip(lengths, ends, strict=True)]
    return np.concatenate(parts)


def draw_windows(starts: np.ndarray) -> np.ndarray:
    """Up to 10,000 different windows, drawn uniformly, always the same ones."""
    random = np.random.default_rng(_VALIDATION_SEED)
    return starts[random.choice(len(starts), min(VALIDATION_WINDOWS, len(starts)), replace=False)]


def names_of(split: str, names: list[str]) -> list[str]:
    """Those of the clips in an archive that belong to a split."""
    if not set(VALIDATION_CLIPS) < set(names):
        return names
    if split == "test":
        return list(VALIDATION_CLIPS)  # in the order of the authors' list, which decides what is drawn
    return [name for name in names if name not in VALIDATION_CLIPS]
