"""Clips as the batch that a motion model takes: resampled, as features, in windows; and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.config import MotionConfig, TokenizerConfig
from daps_tokenizer.errors import CodesError, ConfigError, InputError
from daps_tokenizer.inputs import Batch, InputOptions
from daps_tokenizer.motion.clips import Clip, load_clips, to_numpy
from daps_tokenizer.motion.features import compute_features, feature_table, standing, to_qpos
from daps_tokenizer.motion.feet import hold_feet, plant_feet
from daps_tokenizer.motion.kinematics import heading_quaternion, split_heading
from daps_tokenizer.motion.path import anchors_of, follow_anchors
from daps_tokenizer.motion.resample import resample, resampled_length
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.motion.windows import check_overlap, cut_windows, join_windows, soften_seams

_FRAMES_TOGETHER = 2048  # of several clips: kinematics take some 8 KB a frame
_DECIMALS = 6  # that a start keeps: micrometres and microradians


class MotionInputs:
    """Clips for a motion model; implements :class:`~daps_tokenizer.inputs.Modality`.

    Raises:
        ConfigError: the model has other features than this version computes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        robot = robot_of(config)
        names = feature_table(robot).names
        if config.motion is None or config.motion.feature_names != names:
            raise ConfigError(
                f"{config.name}: config.json does not have the {len(names)} motion.feature_names of the "
                f"{robot.name} in this version of daps-tokenizer, so it can neither make its features nor read them"
            )
        self._robot, self._size = robot, len(names)
        self._motion: MotionConfig = config.motion
        self._length = config.input_shape[0]

    def prepare(self, inputs: object, options: InputOptions) -> Batch:
        """Windows of the features of clips, (B · windows, frames, F) float32.

        Features of the model's size, (frames, F) or (B, frames, F), are taken as they are: each is an item of its
        own, without a window axis.

        Raises:
            InputError: what :func:`~daps_tokenizer.motion.clips.load_clips` refuses, clips of unequal length or frame
                rate, features that are not finite, an ``overlap`` that windows cannot have.
        """
        self._check(options)
        features = self._features(inputs)
        if features is not None:
            return Batch(features, (len(features),), None)
        clips = self._load(inputs, options)
        if not clips:
            return Batch(np.empty((0, self._length, self._size), np.float32), (0,), None)
        overlap = int(options.overlap or 0)
        poses = np.stack([clip.qpos for clip in clips])
        fps, own_fps = clips[0].fps, self._motion.fps
        size = max(1, _FRAMES_TOGETHER // poses.shape[1])
        groups = (poses[start : start + size] for start in range(0, len(poses), size))
        resampled = [resample(group, from_fps=fps, to_fps=own_fps) for group in groups]
        parts = [compute_features(group, fps=own_fps, robot=self._robot) for group in resampled]
        windows = cut_windows(np.concatenate(parts), self._length, overlap=overlap)
        count = windows.shape[1]
        ends = self._ends(resampled[0].shape[1], count, int(overlap))
        anchors = tuple(anchors_of(each, ends) for group in resampled for each in group)
        layout = ClipLayout(poses.shape[1], count, int(overlap), fps, _starts(poses), anchors)
        return Batch(windows.reshape(-1, *windows.shape[2:]), (len(clips), count), layout)

    def _check(self, options: InputOptions) -> None:
        """Refuse what no clip can be read with, also where it is not needed."""
        options.check_accepted(("fps", "overlap"), "motion")
        if options.overlap is not None:
            check_overlap(options.overlap, self._length)

    def targets(self, inputs: object, options: InputOptions) -> np.ndarray:
        """The poses of the clips, (B, T, 7 + joints), at their own frame rate; of features, from the origin.

        Errors of :meth:`prepare`.
        """
        self._check(options)
        features = self._features(inputs)
        if features is not None:
            return to_qpos(features, fps=self._motion.fps, robot=self._robot)
        clips = self._load(inputs, options)
        return np.stack([clip.qpos for clip in clips]) if clips else np.empty((0, self._length, self._robot.pose_size))

    def restore(self, pieces: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
        """Features (..., windows, frames, F) as poses (..., T, 7 + joints) of the original's length, rate and place.

        Windows fade into each other where they overlap, and where they do not, seams are softened
        (:func:`~daps_tokenizer.motion.windows.soften_seams`). Then feet that stand are planted, the path passes through
        the layout's anchors (:mod:`~daps_tokenizer.motion.path`), and legs hold their feet
        (:mod:`~daps_tokenizer.motion.feet`). Without a layout every window (..., frames, F) is a clip of its own that
        starts at the origin.

        Raises:
            CodesError: a layout of images, or of another number of windows than such clips have.
        """
        if layout is None:
            poses = self._corrected(plant_feet, to_qpos(pieces, fps=self._motion.fps, robot=self._robot))
            return self._corrected(hold_feet, poses)
        if not isinstance(layout, ClipLayout):
            raise CodesError(f"codes of a motion model have windows, not {layout.pieces}")
        frames = resampled_length(layout.frames, from_fps=layout.fps, to_fps=self._motion.fps)
        flat = pieces.reshape(-1, *pieces.shape[-3:])
        if layout.overlap == 0:
            flat = soften_seams(flat)
        try:
            joined = join_windows(flat, frames, overlap=layout.overlap)
        except InputError as error:
            raise CodesError(f"layout does not fit the codes: {error}") from None
        start = _poses(layout.starts or ((0.0, 0.0, 0.0),), standing(self._robot))
        poses = to_qpos(joined, fps=self._motion.fps, start=start, robot=self._robot)
        poses = self._corrected(plant_feet, poses)
        if layout.anchors:
            poses = self._anchored(poses, layout)
        poses = self._corrected(hold_feet, poses)
        clips = resample(poses, from_fps=self._motion.fps, to_fps=layout.fps, frames=layout.frames)
        return clips.reshape(*pieces.shape[:-3], *clips.shape[1:])

    def _ends(self, frames: int, windows: int, overlap: int) -> np.ndarray:
        """The frames that have anchors: the last of each window that the next one does not share."""
        ends = np.arange(1, windows + 1) * (self._length - overlap)
        return np.unique(np.minimum(ends, frames - 1))

    def _corrected(self, correct: Callable[..., np.ndarray], poses: np.ndarray) -> np.ndarray:
        """Poses (..., T, 7 + joints), corrected by a function of :mod:`daps_tokenizer.motion.feet`."""
        flat = poses.reshape(-1, *poses.shape[-2:])
        together = max(1, _FRAMES_TOGETHER // flat.shape[1])
        parts = (flat[start : start + together] for start in range(0, len(flat), together))
        corrected = [correct(part, fps=self._motion.fps, robot=self._robot) for part in parts]
        return np.concatenate([flat[:0], *corrected]).reshape(poses.shape)

    def _anchored(self, poses: np.ndarray, layout: ClipLayout) -> np.ndarray:
        """Poses (clips, T, 7 + joints) whose paths pass through the anchors of the layout."""
        ends = self._ends(poses.shape[1], layout.windows, layout.overlap)
        anchors = np.array([each for each in layout.anchors if len(each) == len(ends)])
        if len(anchors) != len(layout.anchors):
            raise CodesError(f"layout does not fit the codes: it needs {len(ends)} anchors of each clip")
        bent = [
            follow_anchors(each, ends, own, fps=self._motion.fps, robot=self._robot)
            for each, own in zip(poses, anchors, strict=True)
        ]
        return np.stack(bent)

    def _load(self, inputs: object, options: InputOptions) -> list[Clip]:
        clips = load_clips(inputs, fps=options.fps, robot=self._robot)
        kinds = sorted({(len(clip), clip.fps) for clip in clips})
        if len(kinds) > 1:
            found = " and ".join(f"{frames} frames at {fps:g} fps" for frames, fps in kinds[:2])
            raise InputError(
                f"clips must have one length and frame rate, not {found}; tok.encode_each(clips) takes any of them"
            )
        return clips

    def _features(self, inputs: object) -> np.ndarray | None:
        """The inputs as (B, frames, F) float32 if they are features already, else None."""
        size = (self._length, self._size)
        array = to_numpy(inputs, "the clip")
        if not isinstance(array, np.ndarray) or array.shape[-2:] != size or array.ndim not in (2, 3):
            return None
        if array.dtype.kind not in "fiu":
            raise InputError(f"features are of type {array.dtype}; expected floating-point numbers")
        features = array.reshape(-1, *size).astype(np.float32)
        if not np.isfinite(features).all():
            raise InputError(f"features of shape {array.shape}: expected finite numbers")
        return features


def _starts(poses: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """Where clips (B, T, 7 + joints) begin: x, y and heading of each."""
    first = poses[:, 0]
    heading, _ = split_heading(first[:, 3:7])
    return tuple((x, y, angle) for x, y, angle in np.column_stack([first[:, :2], heading]).round(_DECIMALS).tolist())


def _poses(starts: tuple[tuple[float, float, float], ...], pose: np.ndarray) -> np.ndarray:
    """Poses (B, 7 + joints) that are there and look that way."""
    places = np.array(starts)
    poses = np.tile(pose, (len(starts), 1))
    poses[:, :2], poses[:, 3:7] = places[:, :2], heading_quaternion(places[:, 2])
    return poses
