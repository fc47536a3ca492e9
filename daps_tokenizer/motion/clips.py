"""Clip: the poses of a robot over time, checked, with their frame rate; read from anything, written to files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.codes.layouts import FARTHEST, FPS_RANGE
from daps_tokenizer.config import Robot
from daps_tokenizer.data.archives import read_opened, reading
from daps_tokenizer.errors import InputError, reason_of
from daps_tokenizer.files import read_regular_file, write_bytes_atomically
from daps_tokenizer.motion import clip_files
from daps_tokenizer.motion.clip_files import (
    FORMATS,
    MOST_BYTES,
    PLAIN,
    ROBOTS,
    Content,
    FileLayout,
    Kind,
    robot_of_width,
)
from daps_tokenizer.motion.features import FPS
from daps_tokenizer.motion.resample import resample

_ROOT = slice(0, 3)
_QUATERNION = slice(3, 7)
_JOINTS = slice(7, None)
_QUATERNION_TOLERANCE = 1e-3  # float32 and six decimals keep unit length far better
_FEWEST_FRAMES = 2  # a velocity needs two
_ACCEPTED = (
    "a path, a file's bytes, an open file, a Clip, an array or tensor (T, 26), (T, 36) or (B, T, ...), or a list of "
    "these"
)
_KINDS: dict[str, tuple[Kind, ...]] = {".csv": ("lafan", "bones"), ".npz": ("qpos", "data", "mjlab")}


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Poses of a robot at a constant frame rate.

    >>> clip = Clip.load("examples/walk.csv")
    >>> clip
    Clip('examples/walk.csv', 120 frames at 30 fps, 4.0 s)

    Args:
        qpos: (T, 7 + joints) root position x y z in metres, root orientation as a unit quaternion x y z w, joint
            angles in radians, in the order of the robot's table: 19 of the H1, 29 of the G1; T is at least 2. Kept as a
            read-only float64 copy, its quaternions at unit length exactly.
        fps: frames per second, 1 to 1,000.
        name: what errors call it.
        file_layout: how it is written to a file of the same suffix: as it came.
        fps_is_assumed: whether neither the file nor the caller said its frame rate.
        robot: whose poses; without it the H1's or the G1's, by their number of columns.

    Raises:
        InputError: naming the clip, row and column (counted from 1): a wrong shape, too few frames, values that are no
            finite numbers, quaternions that are not of unit length, joint angles in degrees, an impossible ``fps``.
    """

    qpos: np.ndarray
    fps: float = FPS
    name: str = "the clip"
    file_layout: FileLayout = PLAIN
    fps_is_assumed: bool = False
    robot: Robot = None  # type: ignore[assignment]  # the robot that __post_init__ finds

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", check_fps(self.fps, self.name))
        robots = ROBOTS if self.robot is None else (self.robot,)
        qpos, robot = _checked(self.qpos, self.name, robots)
        object.__setattr__(self, "qpos", qpos)
        object.__setattr__(self, "robot", robot)

    def __len__(self) -> int:
        """Number of frames, T."""
        return len(self.qpos)

    def __repr__(self) -> str:
        return f"Clip({self.name!r}, {len(self)} frames at {self.fps:g} fps, {self.seconds:.1f} s)"

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return len(self) / self.fps

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        clip: str | None = None,
        robot: Robot | None = None,
    ) -> Clip:
        """Read a CSV or NPZ file, in one of the formats of :mod:`~daps_tokenizer.motion.clip_files`.

        Args:
            path: of the file.
            fps: frames per second, where the file does not say so; that of the format if None: 120 of BONES-SEED, 30 of
                LAFAN1 and all others.
            clip: which one, by its name, where the file holds many.
            robot: whose motion it is; the H1's or the G1's, as the file says, if None.

        Raises:
            InputError: it cannot be read, is not such a file, or holds no valid clip.
        """
        return cls.from_bytes(_read_file(path), source=str(path), fps=fps, clip=clip, robot=robot)

    @classmethod
    def load_all(
        cls,
        path: str | os.PathLike[str],
        choose: Callable[[list[str]], list[str]],
        *,
        robot: Robot | None = None,
        on_error: Callable[[InputError], None] | None = None,
    ) -> list[Clip]:
        """Read a CSV or NPZ file once for several of its clips, each of which errors call by its name.

        Args:
            path: of the file.
            choose: given the names of the clips in an archive of many, those that are wanted, in their order.
            robot: as of :meth:`load`.
            on_error: told what is wrong with a clip of an archive, which is then left out; raised if None.

        Raises:
            InputError: as of :meth:`load`; clips that were not chosen are not checked.
        """
        contents = clip_files.read_all(_read_file(path), str(path), ROBOTS if robot is None else (robot,))
        named = {content.layout.clip: content for content in contents if content.layout.clip is not None}
        chosen = [named[name] for name in choose(list(named))] if named else contents
        clips = []
        for content in chosen:
            try:
                clips.append(cls._of(content, str(path), content.layout.clip))
            except InputError as error:
                if on_error is None:
                    raise
                on_error(error)
        return clips

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        source: str,
        fps: float | None = None,
        clip: str | None = None,
        robot: Robot | None = None,
    ) -> Clip:
        """Read the content of a file, which errors call ``source``; otherwise as :meth:`load`."""
        content = clip_files.read(data, source, clip=clip, robots=ROBOTS if robot is None else (robot,))
        if fps is not None:
            check_fps(fps, source)
        if content.fps is not None and fps is not None and check_fps(content.fps, source) != fps:
            raise InputError(f"{source}: says that it has {content.fps:g} fps, not {fps:g}; leave fps out")
        return cls._of(content, source, clip, fps=fps)

    @classmethod
    def _of(cls, content: Content, source: str, clip: str | None, *, fps: float | None = None) -> Clip:
        rate: Any = next((value for value in (content.fps, fps, content.usual_fps) if value is not None), FPS)
        name = source if clip is None else f"{source}: {clip}"
        assumed = content.fps is None and fps is None
        return cls(content.qpos, rate, name, content.layout, fps_is_assumed=assumed, robot=content.robot)

    def at(self, fps: float) -> Clip:
        """The same motion at another frame rate."""
        qpos = resample(self.qpos, from_fps=self.fps, to_fps=check_fps(fps, self.name))
        return dataclasses.replace(self, qpos=qpos, fps=fps, fps_is_assumed=False)

    def to_bytes(self, suffix: str, *, kind: Kind | None = None) -> bytes:
        """The content of a file with this suffix.

        Args:
            suffix: ``.csv`` or ``.npz``.
            kind: the format, see :mod:`~daps_tokenizer.motion.clip_files`: ``lafan`` or ``bones`` of CSV files, neither
                of which says its frame rate; ``qpos``, ``data`` or ``mjlab`` of NPZ files. As it came if None, else
                ``lafan`` and ``qpos``.

        Raises:
            InputError: another suffix, or a format that files of this suffix do not have.
        """
        kinds = _KINDS.get(suffix.lower())
        if kinds is None:
            raise InputError(f"{suffix!r}: clips are written as {' or '.join(FORMATS)}")
        if kind is None:
            layout = self.file_layout if self.file_layout.kind in kinds else FileLayout(kinds[0])
        elif kind in kinds:
            layout = FileLayout(kind)
        else:
            raise InputError(f"{kind!r} is no format of {suffix} files; expected {' or '.join(kinds)}")
        return clip_files.write(self.qpos, self.fps, self.robot, layout)

    def save(self, path: str | os.PathLike[str], *, kind: Kind | None = None, overwrite: bool = True) -> None:
        """Write a CSV or NPZ file, as the suffix and ``kind`` say, under a temporary name, then rename it.

        See :meth:`to_bytes`.

        Raises:
            InputError: another suffix, or a format that files of this suffix do not have.
            OutputExistsError: the file is there and ``overwrite`` is False, or the path is no regular file.
            DapsError: it cannot be written.
        """
        write_bytes_atomically(path, self.to_bytes(Path(path).suffix, kind=kind), overwrite=overwrite)


