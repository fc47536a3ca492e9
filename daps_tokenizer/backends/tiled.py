"""The tiles of a photograph as one grid of codes, so that no seams show where they meet.

Each tile is encoded by itself. But a convolutional generative model that decodes a tile by itself sees zeros where its
neighbours' codes are, and gets the pixels there wrong. So the codes of all tiles are laid together to one grid, which
is decoded whole, or, where it is too large for that, in blocks. Blocks overlap, and of each only those cells are kept
whose every convolution stayed inside it, or met the outer border of the photograph, where zeros belong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from daps_tokenizer.backends.protocol import Backend, Canvases, CellLikelihood, Decoded, Encoded, Scored, TakesCanvases
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.images.tiles import check_layout

# Of one block, or of several small ones: enough for overlaps to be little, a fifth in 12 megapixels, and few enough for
# the hidden states of so many to take a quarter of a gigabyte (measured with daps-photo-256 in ONNX Runtime).
_CODES_AT_ONCE = 16_384


class _Span(NamedTuple):
    """A block along one axis, in codes: ``start`` to ``end``, of which the cells ``first`` to ``stop`` are kept."""

    start: int
    end: int
    first: int
    stop: int


class _Block(NamedTuple):
    rows: _Span
    columns: _Span


def can_be_one_grid(config: TokenizerConfig, layout: TileLayout) -> bool:
    """Whether tiles are decoded together: a convolutional generative model, and tiles that share no pixels."""
    return layout.overlap == 0 and config.token_grid is not None


class Mosaic:
    """A backend for the tiles of images: items (B · T, ...) are the T tiles of each image, row by row.

    ``encode`` and ``score`` look at each tile by itself, ``decode`` and ``likelihood`` at its neighbours too. What the
    model takes and gives is the same as for any other items, so every search runs on a mosaic as it is.

    Where the backend has no graph for grids of any size, blocks are of the one size that its other graphs take.

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
        self.tiles_per_item = layout.rows * layout.columns
        self._backend, self._layout = backend, layout
        self._canvases = backend.canvases if isinstance(backend, TakesCanvases) else Canvases(None, None)
        self._side = config.token_grid
        *self._tile, self._channels = config.input_shape
        self._cell = self._tile[0] // self._side[0], self._tile[1] // self._side[1]
        self._reach = _reach(config)

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes of each tile by itself."""
        return self._backend.encode(inputs, uniform, temperature)

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes of each tile by itself."""
        return self._backend.score(inputs, codes, k)

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct tiles from codes (B · T, N), each next to its neighbours."""
        canvases = self._draw(self._grids(codes), len(Decoded._fields))
        return Decoded(*(self._split(canvas, self._tile) for canvas in canvases))

    def images(self, codes: np.ndarray) -> np.ndarray:
        """Codes (B · T, N) to whole images (B, H, W, C) uint8, in little more memory than these take."""
        height, width = self._layout.height, self._layout.width
        # Codes beyond the image count no further than they reach into it.
        rows, columns = (
            max(-(-size // cell) + self._reach, 0 if self._canvases.decode else side)
            for size, cell, side in zip((height, width), self._cell, self._side, strict=True)
        )
        (canvas,) = self._draw(self._grids(codes)[:, :rows, :columns], 1)
        return np.ascontiguousarray(canvas[:, :height, :width])

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes (B · T, N) explain the tiles (B · T, height, width, C), cell by cell."""
        grids, pixels = self._grids(codes), self._join(inputs)
        found = [np.empty(grids.shape, np.float32) for _ in CellLikelihood._fields]
        for part in self._parts(grids, any_size=self._canvases.likelihood is not None):
            crops = np.stack([pixels[image][_cut(block, self._cell)] for image, block in part])
            values = self._judge_blocks(crops, _stack(grids, part))
            for canvas, array in zip(found, values, strict=True):
                for (image, block), cells in zip(part, array, strict=True):
                    _place(canvas[image], block, cells, (1, 1))
        return CellLikelihood(*(self._split(canvas, self._side).reshape(len(codes), -1) for canvas in found))

    def _draw(self, grids: np.ndarray, count: int) -> list[np.ndarray]:
        """Codes (B, rows, columns) to the first ``count`` parts of :class:`Decoded`, each whole images."""
        images, rows, columns = grids.shape
        shape = (images, rows * self._cell[0], columns * self._cell[1], self._channels)
        canvases = [np.empty(shape, dtype) for dtype in (np.uint8, np.float32, np.float32)[:count]]
        for part in self._parts(grids, any_size=self._canvases.decode is not None):
            decoded = self._decode_blocks(_stack(grids, part))
            for canvas, array in zip(canvases, decoded[:count], strict=True):
                for (image, block), pixels in zip(part, array, strict=True):
                    _place(canvas[image], block, pixels, self._cell)
        return canvases

    def _decode_blocks(self, codes: np.ndarray) -> Decoded:
        if self._canvases.decode is not None:
            return self._canvases.decode(codes)
        return self._backend.decode(codes.reshape(len(codes), -1))

    def _judge_blocks(self, pixels: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        if self._canvases.likelihood is not None:
            return self._canvases.likelihood(pixels, codes)
        values = self._backend.likelihood(pixels, codes.reshape(len(codes), -1))
        return CellLikelihood(*(array.reshape(codes.shape) for array in values))

    def _parts(self, grids: np.ndarray, *, any_size: bool) -> Iterator[list[tuple[int, _Block]]]:
        """All blocks of all images, as many at a time as memory allows: the number of the image, and the block."""
        images, *grid = grids.shape
        shape = _block_shape((grid[0], grid[1]), self._reach) if any_size else self._side
        spans = (_spans(size, side, min(self._reach, side // 4)) for size, side in zip(grid, shape, strict=True))
        blocks = [(image, _Block(*pair)) for image, pair in itertools.product(range(images), itertools.product(*spans))]
        at_once = max(1, _CODES_AT_ONCE // (shape[0] * shape[1]))
        for start in range(0, len(blocks), at_once):
            yield blocks[start : start + at_once]

    def _grids(self, codes: np.ndarray) -> np.ndarray:
        """Codes (B · T, N) as (B, rows, columns)."""
        return self._join(codes.reshape(-1, *self._side))

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


def _stack(grids: np.ndarray, part: list[tuple[int, _Block]]) -> np.ndarray:
    """Codes (n, rows, columns) of blocks of grids (B, rows, columns)."""
    return np.stack([grids[image][_cut(block, (1, 1))] for image, block in part])


def _cut(block: _Block, cell: tuple[int, int]) -> tuple[slice, slice]:
    """Where a block is on a canvas (rows · cell, columns · cell, ...)."""
    rows, columns = (slice(span.start * size, span.end * size) for span, size in zip(block, cell, strict=True))
    return rows, columns


def _place(canvas: np.ndarray, block: _Block, content: np.ndarray, cell: tuple[int, int]) -> None:
    """Write what is kept of a block's content to its place."""
    kept, place = (
        tuple(
            slice((span.first - origin) * size, (span.stop - origin) * size)
            for span, origin, size in zip(block, origins, cell, strict=True)
        )
        for origins in ((block.rows.start, block.columns.start), (0, 0))
    )
    canvas[place] = content[kept]


def _reach(config: TokenizerConfig) -> int:
    """How many codes away from a code something of it can be seen, and so how many at a block's edge may be wrong.

    As far as the kernels reach: a code for each 3×3 convolution, of which the first has no residual block, and one for
    all transposed convolutions together. A block keeps at least half of its side, lest little is left of it: on grids
    of 8×8 that is 2 codes, beyond which lies 0.04 % of what a code changes (measured; see ``local_search``).
    """
    return config.generative.num_layers + 2


def _block_shape(grid: tuple[int, int], reach: int) -> tuple[int, int]:
    """Rows and columns of equal blocks of at most so many codes that cover a grid with the least to compute."""
    margin = min(reach, math.isqrt(_CODES_AT_ONCE) // 4)

    def parts(size: int, most: int) -> tuple[int, int]:
        """The fewest parts of at most so many codes, and how long each has to be."""
        count = 1 if size <= most else -(-(size - 2 * margin) // (most - 2 * margin))
        return count, -(-(size + 2 * margin * (count - 1)) // count)

    def work(most_rows: int) -> tuple[int, tuple[int, int]]:
        bands, rows = parts(grid[0], most_rows)
        per_band, columns = parts(grid[1], _CODES_AT_ONCE // rows)
        return bands * rows * per_band * columns, (rows, columns)

    shortest = 4 * margin  # of which half is kept
    longest = _CODES_AT_ONCE // min(grid[1], shortest)
    return min(map(work, range(min(grid[0], shortest), min(grid[0], longest) + 1)))[1]


def _spans(size: int, side: int, margin: int) -> list[_Span]:
    """Blocks of ``side`` codes that cover ``size`` ≥ ``side`` codes, each cell kept of exactly one of them."""
    spans, first = [], 0
    for start in [*range(0, size - side, side - 2 * margin), size - side]:
        stop = size if start + side == size else start + side - margin
        spans.append(_Span(start, start + side, first, stop))
        first = stop
    return spans
