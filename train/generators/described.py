"""Windows of motion as codes, with what a generator is told of each: descriptions, the path, and the window before."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.files import sha256_of, write_bytes_atomically
from daps_tokenizer.language import sentence_encoder
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.features import compute_features, mirror_features
from daps_tokenizer.motion.generation import REACH, approach, relative_path
from daps_tokenizer.motion.kinematics import mirrored, split_heading
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.tokenizer import Tokenizer
from train.data import Dataset
from train.generators import descriptions
from train.generators.descriptions import Group, activities, sentences, turned_round
from train.items import uniform_of
from train.motion import load_clips

HIDDEN = {"text": 0.15, "path": 0.4, "before": 0.1}  # how often a condition is hidden
_STRIDE = 16  # frames between windows; divides the length of a window
_GAP = 80  # frames between windows to train on and those held out: as long as what a window is told of, or longer
_SMOOTH = 31  # frames over which a path is averaged, twice
_AT_ONCE = 512


@dataclass(frozen=True)
class DescribedItems:
    """Windows to train on; a row is everything that :func:`train.generators.base.unpack` takes apart again.

    Args:
        codes: (windows, N).
        before: the row of the window before in ``codes``, −1 where there is none.
        paths: (windows, 2, 128): as it was, and with a smooth future.
        groups: (windows, 2): the rows of ``texts`` for the exact description, and for that of the activity alone.
        texts: (groups, sentences): rows of ``embeddings``, repeated where there are fewer sentences.
        embeddings: (sentences, 384).
        share: (windows,): how far into its clip a window begins, from 0 to 1.
        frames: (windows,): how many frames its clip has.
        chosen: which windows these items are.
    """

    codes: np.ndarray
    before: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    texts: np.ndarray
    embeddings: np.ndarray
    share: np.ndarray
    frames: np.ndarray
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labels(self) -> np.ndarray:
        """(items,): there are none."""
        return np.full(len(self), -1, np.int64)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """Rows (B, N + 384 + 128 + N + 3) float32: one sentence of each, and conditions hidden as often as
        :data:`HIDDEN` says; see :meth:`train.data.Items.read`."""
        uniform = uniform_of(indices, seed, 6)
        known = uniform[:, :3] >= np.array([HIDDEN[name] for name in ("text", "path", "before")])
        return self._rows(indices, (2**31 * uniform[:, 3:]).astype(np.int64), known)

    def read_first(self, indices: Sequence[int]) -> np.ndarray:
        """Rows of an exact description and the path as it was, nothing hidden: for measuring."""
        return self._rows(np.array(indices), np.zeros((len(indices), 3), np.int64), np.ones((len(indices), 3), bool))

    def _rows(self, indices: np.ndarray, choices: np.ndarray, known: np.ndarray) -> np.ndarray:
        rows = self.chosen[indices]
        groups = self.groups[rows, (choices[:, 0] % 3 == 2).astype(int)]  # the exact one two times of three
        text = self.embeddings[self.texts[groups, choices[:, 1] % self.texts.shape[1]]]
        paths = self.paths[rows, choices[:, 2] % 2].copy()
        before = self.before[rows]
        known = known.copy()
        known[:, 2] &= before >= 0
        paths[~known[:, 2], : 2 * REACH] = 0  # what begins has no past
        parts = (self.codes[rows], text, paths, self.codes[np.maximum(before, 0)], known)
        return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


@dataclass(frozen=True)
class DescribedCodes:
    """What :class:`train.generators.codes.LabelledCodes` is for codes with labels."""

    items: DescribedItems
    record: dict[str, Any]
    classes: tuple[str, ...] = ()

    def split(self, validation_items: int) -> Dataset:
        """Items to train on, and those held out: at the end of every clip, so that no frame is in both."""
        kept, held_out = split_by_share(self.items.share, self.items.frames, validation_items)
        train, watched = replace(self.items, chosen=kept), replace(self.items, chosen=held_out)
        return Dataset(train, watched, train_labels=train.labels, test_labels=watched.labels, validation=watched)


def split_by_share(share: np.ndarray, frames: np.ndarray, validation_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows to train on, and those at the end of every clip, which begin :data:`_GAP` frames later at least.

    Args:
        share, frames: (windows,): how far into its clip a window begins, from 0 to 1, and the frames of that clip.
        validation_items: how many windows are held out.

    Raises:
        ConfigError: none, or as many as there are windows.
    """
    if not 0 < validation_items < len(share):
        raise ConfigError(f"validation_items must be from 1 to {len(share) - 1}, not {validation_items}")
    limit = np.sort(share)[-validation_items]
    return np.flatnonzero(share < limit - _GAP / frames), np.flatnonzero(share >= limit)


