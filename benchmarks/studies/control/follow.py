"""How well robots follow: seconds until a fall, tracking error, torque, and how fast it was computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from benchmarks.studies.control.robot import ACTIVE, CONTROL_FPS
from benchmarks.studies.control.tracking import Tracking
from daps_tokenizer.errors import InputError

# Of observations (B, O) and frames of the reference (B,): actions (B, 15).
Controller = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Followed(NamedTuple):
    """Of N robots, each (N,): seconds until a fall or the end, whether it fell, and means over that time: the reward,
    the error of joints in degrees, torques in N·m. ``poses``: (N, T, 36), NaN after a fall. ``last``: qpos and
    qvel (N, 71)."""

    seconds: np.ndarray
    fell: np.ndarray
    reward: np.ndarray
    joint_error: np.ndarray
    torque: np.ndarray
    poses: np.ndarray
    last: np.ndarray


def servos_only(observation: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The controller that corrects nothing: servos get the reference as it is."""
    return np.zeros((len(observation), ACTIVE))


def follow(
    tracking: Tracking,
    frames: np.ndarray,
    *,
    seconds: float,
    control: Controller = servos_only,
    state: np.ndarray | None = None,
) -> Followed:
    """Follow the reference from these frames until a fall or the end.

    Args:
        tracking: of as many robots as frames, with ``restart=False``.
        frames: where each begins, (N,).
        seconds: how long at most.
        control: what corrects the servo targets.
        state: where the robots are (N, 72); on the reference if None.
    """
    count = round(CONTROL_FPS * seconds)
    observation, robots = tracking.reset(frames), np.arange(len(frames))
    if state is not None:
        tracking.state[:] = state
        observation = tracking.observe()
    steps, reward, error, torque = (np.zeros(len(frames)) for _ in range(4))
    fell, poses = np.zeros(len(frames), bool), np.full((len(frames), count, 36), np.nan)
    last = tracking.state[:, 1:].copy()
    for t in range(count):
        found = tracking.step(control(observation, tracking.frame))
        up = ~found.fell
        fell[robots[found.fell]] = True
        steps[robots] += up
        reward[robots] += found.reward * up
        error[robots] += up * np.abs(tracking.state[:, 8:37] - tracking.judged.qpos[tracking.frame, 7:]).mean(1)
        torque[robots] += up * np.abs(tracking.torque).mean(1)
        poses[robots[up], t] = tracking.state[up, 1:37]
        last[robots] = tracking.state[:, 1:]
        on = np.flatnonzero(~found.ended)
        observation = found.observation[on]
        if len(on) < len(robots):
            tracking.keep(on)
            robots = robots[on]
        if not len(robots):
            break
    each = np.maximum(steps, 1)
    return Followed(
        steps / CONTROL_FPS,
        fell,
        reward / each,
        np.degrees(error / each),
        torque / each,
        poses,
        last,
    )


class ExportedPolicy:
    """A policy from an ONNX file: the controller of robots that follow codes."""

    def __init__(self, path: Path) -> None:
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise InputError(
                f"{path}: is no policy (ONNX) that can be read; `benchmarks control export` writes one"
            ) from error

    def __call__(self, codes: np.ndarray, place: np.ndarray) -> Controller:
        """The controller of robots that follow ``codes`` (W, N); ``place`` (T,) of each frame of the reference: its
        window and the share of the window that is over."""
        codes, window = codes.astype(np.int64), place.astype(np.int64)
        share = (place - window).astype(np.float32)

        def control(observation: np.ndarray, frames: np.ndarray) -> np.ndarray:
            inputs = {"observation": observation, "codes": codes[window[frames]], "share": share[frames]}
            action: np.ndarray = self._session.run(["action"], inputs)[0]
            return action

        return control
