"""Motion of a kind, or that does what a text says and follows a path: codes drawn window after window (after the
paper's downstream task, section 5 and appendix I).

A generator of motion is told the codes of the window before. It also knows labels, or is told the embedding of a
description and the path of the root around the first frame of the window. Each may be left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import ClipLayout
from daps_tokenizer.config.generator import Condition
from daps_tokenizer.data.archives import reading
from daps_tokenizer.errors import InputError, reason_of
from daps_tokenizer.files import read_regular_file
from daps_tokenizer.generator import Generator
from daps_tokenizer.language import sentence_encoder
from daps_tokenizer.motion.kinematics import rotation_about, split_heading

if TYPE_CHECKING:
    from daps_tokenizer.tokenizer import Tokenizer

TEXT, PATH, BEFORE = "text", "path", "before"
REACH = 32  # frames of a path before the first frame of a window, and after it
EMBEDDING_SIZE = 384

_DEFAULT_SECONDS, _MOST_SECONDS = 6.0, 120.0
_MOST_BYTES = 2**24  # of a file of points
_FASTEST = 12.0  # m/s that a path may ask for
_JUDGED = 1  # windows before one that is judged, which are decoded with it
_SEEN = 8  # windows that are decoded to know where the robot is
_FIRST_STEP = 0.3  # m from the start of a path to the point that the robot looks at


def motion_conditions(num_tokens: int) -> tuple[Condition, ...]:
    """What a generator of motion is told, in this order."""
    return (
        Condition(TEXT, EMBEDDING_SIZE, tokens=1, guided=True),
        Condition(PATH, 4 * REACH, tokens=4),
        Condition(BEFORE, num_tokens, tokens=8, codes=True),
    )


def relative_path(points: np.ndarray, place: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """A path as a generator is told it: seen from the robot, which is at a place and looks along a heading.

    Args:
        points: (..., 64, 2) in metres: at the 32 frames before the first one of a window, and the 32 after it.
        place: (..., 2) of the root at that first frame.
        heading: (...) in radians.

    Returns:
        (..., 128) float32.
    """
    turned = np.einsum("...ij,...tj->...ti", rotation_about(2, -heading)[..., :2, :2], points - place[..., None, :])
    return turned.reshape(*turned.shape[:-2], -1).astype(np.float32)


def approach(path: np.ndarray, place: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Points (..., 32, 2) of a path, moved so that they begin at ``place`` and not at ``target``, which fades out."""
    share = 1 - np.arange(1, REACH + 1) / REACH
    moved: np.ndarray = path + share[:, None] * (place - target)[..., None, :]
    return moved


def first_direction(points: np.ndarray) -> float:
    """The angle at which a path (T, 2) sets out: to its first point that is 30 cm away, else to its last."""
    far = np.flatnonzero(np.linalg.norm(points - points[0], axis=1) > _FIRST_STEP)
    ahead = points[far[0] if len(far) else -1] - points[0]
    return float(np.arctan2(ahead[1], ahead[0]))


def read_path(source: str | Path, *, fps: float) -> np.ndarray:
    """The points of a path, (T, 2) in metres at ``fps`` frames per second.

    Args:
        source: a CSV file of x and y in metres, one row a frame at ``fps``; or of t, x and y, with t in seconds, which
            is interpolated. A first row of names is skipped.
        fps: frames per second.

    Raises:
        InputError: it cannot be read, or a row is not numbers like these; names the row.
    """
    try:
        text = read_regular_file(source, most_bytes=_MOST_BYTES).decode("utf-8")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: no text, or a name that holds a null character
        raise InputError(
            f"{source}: cannot be read ({reason_of(error)}); expected a CSV file of x and y in metres"
        ) from None
    first = 1
    if rows and not any(_is_number(cell) for cell in rows[0]):
        rows, first = rows[1:], 2
    if len(rows) < 2:
        raise InputError(f"{source}: {len(rows)} points; a path has at least 2")
    for number, row in enumerate(rows, start=first):
        if len(row) != len(rows[0]) or len(row) not in (2, 3):
            raise InputError(f"{source}: row {number} has {len(row)} columns; expected x and y, or t, x and y")
        if not all(_is_number(cell) for cell in row):
            raise InputError(f"{source}: row {number}: {', '.join(row)!r}; expected finite numbers")
    values = np.array(rows, np.float64)
    if values.shape[1] == 2:
        return check_path(values, fps=fps, source=str(source))
    times = values[:, 0]
    backwards = np.flatnonzero(np.diff(times) <= 0)
    if len(backwards):
        raise InputError(f"{source}: row {backwards[0] + first + 1}: t does not rise")
    if times[-1] - times[0] > _MOST_SECONDS:
        raise InputError(f"{source}: {times[-1] - times[0]:g} s; expected at most {_MOST_SECONDS:g}")
    frames = times[0] + np.arange(math.floor((times[-1] - times[0]) * fps + 1e-6) + 1) / fps
    return check_path(
        np.stack([np.interp(frames, times, values[:, axis]) for axis in (1, 2)], 1), fps=fps, source=str(source)
    )


