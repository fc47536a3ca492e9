"""Clips at another frame rate."""

from __future__ import annotations

import math

import numpy as np

_SLIVER = 1e-6  # of a frame: what float arithmetic makes of a time that is on a frame


def resampled_length(frames: int, *, from_fps: float, to_fps: float) -> int:
    """How many frames at ``to_fps`` it takes to reach the end of ``frames`` frames at ``from_fps``."""
    return math.ceil((frames - 1) * to_fps / from_fps - _SLIVER) + 1


def resample(qpos: np.ndarray, *, from_fps: float, to_fps: float, frames: int | None = None) -> np.ndarray:
    """The poses at other times, between two frames on the way from one to the other.

    Positions and joint angles are interpolated linearly, orientations by spherical linear interpolation along the
    shorter way. Nothing is filtered: what is slower than half the new frame rate survives. Times past the last frame
    get the last pose.

    Args:
        qpos: (..., T, 7 + joints).
        from_fps, to_fps: frames per second, before and after.
        frames: how many are wanted; as many as reach the end of the clip if None.

    Returns:
        (..., frames, 7 + joints) float64; the first is the first of ``qpos``.

    >>> resample(clip.qpos, from_fps=100.0, to_fps=30.0)  # doctest: +SKIP
    """
    last = qpos.shape[-2] - 1
    count = resampled_length(last + 1, from_fps=from_fps, to_fps=to_fps) if frames is None else frames
    if from_fps == to_fps and count == last + 1:
        return qpos
    places = np.minimum(np.arange(count) * (from_fps / to_fps), last)
    before = np.minimum(np.floor(places + _SLIVER).astype(int), last)
    after = np.minimum(before + 1, last)
    share = np.maximum(places - before, 0.0)[:, None]
    poses: np.ndarray = (1 - share) * qpos[..., before, :] + share * qpos[..., after, :]
    poses[..., 3:7] = slerp(qpos[..., before, 3:7], qpos[..., after, 3:7], share)
    return poses


def slerp(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., T, 4) at a share (T, 1) of the shorter way from the first to the second."""
    cosine = (first * second).sum(-1, keepdims=True)
    second = np.where(cosine < 0, -second, second)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    sine = np.sin(angle)
    near = sine < 1e-6  # where a straight line is as good, and sines would be divided by nothing
    safe = np.where(near, 1.0, sine)
    a = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    b = np.where(near, share, np.sin(share * angle) / safe)
    mixed = a * first + b * second
    return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)
