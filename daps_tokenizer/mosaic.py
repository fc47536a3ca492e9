"""The tiles of a photograph as one grid of codes, so that no seams show where they meet.

Each tile is encoded by itself. But a convolutional generative model that decodes a tile by itself sees zeros where its
neighbours' codes are, and gets the pixels there wrong. So the codes of all tiles are laid together to one grid, and the
grid is decoded through windows of the size that the model's graphs take. Windows overlap, and of each only those cells
are kept whose every convolution stayed inside it, or met the outer border of the photograph, where zeros belong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from daps_tokenizer.backends import Backend, CellLikelihood, Decoded, Encoded, Scored
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.layouts import TileLayout
from daps_tokenizer.tiles import check_layout

# Enough to keep every core busy, and few enough for the mean and variance of so many photographs to need no memory.
_WINDOWS_AT_ONCE = 16


class _Span(NamedTuple):
    """A window along one axis, in codes: where it starts, and the cells ``first`` to ``stop`` that are kept of it."""

    start: int
    first: int
    stop: int


class _Window(NamedTuple):
    rows: _Span
    columns: _Span


def can_be_one_grid(config: TokenizerConfig, layout: TileLayout) -> bool:
    """Whether tiles are decoded together: a convolutional generative model, and tiles that share no pixels."""
    return layout.overlap == 0 and config.token_grid is not None


def tiles_per_image(backend: Backend) -> int:
    """How many items in a row make up one image, and so depend on each other: 1, but for a :class:`Mosaic`."""
    return backend.tiles if isinstance(backend, Mosaic) else 1


class Mosaic:
    """A backend for the tiles of images: items (B · T, ...) are the T tiles of each image, row by row.

    ``encode`` and ``score`` look at each tile by itself, ``decode`` and ``likelihood`` at its neighbours too. What the
    model takes and gives is the same as for any other items, so every search runs on a mosaic as it is.

    Args:
        backend: the model.
        config: of the model.
        layout: how the images were cut, without overlap.

    Raises:
        CodesError: a layout that does not cut its image into such tiles.
    """

    def __init__(self, backend: Backend, config: TokenizerConfig, layout: TileLayout) -> None:
        check_layout((layout.rows * layout.columns, *config.input_shape), layout)
        assert config.token_grid is not None
        self.name, self.device, self.info = backend.name, backend.device, backend.info
        self.tiles = layout.rows * layout.columns
        self._backend, self._layout = backend, layout
        self._side = config.token_grid
        *self._tile, self._channels = config.input_shape
        self._cell = self._tile[0] // self._side[0], self._tile[1] // self._side[1]
        spans = (
            _spans(count * side, side, _margin(config, side))
            for count, side in zip((layout.rows, layout.columns), self._side, strict=True)
        )
        self._windows = [_Window(*pair) for pair in itertools.product(*spans)]

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes of each tile by itself."""
        return self._backend.encode(inputs, uniform, temperature)

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes of each tile by itself."""
        return self._backend.score(inputs, codes, k)

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct tiles from codes (B · T, N), each next to its neighbours."""
        return Decoded(*(self._split(canvas, self._tile) for canvas in self._draw(codes, len(Decoded._fields))))

    def images(self, codes: np.ndarray) -> np.ndarray:
        """Codes (B · T, N) to whole images (B, H, W, C) uint8, in little more memory than these take."""
        (canvas,) = self._draw(codes, 1)
        return np.ascontiguousarray(canvas[:, : self._layout.height, : self._layout.width])

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes (B · T, N) explain the tiles (B · T, height, width, C), cell by cell."""
        grids, pixels = self._join(codes.reshape(-1, *self._side)), self._join(inputs)
        found = [np.empty(grids.shape, np.float32) for _ in CellLikelihood._fields]
        for image, windows in self._batches(len(grids)):
            crops = np.stack([self._cut(pixels[image], window, self._cell) for window in windows])
            values = self._backend.likelihood(crops, self._flat_codes(grids[image], windows))
            for canvas, array in zip(found, values, strict=True):
                for window, cells in zip(windows, array, strict=True):
                    self._place(canvas[image], window, cells.reshape(self._side), (1, 1))
        return CellLikelihood(*(self._split(canvas, self._side).reshape(len(codes), -1) for canvas in found))

    def _draw(self, codes: np.ndarray, count: int) -> list[np.ndarray]:
        """The first ``count`` parts of :class:`Decoded`, each (B, rows · height, columns · width, C)."""
        grids = self._join(codes.reshape(-1, *self._side))
        images, rows, columns = grids.shape
        shape = (images, rows * self._cell[0], columns * self._cell[1], self._channels)
        canvases = [np.empty(shape, dtype) for dtype in (np.uint8, np.float32, np.float32)[:count]]
        for image, windows in self._batches(images):
            decoded = self._backend.decode(self._flat_codes(grids[image], windows))
            for canvas, array in zip(canvases, decoded[:count], strict=True):
                for window, pixels in zip(windows, array, strict=True):
                    self._place(canvas[image], window, pixels, self._cell)
        return canvases

    def _batches(self, images: int) -> Iterator[tuple[int, list[_Window]]]:
        """The windows of each image, a few at a time."""
        for image in range(images):
            for start in range(0, len(self._windows), _WINDOWS_AT_ONCE):
                yield image, self._windows[start : start + _WINDOWS_AT_ONCE]

    def _flat_codes(self, grid: np.ndarray, windows: list[_Window]) -> np.ndarray:
        """Codes (n, N) of windows of a grid (rows, columns)."""
        return np.stack([self._cut(grid, window, (1, 1)).ravel() for window in windows])

    def _cut(self, canvas: np.ndarray, window: _Window, cell: tuple[int, int]) -> np.ndarray:
        """What a window shows of (rows · cell, columns · cell, ...)."""
        top, left = window.rows.start * cell[0], window.columns.start * cell[1]
        return canvas[top : top + self._side[0] * cell[0], left : left + self._side[1] * cell[1]]

    def _place(self, canvas: np.ndarray, window: _Window, content: np.ndarray, cell: tuple[int, int]) -> None:
        """Write what is kept of a window's content to its place."""
        (row, top, bottom), (column, left, right) = window
        kept = content[
            (top - row) * cell[0] : (bottom - row) * cell[0], (left - column) * cell[1] : (right - column) * cell[1]
        ]
        canvas[top * cell[0] : bottom * cell[0], left * cell[1] : right * cell[1]] = kept

    def _join(self, tiles: np.ndarray) -> np.ndarray:
        """(B · T, a, b, ...) to (B, rows · a, columns · b, ...)."""
        rows, columns, (a, b) = self._layout.rows, self._layout.columns, tiles.shape[1:3]
        grid = tiles.reshape(-1, rows, columns, *tiles.shape[1:]).swapaxes(2, 3)
        return grid.reshape(-1, rows * a, columns * b, *tiles.shape[3:])

    def _split(self, canvas: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """The inverse of :meth:`_join`, for tiles of ``size``."""
        rows, columns = self._layout.rows, self._layout.columns
        grid = canvas.reshape(-1, rows, size[0], columns, size[1], *canvas.shape[3:]).swapaxes(2, 3)
        return grid.reshape(-1, *size, *canvas.shape[3:])


def _margin(config: TokenizerConfig, side: int) -> int:
    """How many codes at the edge of a window may be wrong.

    As far as the kernels reach: a code for each 3×3 convolution, of which the first has no residual block, and one for
    all transposed convolutions together. At most a quarter of the window, lest little is left of it: on grids of 8×8
    that is 2 codes, beyond which lies 0.04 % of what a code changes (measured; see ``local_search``).
    """
    return min(config.generative.num_layers + 2, side // 4)


def _spans(size: int, side: int, margin: int) -> list[_Span]:
    """Windows of ``side`` codes that cover ``size`` ≥ ``side`` codes, each cell kept of exactly one of them."""
    spans, first = [], 0
    for start in [*range(0, size - side, side - 2 * margin), size - side]:
        stop = size if start + side == size else start + side - margin
        spans.append(_Span(start, first, stop))
        first = stop
    return spans