def check_path(points: object, *, fps: float, source: str = "path") -> np.ndarray:
    """Points (T, 2) in metres as float64.

    Raises:
        InputError: an array of another shape, fewer than 2 points, not finite, or faster than 12 m/s.
    """
    with reading(source, "points x y"):
        array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < 2 or array.dtype.kind not in "iuf":
        raise InputError(f"{source}: an array of shape {array.shape}; expected (points, 2), at least 2 points x y")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(f"{source}: expected finite numbers")
    speed = np.linalg.norm(np.diff(array, axis=0), axis=1) * fps
    if speed.max() > _FASTEST:
        raise InputError(
            f"{source}: {speed.max():.0f} m/s after point {int(speed.argmax()) + 1}; expected at most {_FASTEST:g}, "
            f"with {fps:g} points a second"
        )
    return array


def sample_motion(
    generator: Generator,
    tokenizer: Tokenizer,
    text: str | None = None,
    *,
    label: str | int | Sequence[str | int] | None = None,
    path: np.ndarray | str | Path | None = None,
    seconds: float | None = None,
    num_samples: int = 1,
    seed: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    candidates: int = 8,
    on_progress: Callable[[float], None] | None = None,
) -> Codes:
    """Draw motion of a kind, or that does what a text says, along a path.

    >>> codes = sample_motion(gen, tok, "a slow walk, turning left", seconds=6, seed=0)
    >>> clips = tok.decode_to_clips(codes)

    Args:
        generator: of motion, such as ``daps-g1-text`` or, with labels, ``daps-h1-motion-causal``.
        tokenizer: whose codes it draws; with a path, windows are decoded to know where the robot is.
        text: a description; None leaves it open.
        label: one of the generator's labels, or a list of them; None draws of any kind.
        path: points (T, 2) of the root in metres, at the tokenizer's frame rate, or a CSV file, see
            :func:`read_path`. The motion starts at the first one, and looks along the path.
        seconds: how long, at most 120; None is as long as the path, or 6 s without one.
        num_samples: S, different motions, of each label.
        seed, guidance, temperature: as of :meth:`Generator.sample`.
        candidates: with a path, how many draws of each window are made; the one nearest to the path is kept.
        on_progress: is told what share of the windows is drawn, in [0, 1].

    Returns:
        Codes (S, windows, N) of clips; (labels · S, windows, N) of a list, those of a label next to each other.

    Raises:
        InputError: a generator that draws no motion, or takes no text, path or label; a tokenizer of other codes; a
            text, path or label that cannot be used; or a time that is out of range or longer than the path.
        UnsupportedError: a text, and the packages that read it are not installed.
    """
    _check_told(generator, {TEXT: text, PATH: path})
    if generator.tokenizer.weights_sha256 != tokenizer.config.weights_sha256 or tokenizer.config.motion is None:
        raise InputError(
            f"{generator.name} draws codes of {generator.tokenizer.name} (weights "
            f"{generator.tokenizer.weights_sha256[:12]}), not of {tokenizer.config.name}"
        )
    check_integer("num_samples", num_samples, least=1)
    check_integer("candidates", candidates, least=1)
    fps, length = tokenizer.config.motion.fps, tokenizer.config.input_shape[0]
    points = None
    if path is not None:
        points = read_path(path, fps=fps) if isinstance(path, str | Path) else check_path(path, fps=fps)
    frames = _frames(seconds, points, fps)
    windows = math.ceil(frames / length)
    conditions = {} if text is None else {TEXT: sentence_encoder()([text])[0]}
    seeds = [None] * windows if seed is None else _seeds(seed, windows)
    rows = num_samples if label is None or isinstance(label, str | int) else num_samples * len(label)
    drawn = np.zeros((rows, 0, generator.num_tokens), np.int32)
    follower = None if points is None else _Follower(tokenizer, points, rows, length * windows)
    for window, own_seed in enumerate(seeds):
        if follower is not None:
            conditions[PATH] = follower.look(drawn)
        if window:
            conditions[BEFORE] = drawn[:, -1]
        draws = 1 if follower is None else candidates
        told = {name: value.repeat(draws, axis=0) if value.ndim > 1 else value for name, value in conditions.items()}
        codes = generator.sample(
            label, num_samples * draws, seed=own_seed, guidance=guidance, temperature=temperature, conditions=told
        )
        drawn = np.concatenate([drawn.repeat(draws, axis=0), codes.numpy()[:, None]], axis=1)
        if follower is not None and draws > 1:
            drawn = follower.nearest(drawn, draws)
        if on_progress:
            on_progress((window + 1) / windows)
    starts = () if follower is None else follower.starts(0)
    return _codes_of(tokenizer, drawn, ClipLayout(frames, windows, 0, fps, starts))


