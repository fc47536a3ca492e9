"""Motion clips as the content of files, read and written in the formats of the field.

What a file is decided by what it says: a header, the arrays that an archive holds, and names of joints where it has
them. Only a CSV file without a header is known by its number of columns: 26 are the H1's, 36 the G1's.

===========  =======================================================================================================
``lafan``    CSV of the LAFAN1 retargeting data set: no header, root x y z (m), quaternion x y z w, joints (rad);
             30 fps
``bones``    CSV of BONES-SEED: a header, ``root_translateX`` (cm), ``root_rotateX`` (degrees, about the fixed axes x,
             y, z in this order), ``left_hip_pitch_joint_dof`` (degrees); 120 fps
``qpos``     NPZ archive of ``qpos`` or ``data`` (T, 7 + joints) as in LAFAN1, and ``fps``
``mjlab``    NPZ archive of BeyondMimic and mjlab: ``joint_pos``, ``joint_vel``, ``body_pos_w``, ``body_quat_w``
             (w x y z), ``body_lin_vel_w``, ``body_ang_vel_w``, ``fps``; usually 50 fps
===========  =======================================================================================================

An NPZ archive of many clips has ``data`` with ``split_points`` (clips + 1,), ``names`` (clips,) and ``fps``; or, in
place of ``data``, ``first`` (clips, columns) and ``delta`` (columns, frames), whole numbers whose running sums are
units of 1e-4. Rows and columns are counted from 1 in every message.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.data.archives import read_npz
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import (
    euler_from_quaternion,
    link_frames,
    multiply_quaternions,
    quaternion_from_euler,
    quaternion_from_rotation,
    rotation_vector,
)
from daps_tokenizer.motion.robots import G1, H1

FORMATS = (".csv", ".npz")
MOST_BYTES = 2**30  # of a file
Kind = Literal["lafan", "bones", "qpos", "data", "mjlab"]
ROBOTS = (H1, G1)  # that a file may be of, where nothing else is said
BONES_FPS = 120.0
_BONES_ROOT = tuple(f"root_{what}{axis}" for what in ("translate", "rotate") for axis in "XYZ")
_UNIT = 1e-4  # of ``first`` and ``delta``
_ZIP_MAGIC = b"PK"  # the rest of the signature of an empty archive is another
_MOST_NAMES = 8  # that are listed in a message
_AGREE = 0.02  # metres that bodies of an archive may be away from where the joint angles put them


@dataclass(frozen=True)
class FileLayout:
    """How a file holds a clip: in which format, and where it has a name, as one clip of many."""

    kind: Kind = "qpos"
    clip: str | None = None


PLAIN = FileLayout()


class Content(NamedTuple):
    """What a file holds: poses (T, 7 + joints) that are not checked yet, whose they are, its frame rate if it says so,
    its layout, and the frame rate that files of its format have."""

    qpos: np.ndarray
    robot: Robot
    fps: object
    layout: FileLayout
    usual_fps: float | None = None


def read(data: bytes, source: str, *, clip: str | None, robots: Sequence[Robot] = ROBOTS) -> Content:
    """Read one clip from the content of a CSV or NPZ file.

    Args:
        data: all of the file.
        source: what errors call it.
        clip: the name of one clip in an archive of many.
        robots: whose motion it may be.

    Raises:
        InputError: not such a file, an empty or damaged one, no clip of that name, or a choice of clips without one.
    """
    contents = read_all(data, source, robots)
    names = [content.layout.clip for content in contents]
    if names == [None]:
        if clip is not None:
            raise InputError(f"{source}: is not an archive of many clips, so it has none named {clip!r}")
        return contents[0]
    chosen = names[0] if clip is None and len(names) == 1 else clip
    if chosen is None or chosen not in names:
        listed = ", ".join(map(str, names[:_MOST_NAMES]))
        listed += f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES)
        wanted = "name one of them" if clip is None else f"there is none named {clip!r}"
        raise InputError(f"{source}: holds {len(names)} clips, {wanted}: {listed}")
    return contents[names.index(chosen)]


def read_all(data: bytes, source: str, robots: Sequence[Robot] = ROBOTS) -> list[Content]:
    """Read every clip, at least one, from the content of a CSV or NPZ file, told apart by how it begins.

    Raises:
        InputError: not such a file, or an empty or damaged one.
    """
    if data.startswith(_ZIP_MAGIC):
        return _read_npz(data, source, robots)
    return [_read_csv(data, source, robots)]


def row_of(robots: Sequence[Robot]) -> str:
    """What a row of a pose is, in words."""
    if len(robots) == 1:
        (robot,) = robots
        return f"{robot.pose_size} columns: root x y z, root quaternion x y z w and {len(robot.joints)} joint angles"
    sizes = " or ".join(f"{robot.pose_size} ({robot.name})" for robot in robots)
    return f"{sizes} columns: root x y z, root quaternion x y z w and the joint angles"


def robot_of_width(width: int, robots: Sequence[Robot]) -> Robot | None:
    """The robot whose poses have this many numbers."""
    return next((robot for robot in robots if robot.pose_size == width), None)


def write(qpos: np.ndarray, fps: float, robot: Robot, layout: FileLayout) -> bytes:
    """Poses (T, 7 + joints) as the content of a file in one of the formats."""
    if layout.kind == "lafan":
        return _csv(qpos)
    if layout.kind == "bones":
        return _bones(qpos, robot)
    buffer = io.BytesIO()
    if layout.kind == "mjlab":
        np.savez_compressed(buffer, **_mjlab(qpos, fps, robot))  # type: ignore[arg-type]  # numpy's stub has no **arrays
    elif layout.clip is not None:
        np.savez_compressed(
            buffer,
            data=qpos.astype(np.float32),
            split_points=np.array([0, len(qpos)]),
            names=np.array([layout.clip]),
            columns=np.array(robot.columns),
            fps=fps,
        )
    else:
        np.savez_compressed(buffer, **{layout.kind: qpos}, fps=fps)  # type: ignore[arg-type]
    return buffer.getvalue()


def _csv(qpos: np.ndarray, header: str = "") -> bytes:
    """Six decimals as in LAFAN1: micrometres and microradians."""
    text = io.StringIO()
    np.savetxt(text, qpos, fmt="%.6f", delimiter=",", header=header, comments="")
    return text.getvalue().encode()


def _bones(qpos: np.ndarray, robot: Robot) -> bytes:
    joints = [f"{name}_joint_dof" for name in robot.joint_names]
    angles = np.degrees(np.concatenate([euler_from_quaternion(qpos[:, 3:7]), qpos[:, 7:]], axis=1))
    rows = np.concatenate([np.arange(len(qpos))[:, None], 100 * qpos[:, :3], angles], axis=1)
    return _csv(rows, ",".join(["Frame", *_BONES_ROOT, *joints]))


def _mjlab(qpos: np.ndarray, fps: float, robot: Robot) -> dict[str, np.ndarray]:
    """Positions and velocities of joints, root and links, in the world; velocities are central differences."""
    rotations, positions = link_frames(qpos, robot)
    places = np.stack(positions, 1)
    quaternions = quaternion_from_rotation(np.stack(rotations, 1))
    frames = np.arange(len(qpos))
    before, after = np.maximum(frames - 1, 0), np.minimum(frames + 1, len(qpos) - 1)
    turned = multiply_quaternions(quaternions[after], quaternions[before] * (-1, -1, -1, 1))
    spans = (after - before)[:, None, None] / fps
    arrays = {
        "joint_pos": qpos[:, 7:],
        "joint_vel": np.gradient(qpos[:, 7:], axis=0) * fps,
        "body_pos_w": places,
        "body_quat_w": quaternions[..., [3, 0, 1, 2]],
        "body_lin_vel_w": np.gradient(places, axis=0) * fps,
        "body_ang_vel_w": rotation_vector(turned) / spans,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"fps": np.array([fps])}


def _read_csv(data: bytes, source: str, robots: Sequence[Robot]) -> Content:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{source}: neither CSV text nor an NPZ archive; expected a clip as one of these") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{source}: is empty; expected rows of {row_of(robots)}")
    header = [cell.strip() for cell in lines[0].split(",")]
    if len(header) == 1:
        raise InputError(f"{source}: row 1 has no commas; expected {row_of(robots)}, separated by commas")
    if _is_header(header):
        return _read_named(lines, header, source, robots)
    robot = robot_of_width(len(header), robots)
    if robot is None:
        raise InputError(f"{source}: row 1 has {len(header)} columns; expected {row_of(robots)}")
    rows = [_read_row(line, number, robot.columns, source, row_of([robot])) for number, line in enumerate(lines, 1)]
    return Content(np.array(rows), robot, None, FileLayout("lafan"))


def _is_header(cells: list[str]) -> bool:
    """Whether no cell of the first row is a number."""
    return not any(_is_number(cell) for cell in cells) and any(cells)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float:
    """A cell as a number; ValueError where it is none, or Python's 1_000, which other programs do not write."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def _read_named(lines: list[str], header: list[str], source: str, robots: Sequence[Robot]) -> Content:
    """A CSV file whose header names its columns, in any order: BONES-SEED's, or those of a pose."""
    is_bones = _BONES_ROOT[0] in header
    names = [name for name in header if name != "Frame"] if is_bones else header
    found: tuple[Robot, list[str]] | None = None
    for robot in robots:
        wanted = _bones_names(robot) if is_bones else _pose_names(robot)
        if {_plain(name) for name in names} == {_plain(name) for name in wanted} and len(names) == len(wanted):
            found = (robot, wanted)
    if found is None:
        listed = " or ".join(f"the {robot.name}'s" for robot in robots)
        raise InputError(
            f"{source}: row 1 is a header whose {len(header)} names are not those of {listed} root and joints, neither "
            f"as in BONES-SEED ({_BONES_ROOT[0]}, ...) nor as in {', '.join(_pose_names(robots[0])[:4])}, ..."
        )
    robot, wanted = found
    if len(lines) == 1:
        raise InputError(f"{source}: has a header and no rows; expected one row a frame")
    count = f"{len(header)} columns, as the header has"
    rows = np.array([_read_row(line, number, header, source, count) for number, line in enumerate(lines[1:], 2)])
    places = [_plain(name) for name in header]
    values = rows[:, [places.index(_plain(name)) for name in wanted]]
    if not is_bones:
        return Content(values, robot, None, FileLayout("lafan"))
    angles = np.radians(values[:, 3:])
    qpos = np.concatenate([values[:, :3] / 100, quaternion_from_euler(angles[:, :3]), angles[:, 3:]], axis=1)
    return Content(qpos, robot, None, FileLayout("bones"), BONES_FPS)


