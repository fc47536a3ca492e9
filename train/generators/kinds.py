"""Windows of motion as codes, labelled by what they show, with the codes of the window before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.tokenizer import Tokenizer
from train.data import Dataset
from train.generators.described import encoded_clips, kept_arrays, motion_tokenizer, split_by_share
from train.generators.descriptions import activities
from train.items import uniform_of

# Labels, and what descriptions call them.
KINDS = {
    "stand": "stand",
    "walk": "walk",
    "run": "run",
    "sprint": "sprint",
    "jump": "jump",
    "fall and get up": "tumble",
    "dance": "dance",
    "fight": "fight",
}
HIDDEN = 0.1  # how often the window before is hidden


@dataclass(frozen=True)
class KindItems:
    """Windows to train on; a row is everything that :func:`train.generators.base.unpack` takes apart again.

    Args:
        codes: (windows, N).
        before: the row of the window before in ``codes``, −1 where there is none.
        kinds: (windows,), numbers of :data:`KINDS`.
        share, frames: (windows,): how far into its clip a window begins, from 0 to 1, and the frames of that clip.
        chosen: which windows these items are.
    """

    codes: np.ndarray
    before: np.ndarray
    kinds: np.ndarray
    share: np.ndarray
    frames: np.ndarray
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> np.ndarray:
        """(items,) int64."""
        labels: np.ndarray = self.kinds[self.chosen]
        return labels

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """Rows (B, 2 N + 1) float32, the window before hidden as often as :data:`HIDDEN` says; see
        :meth:`train.data.Items.read`."""
        return self._rows(indices, uniform_of(indices, seed, 1)[:, 0] >= HIDDEN)

    def read_first(self, indices: Sequence[int]) -> np.ndarray:
        """Rows with nothing hidden: for measuring."""
        return self._rows(np.array(indices), np.ones(len(indices), bool))

    def _rows(self, indices: np.ndarray, known: np.ndarray) -> np.ndarray:
        rows = self.chosen[indices]
        before = self.before[rows]
        parts = (self.codes[rows], self.codes[np.maximum(before, 0)], (known & (before >= 0))[:, None])
        return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


@dataclass(frozen=True)
class KindCodes:
    """What :class:`train.generators.codes.LabelledCodes` is for codes with labels alone."""

    items: KindItems
    record: dict[str, Any]
    classes: tuple[str, ...] = tuple(KINDS)

    def split(self, validation_items: int) -> Dataset:
        """Items to train on, and those held out: at the end of every clip, so that no frame is in both."""
        kept, held_out = split_by_share(self.items.share, self.items.frames, validation_items)
        train, watched = replace(self.items, chosen=kept), replace(self.items, chosen=held_out)
        return Dataset(train, watched, train_labels=train.labels, test_labels=watched.labels, validation=watched)


def open_kinds(tokenizer_name: str, data: Path, folder: Path) -> KindCodes:
    """Codes of the training clips of LAFAN1 and of their mirror images, made once and kept in ``folder``.

    Raises:
        ConfigError: a tokenizer of something else than motion.
        DapsError: errors of clips and of the tokenizer.
    """
    tokenizer, record = motion_tokenizer(tokenizer_name)
    path = data / f"lafan1_{robot_of(tokenizer.config).name}.npz"
    arrays = kept_arrays(folder, "kinds", record | {"kinds": list(KINDS)}, path, lambda: vars(_make(tokenizer, path)))
    return KindCodes(KindItems(**arrays), record)


def _make(tokenizer: Tokenizer, path: Path) -> KindItems:
    assert tokenizer.config.motion is not None
    robot, fps, length = robot_of(tokenizer.config), tokenizer.config.motion.fps, tokenizer.config.input_shape[0]
    numbers = {activity: number for number, activity in enumerate(KINDS.values())}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("codes", "before", "kinds", "share", "frames")}
    total = 0
    for clip in encoded_clips(tokenizer, path):
        windows = (clip.poses[start : start + length + 1] for start in clip.starts)
        kinds = [numbers[activities(clip.name, poses, fps=fps, robot=robot)[1].activity] for poses in windows]
        parts["codes"].append(clip.codes)
        parts["before"].append(clip.before(length, total))
        parts["kinds"].append(np.array(kinds))
        parts["share"].append(clip.starts / len(clip.poses))
        parts["frames"].append(np.full(len(clip.starts), len(clip.poses)))
        total += len(kinds)
    return KindItems(**{name: np.concatenate(values) for name, values in parts.items()}, chosen=np.arange(total))
