"""Clips as the batch that a motion model takes: resampled, as features, in windows; and back."""

from __future__ import annotations

import numpy as np

from daps_tokenizer.config import MotionConfig, TokenizerConfig
from daps_tokenizer.errors import CodesError, ConfigError, InputError
from daps_tokenizer.inputs import Batch, InputOptions, check_options
from daps_tokenizer.layouts import ClipLayout, TileLayout
from daps_tokenizer.motion.clips import Clip, load_clips, to_numpy
from daps_tokenizer.motion.features import FEATURE_NAMES, compute_features, standing, to_qpos
from daps_tokenizer.motion.kinematics import heading_quaternion, split_heading
from daps_tokenizer.motion.resample import resample, resampled_length
from daps_tokenizer.motion.windows import cut_windows, join_windows, soften_seams

_DECIMALS = 6  # that a start keeps: micrometres and microradians


class MotionInputs:
    """Clips for a motion model; implements :class:`~daps_tokenizer.inputs.Modality`.

    Raises:
        ConfigError: the model has other features than this version computes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        if config.motion is None or config.motion.feature_names != FEATURE_NAMES:
            raise ConfigError(
                f"{config.name}: config.json does not have the {len(FEATURE_NAMES)} motion.feature_names of this "
                "version of daps-tokenizer, so it can neither make its features nor read them"
            )
        self._motion: MotionConfig = config.motion
        self._length = config.input_shape[0]

    def prepare(self, inputs: object, options: InputOptions) -> Batch:
        """Windows of the features of clips, (B · windows, frames, 127) float32.

        Features of the model's size, (frames, 127) or (B, frames, 127), are taken as they are: each is an item of its
        own, without a window axis.

        Raises:
            InputError: what :func:`~daps_tokenizer.motion.clips.load_clips` refuses, clips of unequal length or frame
                rate, features that are not finite, an ``overlap`` that windows cannot have.
        """
        check_options(options, ("fps", "overlap"), "motion")
        features = self._features(inputs)
        if features is not None:
            return Batch(features, (len(features),), None)
        clips = self._load(inputs, options)
        overlap = options.get("overlap", 0)
        windows = [
            cut_windows(
                compute_features(resample(c.qpos, from_fps=c.fps, to_fps=self._motion.fps), fps=self._motion.fps),
                self._length,
                overlap=overlap,
            )
            for c in clips
        ]
        count = len(windows[0])
        layout = ClipLayout(len(clips[0]), count, int(overlap), clips[0].fps, tuple(_start(clip) for clip in clips))
        return Batch(np.concatenate(windows), (len(clips), count), layout)

    def originals(self, inputs: object, options: InputOptions) -> np.ndarray:
        """The poses of the clips, (B, T, 26), at their own frame rate; errors of :meth:`prepare`."""
        check_options(options, ("fps", "overlap"), "motion")
        features = self._features(inputs)
        if features is not None:
            return self.restore(features, None)
        return np.stack([clip.qpos for clip in self._load(inputs, options)])

    def restore(self, pieces: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
        """Features (..., windows, frames, 127) as poses (..., T, 26) of the original's length, frame rate and place.

        Windows fade into each other where they overlap, and where they do not, seams are softened
        (:func:`~daps_tokenizer.motion.windows.soften_seams`). Without a layout every window (..., frames, 127) is a
        clip of its own that starts at the origin.

        Raises:
            CodesError: a layout of images, or of another number of windows than such clips have.
        """
        if layout is None:
            flat = pieces.reshape(-1, *pieces.shape[-2:])
            poses = np.stack([to_qpos(features, fps=self._motion.fps) for features in flat])
            return poses.reshape(*pieces.shape[:-1], -1)
        if not isinstance(layout, ClipLayout):
            raise CodesError(f"codes of a motion model have windows, not {layout.pieces}")
        frames = resampled_length(layout.frames, from_fps=layout.fps, to_fps=self._motion.fps)
        flat = pieces.reshape(-1, *pieces.shape[-3:])
        if layout.overlap == 0:
            flat = np.stack([soften_seams(windows) for windows in flat])
        starts = layout.starts or ((0.0, 0.0, 0.0),) * len(flat)
        try:
            joined = [join_windows(windows, frames, overlap=layout.overlap) for windows in flat]
        except InputError as error:
            raise CodesError(f"layout does not fit the codes: {error}") from None
        clips = np.stack(
            [
                resample(
                    to_qpos(features, fps=self._motion.fps, start=_pose(*start)),
                    from_fps=self._motion.fps,
                    to_fps=layout.fps,
                    frames=layout.frames,
                )
                for features, start in zip(joined, starts, strict=True)
            ]
        )
        return clips.reshape(*pieces.shape[:-3], *clips.shape[1:])

    def _load(self, inputs: object, options: InputOptions) -> list[Clip]:
        clips = load_clips(inputs, fps=options.get("fps"))
        kinds = sorted({(len(clip), clip.fps) for clip in clips})
        if len(kinds) > 1:
            found = " and ".join(f"{frames} frames at {fps:g} fps" for frames, fps in kinds[:2])
            raise InputError(f"clips must have one length and frame rate, not {found}; encode them one at a time")
        return clips

    def _features(self, inputs: object) -> np.ndarray | None:
        """The inputs as (B, frames, 127) float32 if they are features already, else None."""
        size = (self._length, len(FEATURE_NAMES))
        array = to_numpy(inputs, "the clip")
        if not isinstance(array, np.ndarray) or array.shape[-2:] != size or array.ndim not in (2, 3):
            return None
        features = array.reshape(-1, *size).astype(np.float32)
        if not len(features) or not np.isfinite(features).all():
            raise InputError(f"features of shape {array.shape}: expected at least one item, and finite numbers")
        return features


def _start(clip: Clip) -> tuple[float, float, float]:
    """Where a clip begins: x, y and heading."""
    heading, _ = split_heading(clip.qpos[0, 3:7])
    x, y, angle = (round(float(value), _DECIMALS) for value in (*clip.qpos[0, :2], heading))
    return x, y, angle


def _pose(x: float, y: float, heading: float) -> np.ndarray:
    """A pose (26,) that is there and looks that way."""
    pose = standing()
    pose[:2], pose[3:7] = (x, y), heading_quaternion(np.array(heading))
    return pose