def _bones_names(robot: Robot) -> list[str]:
    return [*_BONES_ROOT, *(f"{name}_joint_dof" for name in robot.joint_names)]


def _pose_names(robot: Robot) -> list[str]:
    return ["root_x", "root_y", "root_z", "root_qx", "root_qy", "root_qz", "root_qw", *robot.joint_names]


def _plain(name: str) -> str:
    """The name of a column without what files write differently."""
    plain = name.strip().removeprefix("#").strip().strip("\"'").lower()  # NumPy's mark of a header, and R's quotes
    plain = plain.replace(" ", "_").replace("root_quaternion_", "root_q")
    return plain.removesuffix("_dof").removesuffix("_joint")


def _read_row(line: str, number: int, columns: Sequence[str], source: str, expected: str) -> list[float]:
    cells = line.split(",")
    row = []
    for column, cell in enumerate(cells[: len(columns)], start=1):
        try:
            row.append(_number(cell))
        except ValueError:
            raise InputError(
                f"{source}: row {number}, column {column} ({columns[column - 1]}): "
                f"{cell.strip()[:40]!r} is not a number"
            ) from None
    if len(cells) != len(columns):
        raise InputError(f"{source}: row {number} has {len(cells)} columns; expected {expected}")
    return row


def _read_npz(data: bytes, source: str, robots: Sequence[Robot]) -> list[Content]:
    sizes = " or ".join(str(robot.pose_size) for robot in robots)
    expected = f"an NPZ archive of qpos or data (T, {sizes}), or joint_pos and body_pos_w, and fps"
    arrays = read_npz(io.BytesIO(data), source=source, expected=expected)
    fps = arrays["fps"].item() if "fps" in arrays and arrays["fps"].size == 1 else arrays.get("fps")
    if "joint_pos" in arrays:
        return [_read_mjlab(arrays, fps, source, robots)]
    if "first" in arrays and "delta" in arrays and "data" not in arrays:
        return [_content(q, arrays, source, robots, fps, FileLayout("data", n)) for n, q in _unpack(arrays, source)]
    if "split_points" in arrays:
        return [_content(q, arrays, source, robots, fps, FileLayout("data", n)) for n, q in _split(arrays, source)]
    keys: tuple[Literal["qpos", "data"], ...] = ("qpos", "data")
    for key in keys:
        if key in arrays:
            return [_content(arrays[key], arrays, source, robots, fps, FileLayout(key))]
    raise InputError(f"{source}: holds {', '.join(arrays) or 'nothing'}; expected {expected}")