def load_clips(inputs: object, *, fps: float | None = None, robot: Robot | None = None) -> list[Clip]:
    """Read clips from whatever holds them.

    - A path (str or Path) of a CSV or NPZ file with one clip, the content of such a file (bytes), or such a file opened
      in binary mode.
    - A :class:`Clip`.
    - An array or torch tensor (T, 7 + joints) or (B, T, 7 + joints), see :class:`Clip`.
    - A list or tuple of any of these.

    Args:
        inputs: one of the above.
        fps: frames per second of what does not say so itself; that of its format if None, else 30.
        robot: whose motion it has to be; the H1's or the G1's if None.

    Raises:
        InputError: naming the file or the place in the list (counted from 1), row and column.
    """
    if not isinstance(inputs, list | tuple):
        return _load(inputs, "the clip", fps, robot)
    return [
        clip
        for number, item in enumerate(inputs, start=1)
        for clip in _load(item, f"clip {number} of the list", fps, robot)
    ]


def check_fps(fps: object, source: str) -> float:
    """A frame rate as a float.

    Raises:
        InputError: it is no number from 1 to 1,000.
    """
    is_number = isinstance(fps, int | float | np.integer | np.floating) and not isinstance(fps, bool | np.timedelta64)
    least, most = FPS_RANGE
    if not is_number or not least <= fps <= most:  # type: ignore[operator]  # a number by now
        found = " ".join(repr(fps).split())  # of an array in one line
        raise InputError(f"{source}: fps must be a number from {least:g} to {most:g}, not {found}")
    return float(fps)  # type: ignore[arg-type]