def open_described(tokenizer_name: str, data: Path, folder: Path) -> DescribedCodes:
    """Codes of the training clips and of their mirror images, made once and kept in ``folder``.

    Raises:
        ConfigError: a tokenizer of something else than motion.
        DapsError: errors of clips, of the tokenizer and of the sentence encoder.
    """
    tokenizer, record = motion_tokenizer(tokenizer_name)
    path = data / f"lafan1_{robot_of(tokenizer.config).name}.npz"
    arrays = kept_arrays(folder, "described", record, path, lambda: vars(_make(tokenizer, path)))
    return DescribedCodes(DescribedItems(**arrays), record)


def motion_tokenizer(name: str) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer of motion, and what decides the codes of its windows.

    Raises:
        ConfigError: a tokenizer of something else than motion, or of windows that do not follow each other here.
    """
    tokenizer = Tokenizer.from_pretrained(name)
    config = tokenizer.config
    if config.motion is None:
        raise ConfigError(f"codes: windows of clips need a tokenizer of motion; {config.name} is one of images")
    if config.input_shape[0] % _STRIDE:
        raise ConfigError(
            f"codes: windows are cut every {_STRIDE} frames; {config.name} has windows of {config.input_shape[0]}, "
            "which is no multiple"
        )
    record = {
        "model": config.name,
        "weights_sha256": config.weights_sha256,
        "num_tokens": config.num_tokens,
        "vocab_size": config.vocab_size,
        "stride": _STRIDE,
    }
    return tokenizer, record


def kept_arrays(
    folder: Path, name: str, record: dict[str, Any], clips: Path, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What an earlier call kept in ``folder`` for the same record, clips and descriptions; else it is made and kept."""
    kept, said = folder / f"{name}.npz", folder / f"{name}.json"
    of_clips = sha256_of(clips) if clips.is_file() else None  # making them says that there are none
    record = record | {"clips": of_clips, "descriptions": sha256_of(Path(descriptions.__file__))}
    if said.is_file() and json.loads(said.read_text()) == record:
        with np.load(kept, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    made, content = make(), io.BytesIO()
    np.savez(content, **made)  # type: ignore[arg-type]  # its keywords are arrays
    folder.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)  # until there are arrays that it says the truth of
    write_bytes_atomically(kept, content.getvalue())
    write_bytes_atomically(said, json.dumps(record).encode())
    return made


class EncodedClip(NamedTuple):
    """The windows of a training clip, or of its mirror image: S of them.

    Args:
        name: as ``walk1_subject1``.
        poses: (T, 7 + joints) of the clip as it was recorded.
        shown: the same, mirrored where this is the mirror image.
        starts: (S,), the first frame of each window.
        codes: (S, N), greedy.
        is_mirrored: whether this is the mirror image.
    """

    name: str
    poses: np.ndarray
    shown: np.ndarray
    starts: np.ndarray
    codes: np.ndarray
    is_mirrored: bool

    def before(self, length: int, first: int) -> np.ndarray:
        """The row of the window before each, −1 where there is none; ``first`` is the row of the first window."""
        back = np.arange(len(self.starts)) - length // _STRIDE
        return np.where(back >= 0, back + first, -1)