def _content(
    qpos: np.ndarray,
    arrays: dict[str, np.ndarray],
    source: str,
    robots: Sequence[Robot],
    fps: object,
    layout: FileLayout,
) -> Content:
    """Poses whose columns are in the robot's order, where the archive names them."""
    robot = robot_of_width(qpos.shape[-1] if qpos.ndim else 0, robots)
    if robot is None:
        sizes = " or ".join(f"(T, {each.pose_size}) of the {each.name}" for each in robots)
        raise InputError(f"{source}: an array of shape {qpos.shape}; expected {sizes}")
    if "columns" in arrays:
        names = arrays["columns"]
        if names.shape != (robot.pose_size,):
            raise InputError(
                f"{source}: columns has {names.size} names; expected {robot.pose_size}, one of each column"
            )
        given, wanted = [_plain(str(name)) for name in names], [_plain(name) for name in _pose_names(robot)]
        unknown = sorted(set(given) - set(wanted))
        if unknown:
            raise InputError(f"{source}: columns has {', '.join(unknown)}, which are no joints of the {robot.name}")
        missing = sorted(set(wanted) - set(given))
        if missing:
            raise InputError(f"{source}: columns names {', '.join(missing)} nowhere, and others twice")
        if given != wanted:
            qpos = qpos[..., [given.index(name) for name in wanted]]
    return Content(qpos, robot, fps, layout)