def to_numpy(value: Any, source: str) -> Any:
    """A torch tensor as an array, anything else as it is; torch need not be installed.

    Raises:
        InputError: a tensor that NumPy has no counterpart of.
    """
    if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
        try:
            return value.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:  # bfloat16; or tensors without values
            raise InputError(f"{source}: a tensor of {value.dtype} has no NumPy array; expected float32") from error
    return value


def _read_file(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_regular_file(path, most_bytes=MOST_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the path of a clip, CSV or NPZ") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected the path of a clip, CSV or NPZ") from None
    except (OSError, ValueError) as error:  # ValueError: a name that holds a null character
        raise InputError(
            f"{os.fspath(path)!r}: cannot be read ({reason_of(error)}); expected a clip, CSV or NPZ"
        ) from error


def _load(item: Any, source: str, fps: float | None, robot: Robot | None) -> list[Clip]:
    if isinstance(item, str | os.PathLike):
        return [Clip.load(item, fps=fps, robot=robot)]
    if isinstance(item, bytes | bytearray | memoryview):
        return [Clip.from_bytes(bytes(item), source=source, fps=fps, robot=robot)]
    if hasattr(item, "read"):
        name = getattr(item, "name", None)  # a number where the file was opened by its descriptor
        source = name if isinstance(name, str) else source
        with reading(source, "a clip, CSV or NPZ, opened in binary mode"):
            content = read_opened(item, source)
        return [Clip.from_bytes(content, source=source, fps=fps, robot=robot)]
    if isinstance(item, Clip):
        if fps is not None and check_fps(fps, item.name) != item.fps:
            raise InputError(f"{item.name}: a Clip of {item.fps:g} fps, not {fps:g}; leave fps out")
        if robot is not None and item.robot.joint_names != robot.joint_names:
            raise InputError(f"{item.name}: a Clip of the {item.robot.name}; expected one of the {robot.name}")
        return [item]
    item = to_numpy(item, source)
    if not isinstance(item, np.ndarray):
        raise InputError(f"{source}: expected {_ACCEPTED}, not {type(item).__name__}")
    rate = FPS if fps is None else fps
    if item.ndim != 3:
        return [Clip(item, rate, source, robot=robot)]  # type: ignore[arg-type]
    names = [source] if len(item) == 1 else [f"{source}, number {number}" for number in range(1, len(item) + 1)]
    return [Clip(poses, rate, name, robot=robot) for poses, name in zip(item, names, strict=True)]  # type: ignore[arg-type]


def _checked(qpos: np.ndarray, name: str, robots: Sequence[Robot]) -> tuple[np.ndarray, Robot]:
    """The poses as a read-only float64 copy, if they are possible ones, and whose they are."""
    sizes = " or ".join(f"(T, {robot.pose_size})" for robot in robots)
    with reading(name, f"an array {sizes}"):
        given = np.asarray(to_numpy(qpos, name))
    if given.dtype.kind not in "fiu":
        raise InputError(f"{name}: values are of type {given.dtype}; expected floating-point numbers")
    robot = robot_of_width(given.shape[1], robots) if given.ndim == 2 else None
    if robot is None:
        raise InputError(f"{name}: an array of shape {given.shape}; expected {sizes}: root x y z, ...")
    if len(given) < _FEWEST_FRAMES:
        count = f"{len(given)} frame{'s' * (len(given) != 1)}"
        raise InputError(f"{name}: has {count}; expected at least {_FEWEST_FRAMES}")
    poses = np.array(given, np.float64, order="C")
    _refuse_where(~np.isfinite(poses), poses, name, robot, "expected a finite number")
    far = np.zeros(poses.shape, bool)
    far[:, _ROOT] = np.abs(poses[:, _ROOT]) > FARTHEST
    _refuse_where(far, poses, name, robot, f"expected metres, from -{FARTHEST:,} to {FARTHEST:,}")
    length = np.linalg.norm(poses[:, _QUATERNION], axis=1)
    wrong = np.abs(length - 1) > _QUATERNION_TOLERANCE
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{name}: row {row + 1}, columns 4 to 7 (root quaternion): a length of {length[row]:.4g}; expected a unit "
            "quaternion x y z w"
        )
    poses[:, _QUATERNION] /= length[:, None]
    too_far = np.zeros(poses.shape, bool)
    too_far[:, _JOINTS] = np.abs(poses[:, _JOINTS]) > 2 * np.pi
    _refuse_where(too_far, poses, name, robot, "expected an angle in radians, from -2π to 2π")
    poses.flags.writeable = False
    return poses, robot


def _refuse_where(wrong: np.ndarray, poses: np.ndarray, name: str, robot: Robot, expected: str) -> None:
    if wrong.any():
        row, column = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        found = f"{poses[row, column]:g}".replace("nan", "NaN")
        raise InputError(f"{name}: row {row + 1}, column {column + 1} ({robot.columns[column]}): {found}; {expected}")