def encoded_clips(tokenizer: Tokenizer, path: Path) -> Iterator[EncodedClip]:
    """The training clips of LAFAN1, each followed by its mirror image, in windows that begin every 16 frames."""
    assert tokenizer.config.motion is not None
    robot, fps, length = robot_of(tokenizer.config), tokenizer.config.motion.fps, tokenizer.config.input_shape[0]
    clips = {name: clip for name, clip in load_clips(path, robot).items() if name not in VALIDATION_CLIPS}
    with click.progressbar(clips.items(), label="encoding motion", file=sys.stderr) as bar:
        for name, clip in bar:
            starts = np.arange(0, len(clip) - max(length, REACH) - 1, _STRIDE)
            features = compute_features(clip, fps=fps, robot=robot)
            for shown, own in ((clip, features), (mirrored(clip, robot), mirror_features(features, robot))):
                windows = own[starts[:, None] + np.arange(length)]
                codes = [tokenizer.encode(windows[i : i + _AT_ONCE]).numpy() for i in range(0, len(windows), _AT_ONCE)]
                yield EncodedClip(name, clip, shown, starts, np.concatenate(codes).astype(np.int32), shown is not clip)


def _make(tokenizer: Tokenizer, path: Path) -> DescribedItems:
    assert tokenizer.config.motion is not None
    robot, fps, length = robot_of(tokenizer.config), tokenizer.config.motion.fps, tokenizer.config.input_shape[0]
    numbers: dict[Group, int] = {}
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("codes", "before", "paths", "groups", "share", "frames")
    }
    total = 0
    for clip in encoded_clips(tokenizer, path):
        described = [
            activities(clip.name, clip.poses[s : s + length + 1], fps=fps, robot=robot) for s in clip.starts.tolist()
        ]
        if clip.is_mirrored:
            described = [turned_round(both) for both in described]
        parts["codes"].append(clip.codes)
        parts["before"].append(clip.before(length, total))
        parts["paths"].append(paths_around(clip.shown, clip.starts))
        parts["groups"].append(
            np.array([[numbers.setdefault(group, len(numbers)) for group in both] for both in described])
        )
        parts["share"].append(clip.starts / len(clip.poses))
        parts["frames"].append(np.full(len(clip.starts), len(clip.poses)))
        total += len(clip.starts)
    of_groups = [sentences(group) for group in numbers]
    texts = {text: number for number, text in enumerate(sorted({text for some in of_groups for text in some}))}
    most = max(map(len, of_groups))
    rows = np.array([[texts[some[place % len(some)]] for place in range(most)] for some in of_groups])
    with click.progressbar(list(texts), label="embedding descriptions", file=sys.stderr) as bar:
        embeddings = np.concatenate([sentence_encoder()([text]) for text in bar])
    made = {name: np.concatenate(values) for name, values in parts.items()}
    return DescribedItems(**made, texts=rows, embeddings=embeddings, chosen=np.arange(total))


def paths_around(poses: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The path around some frames as seen from there, (starts, 2, 128): as it was, and with a smooth future."""
    ground = poses[:, :2]
    smooth = ground
    for _ in range(2):
        padded = np.pad(smooth, [(_SMOOTH // 2, _SMOOTH // 2), (0, 0)], mode="edge")
        summed = np.concatenate([np.zeros((1, 2)), np.cumsum(padded, axis=0)])
        smooth = (summed[_SMOOTH:] - summed[:-_SMOOTH]) / _SMOOTH
    heading = split_heading(poses[starts, 3:7])[0]
    past = ground[np.maximum(starts[:, None] + np.arange(-REACH, 0), 0)]
    after = starts[:, None] + np.arange(1, REACH + 1)
    futures = (ground[after], approach(smooth[after], ground[starts], smooth[starts]))
    both = [relative_path(np.concatenate([past, future], axis=1), ground[starts], heading) for future in futures]
    return np.stack(both, axis=1)