def _read_mjlab(arrays: dict[str, np.ndarray], fps: object, source: str, robots: Sequence[Robot]) -> Content:
    """Joint angles and the root's pose; joints in the order that puts the bodies where the archive has them."""
    joints, places, turns = (arrays.get(key, np.empty(0)) for key in ("joint_pos", "body_pos_w", "body_quat_w"))
    robot = robot_of_width(7 + joints.shape[-1] if joints.ndim == 2 else 0, robots)
    if robot is None or places.ndim != 3 or turns.shape != (*places.shape[:2], 4) or len(places) != len(joints):
        counts = " or ".join(str(len(each.joints)) for each in robots)
        raise InputError(
            f"{source}: joint_pos {joints.shape}, body_pos_w {places.shape} and body_quat_w {turns.shape} do not fit "
            f"together; expected (T, {counts}), (T, bodies, 3) and (T, bodies, 4), the root first"
        )
    if any(array.dtype.kind not in "fiu" for array in (joints, places, turns)) or not len(joints):
        raise InputError(f"{source}: joint_pos, body_pos_w and body_quat_w must hold numbers, at least a frame of them")
    orders = (list(range(len(robot.joints))), _breadth_first(robot))
    root = np.concatenate([places[:, 0], turns[:, 0][:, [1, 2, 3, 0]]], axis=1).astype(np.float64)
    best, off = joints, 0.0
    if places.shape[1] == 1 + len(robot.joints):  # else a choice of bodies, which joints cannot be compared with
        candidates = [_ordered(root, joints, places, order, robot) for order in orders]
        best, off = min(candidates, key=lambda candidate: candidate[1])
    if not off < _AGREE:
        raise InputError(
            f"{source}: bodies are {off:.2f} m away from where joint_pos puts them on the {robot.name}; expected "
            "joints and bodies in the robot's order or breadth first, and quaternions w x y z"
        )
    return Content(np.concatenate([root, best], axis=1), robot, fps, FileLayout("mjlab"))