def _check_told(generator: Generator, told: dict[str, object]) -> None:
    """Refuse a generator that draws no motion, and what it cannot be told."""
    names = {condition.name for condition in generator.conditions}
    takes = f"labels: {', '.join(generator.labels[:10])}" if generator.labels else "no text, path or length"
    if BEFORE not in names:
        raise InputError(f"{generator.name} draws single items and takes {takes}; daps-g1-text takes a text and a path")
    for name, value in told.items():
        if value is not None and name not in names:
            raise InputError(f"{generator.name} takes no {name} but {takes}; daps-g1-text takes a text and a path")


class _Follower:
    """Where the robot is on its way along a path."""

    def __init__(self, tokenizer: Tokenizer, points: np.ndarray, num_samples: int, frames: int) -> None:
        assert tokenizer.config.motion is not None
        self._tokenizer, self._fps = tokenizer, tokenizer.config.motion.fps
        self._length = tokenizer.config.input_shape[0]
        missing = max(0, frames + REACH + 1 - len(points))
        self._points = np.concatenate([points, np.repeat(points[-1:], missing, axis=0)])
        heading = first_direction(points)
        self._places = [np.tile([*points[0], heading], (num_samples, 1))]  # x, y, heading where each window begins

    def starts(self, window: int) -> tuple[tuple[float, float, float], ...]:
        """Of the layout of clips that begin with a window."""
        return tuple((x, y, heading) for x, y, heading in self._places[window].round(6).tolist())

    def look(self, codes: np.ndarray) -> np.ndarray:
        """The path as seen at the end of the codes (S, windows, N) so far: (S, 128)."""
        window = codes.shape[1]
        past = np.zeros((len(codes), REACH, 2))
        if window:
            poses = self._decode(codes, max(0, window - _SEEN), 1)
            past = poses[:, -REACH:, :2]
            headings = np.unwrap(split_heading(poses[:, -2:, 3:7])[0])
            places = np.concatenate([poses[:, -2:, :2], headings[..., None]], axis=-1)
            self._places.append(2 * places[:, 1] - places[:, 0])  # one frame on
        place, heading = self._places[window][:, :2], self._places[window][:, 2]
        if not window:
            past += place[:, None]
        frame = window * self._length
        future = approach(self._points[frame + 1 : frame + 1 + REACH], place, self._points[frame])
        return relative_path(np.concatenate([past, future], axis=1), place, heading)

    def nearest(self, codes: np.ndarray, draws: int) -> np.ndarray:
        """Of every ``draws`` rows of (S · draws, windows, N) the one whose last window is nearest to the path."""
        window = codes.shape[1] - 1
        poses = self._decode(codes, max(0, window - _JUDGED), draws)[:, -self._length :, :2]
        targets = self._points[window * self._length : (window + 1) * self._length]
        off = np.linalg.norm(poses - targets, axis=-1).mean(1).reshape(-1, draws)
        chosen: np.ndarray = codes[np.arange(len(off)) * draws + off.argmin(1)]
        return chosen

    def _decode(self, codes: np.ndarray, first: int, draws: int) -> np.ndarray:
        """Poses of the windows from ``first`` on, of rows of which ``draws`` in a row began alike."""
        windows = codes.shape[1] - first
        starts = tuple(start for start in self.starts(first) for _ in range(draws))
        layout = ClipLayout(windows * self._length, windows, 0, self._fps, starts)
        return self._tokenizer.decode(_codes_of(self._tokenizer, codes[:, first:], layout))


def _codes_of(tokenizer: Tokenizer, values: np.ndarray, layout: ClipLayout) -> Codes:
    config = tokenizer.config
    return Codes(values, config.vocab_size, config.name, config.weights_sha256, layout)


def _frames(seconds: float | None, points: np.ndarray | None, fps: float) -> int:
    """How many frames to draw."""
    if seconds is None:
        return round(_DEFAULT_SECONDS * fps) if points is None else min(len(points), round(_MOST_SECONDS * fps))
    check_number("seconds", seconds)
    if not 1 / fps <= seconds <= _MOST_SECONDS:
        raise InputError(f"seconds must be from one frame to {_MOST_SECONDS:g}, not {seconds:g}")
    frames = max(1, round(seconds * fps))
    if points is not None and frames > len(points):
        raise InputError(f"the path has {len(points)} points, which are {len(points) / fps:.1f} s, not {seconds:g} s")
    return frames


def _seeds(seed: int, count: int) -> list[int]:
    """A seed for each window."""
    check_integer("seed", seed, least=0)
    return [int(each) for each in np.random.SeedSequence(seed).generate_state(count)]


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
