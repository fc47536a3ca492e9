"""Clips of motion as items to encode: their windows, one after the other, each with the kind of its clip as label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.storage import Entry, base_of, below, list_files
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.clip_files import FORMATS
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.dataset import names_of
from daps_tokenizer.motion.features import FPS, compute_features
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import robot_of


@dataclass(frozen=True)
class ClipWindows:
    """Windows of clips that follow each other; implements :class:`~daps_tokenizer.data.datasets.Data`.

    Args:
        windows: (windows, frames, F) float32, or in place of a window why its file cannot be read.
        files: what records say of each.
        description: what protocols call the data.
        labels, classes: the kind of each window's clip.
    """

    windows: list[np.ndarray | InputError]
    files: list[Entry]
    description: str
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    fit: str = "window"

    def __len__(self) -> int:
        return len(self.windows)

    def entries(self) -> Iterable[Entry]:
        """The clip and the frames of each window; of a file of many clips, its size too."""
        return self.files

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Windows (B, frames, F) float32; raises InputError where a file could not be read."""
        found = [self.windows[index] for index in indices.tolist()]
        for window in found:
            if isinstance(window, InputError):
                raise window
        return np.stack(found)


def open_clip_windows(
    path: str, config: TokenizerConfig, *, split: Literal["train", "test"] = "train", limit: int | None = None
) -> ClipWindows:
    """All windows of clips: from the first frame on, one after the other; frames that do not fill one are left out.

    The kind of a clip is what its name begins with, up to the first character that is no letter: ``walk`` of
    ``walk1_subject5``.

    Args:
        path: a file of clips, a folder that is searched to any depth, or a pattern.
        config: of a motion model.
        split: of LAFAN1.
        limit: how many windows, the first ones.

    Raises:
        InputError: nothing there, no clips, or only clips shorter than a window.
    """
    frames, fps, robot = config.input_shape[0], config.motion.fps if config.motion else FPS, robot_of(config)
    windows, files, kinds = list[np.ndarray | InputError](), list[Entry](), list[str]()
    paths = [entry for entry in list_files(path) if entry[0].lower().endswith(tuple(FORMATS))]
    if not paths:
        raise InputError(f"{path}: holds no clips; expected {' or '.join(FORMATS)} files")
    for file, size in paths:
        name = below(base_of(path), file)

        def note(error: InputError, entry: Entry = (name, size)) -> None:
            windows.append(error)
            files.append(entry)
            kinds.append("")

        try:
            clips = Clip.load_all(file, lambda names: names_of(split, names), robot=robot, on_error=note)
        except InputError as error:
            note(error)
            continue
        for clip in clips:
            features = compute_features(resample(clip.qpos, from_fps=clip.fps, to_fps=fps), fps=fps, robot=robot)
            inner = clip.name.removeprefix(file).removeprefix(": ")
            for start in range(0, len(features) - frames + 1, frames):
                windows.append(features[start : start + frames])
                place = f"frames {start} to {start + frames - 1}"
                files.append((f"{name}, {inner}, {place}" if inner else f"{name}, {place}", size))
                kinds.append(_kind_of(inner or Path(file).stem))
    if not any(isinstance(window, np.ndarray) for window in windows):
        broken = next((f" ({window})" for window in windows if isinstance(window, InputError)), "")
        raise InputError(f"{path}: holds no clip of at least {frames} frames, which a window has{broken}")
    classes = tuple(sorted({kind for kind in kinds if kind}))
    labels = np.array([classes.index(kind) if kind else -1 for kind in kinds], np.int64)
    name = f"{path.rstrip('/').rpartition('/')[2]}, {split}, windows of {frames} frames in a row"
    return ClipWindows(windows[:limit], files[:limit], name, labels[:limit], classes)


def _kind_of(name: str) -> str:
    found = re.match(r"[^\W\d_]+", name)
    return found[0] if found else ""