def _ordered(
    root: np.ndarray, joints: np.ndarray, places: np.ndarray, order: list[int], robot: Robot
) -> tuple[np.ndarray, float]:
    """Joint angles in the robot's order, and how far bodies are from where they put them in the first frame."""
    angles = np.empty(joints.shape)
    angles[:, order] = joints
    _, links = link_frames(np.concatenate([root[0], angles[0]]), robot)
    return angles, float(np.abs(np.stack(links[1:])[order] - places[0, 1:]).max())


def _breadth_first(robot: Robot) -> list[int]:
    """The joints in the order of their depth in the tree, as Isaac Lab lists them."""
    depths: list[int] = []
    for joint in robot.joints:
        depths.append(0 if joint.parent < 0 else depths[joint.parent] + 1)
    return sorted(range(len(depths)), key=lambda number: depths[number])


def _unpack(arrays: dict[str, np.ndarray], source: str) -> list[tuple[str, np.ndarray]]:
    """Names and poses of many clips that are kept as differences."""
    first, delta = arrays["first"], arrays["delta"]
    if (
        first.ndim != 2
        or delta.ndim != 2
        or len(delta) != first.shape[1]
        or {first.dtype.kind, delta.dtype.kind} > {"i", "u"}
    ):
        raise InputError(f"{source}: first {first.shape} and delta {delta.shape} do not fit together")
    clips = _split({**arrays, "data": delta.T}, source)
    if len(clips) != len(first):
        raise InputError(f"{source}: first has {len(first)} rows for {len(clips)} clips")
    return [
        (name, (start + np.cumsum(steps.astype(np.int64), axis=0)) * _UNIT)
        for start, (name, steps) in zip(first.astype(np.int64), clips, strict=True)
    ]


def _split(arrays: dict[str, np.ndarray], source: str) -> list[tuple[str, np.ndarray]]:
    """Names and poses of many clips."""
    data, split, names = (arrays.get(key, np.empty(0)) for key in ("data", "split_points", "names"))
    is_whole = (
        split.ndim == names.ndim == 1
        and data.ndim >= 1
        and split.dtype.kind in "iu"
        and len(split) == len(names) + 1 >= 2
        and split[0] == 0
        and split[-1] == len(data)
        and (split[:-1] <= split[1:]).all()
    )
    if not is_whole:
        raise InputError(
            f"{source}: data {data.shape}, split_points {split.shape} and names {names.shape} do not fit together; "
            "expected split_points from 0 to the number of rows, one more than there are names"
        )
    called = [str(name) for name in names]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source}: names has {twice!r} more than once; expected a name of its own for each clip")
    parts = zip(called, split[:-1], split[1:], strict=True)
    return [(name, data[begin:end]) for name, begin, end in parts]
