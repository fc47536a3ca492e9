"""Windows of motion labelled by its kind: dance, fight, run, walk, as the names of LAFAN1's clips say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daps_tokenizer.data.archives import reading
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from train.data import Dataset
from train.motion import EXPECTED, MotionWindows, load_clips, windows_of


def category(clip: str) -> str:
    """The word that a clip's name begins with.

    >>> category("fightAndSports1_subject4")
    'fightAndSports'
    """
    return re.split(r"\d", clip, maxsplit=1)[0]


def motion_by_category(path: Path, frames: int) -> Dataset:
    """Windows that do not overlap, of the clips whose kind is among those of the validation clips.

    Args:
        path: ``lafan1_h1.npz``.
        frames: length of a window.

    Returns:
        Training clips and validation clips, each window labelled with its kind: an index into the sorted kinds.

    Raises:
        InputError: not that file.
    """
    with reading(path, EXPECTED):
        clips = load_clips(path)
        kinds = sorted({category(name) for name in VALIDATION_CLIPS})
        validation = [name for name in VALIDATION_CLIPS if name in clips]
        training = [name for name in clips if name not in VALIDATION_CLIPS and category(name) in kinds]
        train, train_labels = _windows(clips, training, kinds, frames)
        test, test_labels = _windows(clips, validation, kinds, frames)
    return Dataset(train, test, train_labels, test_labels)


def _windows(
    clips: dict[str, np.ndarray], names: Sequence[str], kinds: list[str], frames: int
) -> tuple[MotionWindows, np.ndarray]:
    whole = windows_of([clips[name] for name in names], frames)
    offsets = np.cumsum([0, *(len(clips[name]) for name in names)])
    starts = [np.arange(begin, end - frames + 1, frames) for begin, end in itertools.pairwise(offsets)]
    labels = [np.full(len(each), kinds.index(category(name))) for each, name in zip(starts, names, strict=True)]
    return MotionWindows(whole.features, np.concatenate(starts), frames), np.concatenate(labels)
