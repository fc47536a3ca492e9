"""How an input that is larger than the model's was cut into pieces: images into tiles, motion clips into windows.

Codes carry the layout, so that decoding puts the pieces together again. Both kinds have the attributes and methods of
:class:`Layout`, which is all that code for any modality needs.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from daps_tokenizer.errors import CodesError

# Frames per second that a clip may have. Codes of a clip are decoded to as many frames as it had, so that the highest
# rate also bounds what a small file becomes: at 1,000, a code of a motion model at 30 fps stands for up to 17 frames.
FPS_RANGE = (1.0, 1_000.0)
FARTHEST = 10_000  # metres from the origin that a root may be; float32 features still tell millimetres there


def require(condition: bool, message: str) -> None:
    """Raise a :class:`CodesError` unless a condition holds."""
    if not condition:
        raise CodesError(message)


def require_integer(name: str, value: object, least: int, most: int) -> None:
    """Raise a :class:`CodesError` unless a value is an integer in a range, ends included."""
    is_valid = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    require(is_valid, f"{name} must be an integer from {least} to {most}, not {value!r}")


def _is_finite(value: object) -> bool:
    """Whether it is a number of Python that JSON can hold and NumPy can take as a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Layout(Protocol):
    """What both kinds of layout have in common."""

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the pieces; their product is the size of the second last axis of codes."""

    @property
    def pieces(self) -> str:
        """What the pieces are called, ``tiles`` or ``windows``."""

    @property
    def cut(self) -> Layout:
        """The same without what belongs to single items: equal for all items that were cut alike."""

    def take(self, items: Sequence[int]) -> Layout:
        """The layout of a choice of items, by their numbers in C order; a number may come more than once."""

    def check_items(self, count: int) -> None:
        """Refuse with a :class:`CodesError` where codes of ``count`` items do not fit."""


@dataclass(frozen=True)
class TileLayout:
    """How a large image was cut into a grid of ``rows`` × ``columns`` tiles, listed row by row.

    ``height`` and ``width`` are those of the original image, in pixels.

    Raises:
        CodesError: a size that is not a positive integer.
    """

    height: int
    width: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        for name, size in dataclasses.asdict(self).items():
            require_integer(f"layout.{name}", size, 1, 2**31 - 1)

    def __str__(self) -> str:
        return f"tiles={self.rows}×{self.columns}"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    @property
    def pieces(self) -> str:
        """``tiles``."""
        return "tiles"

    @property
    def cut(self) -> TileLayout:
        """Itself: all images of a batch are cut alike."""
        return self

    def take(self, items: Sequence[int]) -> TileLayout:
        """Itself: all images of a batch are cut alike."""
        return self

    def check_items(self, count: int) -> None:
        """Any number of images fits."""


@dataclass(frozen=True)
class ClipLayout:
    """How a motion clip was cut into ``windows`` along time, and where in the world it was.

    Args:
        frames: of the original clip.
        windows: how many it was cut into, after it was brought to the frame rate of the model.
        overlap: frames that neighbouring windows share, at the frame rate of the model.
        fps: frame rate of the original clip, frames per second, 1 to 1,000.
        starts: (x [m], y [m], heading [rad]) of the first root pose of each clip, in C order of the leading axes of its
            codes. Without any, decoded clips start at the origin and look along x.
        anchors: for each clip where its root is at the ends of its windows, three integers each
            (:mod:`daps_tokenizer.motion.path`). Without any, errors of the decoded path add up.

    Raises:
        CodesError: a size that is not a positive integer (``overlap`` may be 0), an impossible frame rate, a start that
            is not three finite numbers, or an anchor that is not three integers.
    """

    frames: int
    windows: int
    overlap: int
    fps: float
    starts: tuple[tuple[float, float, float], ...] = ()
    anchors: tuple[tuple[tuple[int, int, int], ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("frames", "windows", "overlap"):
            require_integer(f"layout.{name}", getattr(self, name), 0 if name == "overlap" else 1, 2**31 - 1)
        least, most = FPS_RANGE
        is_rate = _is_finite(self.fps) and least <= self.fps <= most
        require(is_rate, f"layout.fps must be a number from {least:g} to {most:g}, not {self.fps!r}")
        is_tuple = isinstance(self.starts, tuple)
        require(is_tuple, f"layout.starts must be a tuple of (x, y, heading), not of type {type(self.starts).__name__}")
        for number, start in enumerate(self.starts):
            is_start = isinstance(start, tuple) and len(start) == 3 and all(_is_finite(value) for value in start)
            require(is_start, f"layout.starts[{number}] must be x, y and heading, three finite numbers, not {start!r}")
            is_near = max(abs(start[0]), abs(start[1])) <= FARTHEST
            require(is_near, f"layout.starts[{number}] must be at most {FARTHEST:,} m from the origin, not {start!r}")
        for number, anchors in enumerate(self.anchors):
            for anchor in anchors:
                is_anchor = len(anchor) == 3 and all(type(value) is int and abs(value) < 2**31 for value in anchor)
                require(is_anchor, f"layout.anchors[{number}] must be lists of three integers, not {anchor!r}")
            require(
                len(anchors) <= self.windows,
                f"layout.anchors[{number}] has {len(anchors)} anchors for {self.windows} windows; expected one each",
            )

    def __str__(self) -> str:
        return f"windows={self.windows}"

    @property
    def grid(self) -> tuple[int, int]:
        """One window a row."""
        return self.windows, 1

    @property
    def pieces(self) -> str:
        """``windows``."""
        return "windows"

    @property
    def cut(self) -> ClipLayout:
        """The same without starts and anchors."""
        return dataclasses.replace(self, starts=(), anchors=())

    def take(self, items: Sequence[int]) -> ClipLayout:
        """The same with the starts and anchors of these clips."""
        starts = tuple(self.starts[i] for i in items) if self.starts else ()
        anchors = tuple(self.anchors[i] for i in items) if self.anchors else ()
        return dataclasses.replace(self, starts=starts, anchors=anchors)

    def check_items(self, count: int) -> None:
        """Refuse where there are starts or anchors, but not of each clip."""
        fits = len(self.starts) in (0, count)
        require(fits, f"layout has {len(self.starts)} starts for codes of {count} clips; expected one each, or none")
        fits = len(self.anchors) in (0, count)
        require(fits, f"layout has anchors of {len(self.anchors)} clips for codes of {count}; expected all, or none")
