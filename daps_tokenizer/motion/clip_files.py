"""Motion clips as the content of files: CSV and NPZ, read and written.

CSV is the layout of the LAFAN1 retargeting data set: 26 numbers a row (see
:mod:`~daps_tokenizer.motion.kinematics`), no header, no frame rate. An NPZ archive holds one clip as ``qpos`` or
``data`` (T, 26) with its ``fps``, or many in one array ``data`` with ``split_points`` (clips + 1,), ``names`` (clips,)
and ``fps``. Rows and columns are counted from 1 in every message.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from daps_tokenizer.data.archives import read_npz
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.kinematics import JOINT_NAMES

COLUMNS = (
    *(f"root {axis}" for axis in "xyz"),
    *(f"root quaternion {axis}" for axis in "xyzw"),
    *(name.replace("_", " ") for name in JOINT_NAMES),
)
FORMATS = (".csv", ".npz")
_ROW = f"{len(COLUMNS)} columns: root x y z, root quaternion x y z w and {len(JOINT_NAMES)} joint angles"
_ZIP_MAGIC = b"PK"  # the rest of the signature of an empty archive is another
_MOST_NAMES = 8  # that are listed in a message


@dataclass(frozen=True)
class NpzLayout:
    """How an NPZ archive holds a clip: as one array by this key, or, where it has a name, as one clip of many."""

    key: Literal["qpos", "data"] = "qpos"
    clip: str | None = None


PLAIN = NpzLayout()


class Content(NamedTuple):
    """What a file holds: poses (T, 26) that are not checked yet, its frame rate if it says so, and its layout."""

    qpos: np.ndarray
    fps: object
    layout: NpzLayout


def read(data: bytes, source: str, *, clip: str | None) -> Content:
    """Read one clip from the content of a CSV or NPZ file.

    Args:
        data: all of the file.
        source: what errors call it.
        clip: the name of one clip in an archive of many.

    Raises:
        InputError: not such a file, an empty or damaged one, no clip of that name, or a choice of clips without one.
    """
    contents = read_all(data, source)
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


def read_all(data: bytes, source: str) -> list[Content]:
    """Read every clip, at least one, from the content of a CSV or NPZ file, told apart by how it begins.

    Raises:
        InputError: not such a file, or an empty or damaged one.
    """
    if data.startswith(_ZIP_MAGIC):
        return _read_npz(data, source)
    return [Content(_read_csv(data, source), None, PLAIN)]


def to_csv(qpos: np.ndarray) -> bytes:
    """Poses (T, 26) as CSV, with six decimals as in the data set: micrometres and microradians."""
    text = io.StringIO()
    np.savetxt(text, qpos, fmt="%.6f", delimiter=",")
    return text.getvalue().encode()


def to_npz(qpos: np.ndarray, fps: float, layout: NpzLayout) -> bytes:
    """Poses (T, 26) as an NPZ archive in one of the layouts."""
    buffer = io.BytesIO()
    if layout.clip is not None:
        np.savez_compressed(
            buffer,
            data=qpos.astype(np.float32),
            split_points=np.array([0, len(qpos)]),
            names=np.array([layout.clip]),
            columns=np.array(COLUMNS),
            fps=fps,
        )
    else:
        np.savez_compressed(buffer, **{layout.key: qpos}, fps=fps)  # type: ignore[arg-type]  # numpy's stub has no **arrays
    return buffer.getvalue()


def _read_csv(data: bytes, source: str) -> np.ndarray:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{source}: neither CSV text nor an NPZ archive; expected a clip as one of these") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{source}: is empty; expected rows of {_ROW}")
    return np.array([_read_row(line, number, source) for number, line in enumerate(lines, start=1)])


def _read_row(line: str, number: int, source: str) -> list[float]:
    cells = line.split(",")
    row = []
    for column, cell in enumerate(cells[: len(COLUMNS)], start=1):
        try:
            row.append(float(cell))
        except ValueError:
            header = "; expected no header" if number == 1 else ""
            raise InputError(
                f"{source}: row {number}, column {column} ({COLUMNS[column - 1]}): {cell.strip()[:40]!r} is not a "
                f"number{header}"
            ) from None
    if len(cells) != len(COLUMNS):
        raise InputError(f"{source}: row {number} has {len(cells)} columns; expected {_ROW}")
    return row


def _read_npz(data: bytes, source: str) -> list[Content]:
    expected = f"an NPZ archive of qpos or data (T, {len(COLUMNS)}), and fps"
    arrays = read_npz(io.BytesIO(data), source=source, expected=expected)
    fps = arrays["fps"].item() if "fps" in arrays and arrays["fps"].size == 1 else arrays.get("fps")
    if "split_points" in arrays:
        return [Content(qpos, fps, NpzLayout("data", name)) for name, qpos in _split(arrays, source)]
    keys: tuple[Literal["qpos", "data"], ...] = ("qpos", "data")
    for key in keys:
        if key in arrays:
            return [Content(arrays[key], fps, NpzLayout(key))]
    raise InputError(f"{source}: holds {', '.join(arrays) or 'nothing'}; expected {expected}")


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
    parts = zip(names, split[:-1], split[1:], strict=True)
    return [(str(name), data[begin:end]) for name, begin, end in parts]
