"""Search over codes with physics as the score, window by window from where the robots are: local search, sampling MPC.

A window of codes is 32 frames. Robots follow the first ``advance`` of them, then the next window is encoded from the
frame that has come, so an advance of 30 frames is a stream of windows and one of 6 is model predictive control.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.studies.control.coded import placed
from benchmarks.studies.control.follow import Followed, follow
from benchmarks.studies.control.reference import CLIP_FPS, Reference
from benchmarks.studies.control.robot import ACTIVE, CONTROL_FPS, Physics, states
from benchmarks.studies.control.tracking import Tracking
from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.protocol import Backend, Decoded
from daps_tokenizer.config import Robot as RobotTable
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.motion.features import compute_features, to_qpos
from daps_tokenizer.motion.kinematics import clip_to_limits
from daps_tokenizer.search.base import Found, Score, Search, score_of


@dataclass
class PhysicsScore:
    """The score of codes for :class:`~daps_tokenizer.LocalSearch` and :class:`~daps_tokenizer.BestOf`: how well robots
    follow what they decode to.

    It is the sum of rewards until a fall over the window's length, in [0, 1]: tracking of the original motion, not of
    the decoded one, and balance, as there are no rewards after a fall.

    Args:
        tokenizer: that decodes.
        physics: that simulates.
        originals: stretches in a row.
        state: where the robots are now, one for each window of the search, (B, 72).
        frames: of the originals, at 50 Hz, at which the windows begin, (B,).
    """

    tokenizer: Tokenizer
    physics: Physics
    originals: Reference
    state: np.ndarray
    frames: np.ndarray

    def __call__(self, inputs: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        """Scores (K · B,) of codes (K · B, N), the B windows in their order K times."""
        times = len(codes) // len(self.frames)
        frames, state = np.tile(self.frames, times), np.tile(self.state, (times, 1))
        found = self.follow(codes, frames, state, seconds=self.window_seconds)
        return found.reward * found.seconds / self.window_seconds

    @property
    def window_seconds(self) -> float:
        """How long robots follow a window: the steps for which it has targets."""
        return int((self.tokenizer.config.input_shape[0] - 1) / CLIP_FPS * CONTROL_FPS) / CONTROL_FPS

    def follow(self, codes: np.ndarray, frames: np.ndarray, state: np.ndarray, *, seconds: float) -> Followed:
        """Follow the windows that codes (B, N) decode to, placed where the originals are at their first frames."""
        robot, originals = self.physics.robot, self.originals
        starts = originals.qpos[frames][:, [0, 1, 2, 4, 5, 6, 3, *range(7, 36)]]
        poses = self.tokenizer.decode(codes)
        clips = [placed(pose[None], start)[0] for pose, start in zip(poses, starts, strict=True)]
        reference = Reference.from_clips(robot, clips, on_floor=False)
        length = len(reference) // len(codes)
        tracking = Tracking(
            self.physics, reference, len(codes), noise=0, restart=False, judged=_rows(originals, frames, length)
        )
        began = np.arange(len(codes)) * length
        return follow(tracking, began, seconds=seconds, state=state)


class Ran(NamedTuple):
    """How stretches went, each (B,): seconds until a fall, mean reward, joint error in degrees, torque in N·m.
    ``poses`` (B, T, 36), NaN after a fall. ``real_time``: seconds of one processor for a second of one robot."""

    seconds: np.ndarray
    reward: np.ndarray
    joint_error: np.ndarray
    torque: np.ndarray
    poses: np.ndarray
    real_time: float


def run_codes(
    tokenizer: Tokenizer,
    physics: Physics,
    originals: Reference,
    features: np.ndarray,
    *,
    seconds: float,
    advance: int,
    search: Callable[[Score], Search],
) -> Ran:
    """Follow codes of stretches, window by window.

    Args:
        tokenizer: that encodes and decodes.
        physics: that simulates.
        originals: the stretches in a row, at 50 Hz.
        features: of the same, at 30 fps: (B, frames, F), a window longer than ``seconds``.
        seconds: how long.
        advance: frames at 30 fps until the next window is encoded; a multiple of 3, so that both rates meet.
        search: makes the search from the score.
    """
    began, length = time.process_time(), tokenizer.config.input_shape[0]
    starts, alive = originals.clip_starts[:-1], np.arange(len(features))
    state = states(originals.qpos[starts], originals.qvel[starts])
    steps = round(advance / CLIP_FPS * CONTROL_FPS)
    total, reward, error, torque = (np.zeros(len(features)) for _ in range(4))
    count = round(CONTROL_FPS * seconds)
    poses = np.full((len(features), count, 36), np.nan)
    for number in range(-(-count // steps)):
        frames = starts[alive] + number * steps
        score = PhysicsScore(tokenizer, physics, originals, state, frames)
        windows = features[alive, number * advance : number * advance + length]
        codes = tokenizer.encode(windows, search=search(score)).numpy()
        here = min(steps, count - number * steps)
        found = score.follow(codes.reshape(len(alive), -1), frames, state, seconds=here / CONTROL_FPS)
        total[alive] += found.seconds
        for sums, mean in ((reward, found.reward), (error, found.joint_error), (torque, found.torque)):
            sums[alive] += mean * found.seconds
        poses[alive, number * steps : number * steps + here] = found.poses
        up = ~found.fell
        state = states(*np.split(found.last[up], [36], axis=1))
        alive = alive[up]
        if not len(alive):
            break
    each = np.maximum(total, 1 / CONTROL_FPS)
    spent = (time.process_time() - began) / max(total.sum(), 1 / CONTROL_FPS)
    return Ran(total, reward / each, error / each, torque / each, poses, spent)


def _rows(reference: Reference, frames: np.ndarray, length: int) -> Reference:
    """Stretches of ``length`` frames of a reference, in a row; what is beyond its end repeats its last frame."""
    rows = np.minimum((frames[:, None] + np.arange(length)).ravel(), len(reference) - 1)
    ends = np.arange(len(frames) + 1) * length
    return Reference(reference.qpos[rows], reference.qvel[rows], reference.key_positions[rows], ends)


@dataclass
class Leaning:
    """Sampling MPC (cross-entropy method): codes of motions whose legs and waist are moved a little, best by the score.

    Samples of q(z|x) are motions that look like the original, and none of them catches a falling robot. So candidates
    are the greedy codes of x with the angles of 15 joints shifted, from one offset at the window's first frame to
    another at its last; the best quarter says where the next candidates are drawn. Implements
    :class:`~daps_tokenizer.search.base.Search`.

    Args:
        score: of codes; see :class:`PhysicsScore`.
        robot: whose features they are.
        candidates: a round, the greedy codes and the last round's mean included.
        rounds: how often candidates are drawn.
        spread: of offsets at first, rad.
        seed: of the draws.
    """

    score: Score
    robot: RobotTable
    candidates: int = 32
    rounds: int = 2
    spread: float = 0.1
    seed: int = 0

    def find(
        self,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Found:
        began, random = time.perf_counter(), np.random.default_rng(self.seed)
        count, frames = len(inputs), inputs.shape[1]
        qpos = to_qpos(inputs, fps=CLIP_FPS, robot=self.robot)
        share = np.linspace(0, 1, frames)[:, None]
        mean, spread = np.zeros((count, 2, ACTIVE)), np.full((count, 2, ACTIVE), self.spread)
        greedy = best = first = np.empty(0)
        for number in range(self.rounds):
            draws = random.standard_normal((self.candidates, count, 2, ACTIVE))
            draws[0] = 0.0
            offsets = mean + spread * draws
            if number == 0:
                offsets[0] = 0.0
            moved = np.tile(qpos, (self.candidates, 1, 1))
            shift = offsets[:, :, 0, None] * (1 - share) + offsets[:, :, 1, None] * share
            moved[..., 7 : 7 + ACTIVE] += shift.reshape(-1, frames, ACTIVE)
            moved[..., 7:] = clip_to_limits(moved[..., 7:], self.robot)
            features = compute_features(moved, fps=CLIP_FPS, robot=self.robot)
            features = features.reshape(-1, *inputs.shape[1:])
            codes = backend.encode(features, np.zeros((len(features), config.num_tokens), np.float32), 0.0).codes
            values = score_of(self.score, backend, np.tile(inputs, (self.candidates, 1, 1)), codes)
            codes, values = codes.reshape(self.candidates, count, -1), values.reshape(self.candidates, count)
            top = values.argmax(0)
            if number == 0:
                greedy, first = codes[0], values[0]
                best, value = greedy.copy(), first.copy()
            better = values.max(0) > value
            best[better] = codes[top, np.arange(count)][better]
            value = np.maximum(value, values.max(0))
            elite = np.argsort(-values, axis=0)[: max(2, self.candidates // 4)]
            chosen = np.take_along_axis(offsets, elite[..., None, None], axis=0)
            mean, spread = chosen.mean(0), chosen.std(0) + 0.01
            if on_progress:
                on_progress((number + 1) / self.rounds)
        return Found(greedy, best, value - first, self.candidates * self.rounds, time.perf_counter() - began)
