"""The tiles of a photograph as one grid of codes, so that no seams show where they meet.

Tiles are encoded one by one, each with the pixels around it where the recognition model sees them. But a convolutional
generative model that decodes a tile by itself sees zeros where its neighbours' codes are, and gets the pixels there
wrong. So the codes of all tiles are joined to one grid, which is decoded whole, or, where it is too large for that, in
blocks. Blocks overlap, and of each only those cells are kept whose every convolution stayed inside it, or met the outer
border of the photograph, where zeros belong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from daps_tokenizer.backends.batching import join, slices
from daps_tokenizer.backends.protocol import Backend, CellLikelihood, Decoded, Encoded, Scored
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.images.tiles import check_layout, with_surroundings

# Of one block, or of several small ones: enough for overlaps to be small, a fifth in 12 megapixels, and few enough for
# the hidden states to take a quarter of a gigabyte (measured with daps-photo-256 in ONNX Runtime).
CODES_AT_ONCE = 16_384
_TILES_AT_ONCE = 64  # 16 MB of pixels of daps-photo-256, with what is around them
# The most rows and the most columns of a block: TensorRT engines are built for grids up to this size.
LONGEST_SIDE = 256


class _Span(NamedTuple):
    """A block along one axis, in codes: ``start`` to ``end``, of which the cells ``first`` to ``stop`` are kept."""

    start: int
    end: int
    first: int
    stop: int


class _Block(NamedTuple):
    rows: _Span
    columns: _Span


def encode_in_parts(
    backend: Backend, inputs: np.ndarray, uniform: np.ndarray, temperature: float, items_at_once: int
) -> Iterator[Encoded]:
    """As ``backend.encode``, some items or tiles after the other, so that progress can be shown."""
    if isinstance(backend, TiledBackend):
        yield from backend.encode_in_parts(inputs, uniform, temperature, items_at_once)
        return
    for rows in slices(len(inputs), items_at_once):
        yield backend.encode(inputs[rows], uniform[rows], temperature)


def can_be_one_grid(config: TokenizerConfig) -> bool:
    """Whether tiles are decoded together: those of a convolutional generative model."""
    return config.token_grid is not None


class TiledBackend:
    """A backend for the tiles of images: items (B · T, ...) are the T tiles of each image, row by row.

    ``encode`` and ``score`` look at each tile, and as far around it as the recognition model sees, ``decode`` and
    ``likelihood`` at its neighbours' codes too. What the model takes and gives is the same as for any other items, so
    every search runs on it unchanged. All methods take whole images.

    Args:
        backend: the model.
        config: of the model.
        layout: how the images were cut.
        codes_at_once: how many codes are decoded together.

    Raises:
        CodesError: a layout that does not cut its image into such tiles.
    """

    def __init__(
        self, backend: Backend, config: TokenizerConfig, layout: TileLayout, *, codes_at_once: int = CODES_AT_ONCE
    ) -> None:
        check_layout((layout.rows * layout.columns, *config.input_shape), layout)
        assert config.token_grid is not None
        self.name, self.device, self.info = backend.name, backend.device, backend.info
        self.tiles_per_item = layout.rows * layout.columns
        self._backend, self._layout, self._codes_at_once = backend, layout, codes_at_once
        self._side = config.token_grid
        *self._tile, self._channels = config.input_shape
        self._cell = self._tile[0] // self._side[0], self._tile[1] // self._side[1]
        self._reach = _reach(config)
        self._margin = config.recognition.surroundings
        # Beyond a photograph the model sees zeros in standardised units, as far as bytes can say that.
        mean = (0.0,) if config.likelihood.kind == "bernoulli" else config.normalisation.mean
        self._beyond = np.rint(255 * np.clip(mean, 0, 1)).astype(np.uint8)

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes of each tile."""
        return join(Encoded, list(self.encode_in_parts(inputs, uniform, temperature, _TILES_AT_ONCE)))

    def encode_in_parts(
        self, inputs: np.ndarray, uniform: np.ndarray, temperature: float, tiles_at_once: int
    ) -> Iterator[Encoded]:
        """As :meth:`encode`, some tiles after the other."""
        for rows, tiles in self._surrounded(inputs, tiles_at_once):
            yield self._backend.encode(tiles, uniform[rows], temperature)

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes of each tile."""
        parts = (self._backend.score(tiles, codes[rows], k) for rows, tiles in self._surrounded(inputs, _TILES_AT_ONCE))
        return join(Scored, list(parts))

    def _surrounded(self, inputs: np.ndarray, tiles_at_once: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Tiles as they are encoded. A photograph of one tile is encoded without surroundings, as any other item."""
        if len(inputs) % self.tiles_per_item:
            raise InputError(f"expected whole images of {self.tiles_per_item} tiles, not {len(inputs)} tiles")
        sees_neighbours = self._margin and self.tiles_per_item > 1
        for rows in slices(len(inputs), tiles_at_once):
            numbers = range(rows.start, rows.stop)
            yield (
                rows,
                with_surroundings(inputs, self._layout, self._margin, self._beyond, numbers)
                if sees_neighbours
                else inputs[rows],
            )

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct tiles from codes (B · T, N), each next to its neighbours."""
        wholes = self._decode_blocks(self._grids(codes), self._backend.decode)
        return Decoded(*(self._split(whole, self._tile) for whole in wholes))

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """As the reconstruction of :meth:`decode`."""
        return self._split(self._reconstruct_blocks(self._grids(codes)), self._tile)

    def images(self, codes: np.ndarray) -> np.ndarray:
        """Codes (B · T, N) to whole images (B, H, W, C) uint8, in little more memory than these take."""
        height, width = self._layout.height, self._layout.width
        # Codes beyond the image count no further than they reach into it.
        rows, columns = (-(-size // cell) + self._reach for size, cell in zip((height, width), self._cell, strict=True))
        whole = self._reconstruct_blocks(self._grids(codes)[:, :rows, :columns])
        return np.ascontiguousarray(whole[:, :height, :width])

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes (B · T, N) explain the tiles (B · T, height, width, C), cell by cell."""
        grids, pixels = self._grids(codes), self._join(inputs)
        found = [np.empty(grids.shape, np.float32) for _ in CellLikelihood._fields]
        for part in self._parts(grids):
            crops = np.stack([pixels[image][_cut(block, self._cell)] for image, block in part])
            values = self._backend.likelihood(crops, _stack(grids, part))
            for whole, array in zip(found, values, strict=True):
                for (image, block), cells in zip(part, array, strict=True):
                    _place(whole[image], block, cells, (1, 1))
        return CellLikelihood(*(self._split(whole, self._side).reshape(len(codes), -1) for whole in found))

    def _reconstruct_blocks(self, grids: np.ndarray) -> np.ndarray:
        return self._decode_blocks(grids, lambda codes: (self._backend.reconstruct(codes),))[0]

    def _decode_blocks(
        self, grids: np.ndarray, decode: Callable[[np.ndarray], Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        """Codes (B, rows, columns) to what ``decode`` gives of blocks, each part as whole images."""
        images, rows, columns = grids.shape
        shape = (images, rows * self._cell[0], columns * self._cell[1], self._channels)
        wholes: list[np.ndarray] = []
        for part in self._parts(grids):
            decoded = decode(_stack(grids, part))
            wholes = wholes or [np.empty(shape, array.dtype) for array in decoded]
            for whole, array in zip(wholes, decoded, strict=True):
                for (image, block), pixels in zip(part, array, strict=True):
                    _place(whole[image], block, pixels, self._cell)
        return wholes

    def _parts(self, grids: np.ndarray) -> Iterator[list[tuple[int, _Block]]]:
        """All blocks of all images, as many at a time as memory allows: the number of the image, and the block."""
        images, *grid = grids.shape
        shape = _block_shape((grid[0], grid[1]), self._reach, self._codes_at_once)
        spans = (_spans(size, side, min(self._reach, side // 4)) for size, side in zip(grid, shape, strict=True))
        blocks = [(image, _Block(*pair)) for image, pair in itertools.product(range(images), itertools.product(*spans))]
        at_once = max(1, self._codes_at_once // (shape[0] * shape[1]))
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

    def _split(self, whole: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """The inverse of :meth:`_join`, for tiles of ``size``."""
        rows, columns = self._layout.rows, self._layout.columns
        grid = whole.reshape(-1, rows, size[0], columns, size[1], *whole.shape[3:]).swapaxes(2, 3)
        return grid.reshape(-1, *size, *whole.shape[3:])


def _stack(grids: np.ndarray, part: list[tuple[int, _Block]]) -> np.ndarray:
    """Codes (n, rows, columns) of blocks of grids (B, rows, columns)."""
    return np.stack([grids[image][_cut(block, (1, 1))] for image, block in part])


def _cut(block: _Block, cell: tuple[int, int]) -> tuple[slice, slice]:
    """Where a block is in an array (rows · cell, columns · cell, ...)."""
    rows, columns = (slice(span.start * size, span.end * size) for span, size in zip(block, cell, strict=True))
    return rows, columns


def _place(whole: np.ndarray, block: _Block, content: np.ndarray, cell: tuple[int, int]) -> None:
    """Write what is kept of a block's content to its place."""
    kept, place = (
        tuple(
            slice((span.first - origin) * size, (span.stop - origin) * size)
            for span, origin, size in zip(block, origins, cell, strict=True)
        )
        for origins in ((block.rows.start, block.columns.start), (0, 0))
    )
    whole[place] = content[kept]


def _reach(config: TokenizerConfig) -> int:
    """How many codes away from a code something of it can be seen, and so how many at a block's edge may be wrong.

    As far as the kernels reach: a code for each 3×3 convolution, of which the first has no residual block, and one for
    all transposed convolutions together.
    """
    return config.generative.num_layers + 2


def _block_shape(grid: tuple[int, int], reach: int, codes_at_once: int = CODES_AT_ONCE) -> tuple[int, int]:
    """Rows and columns of equal blocks that cover a grid with the least to compute.

    A block has at most ``codes_at_once`` codes, and at most :data:`LONGEST_SIDE` rows and columns. It keeps at least
    half of its side, where a small ``codes_at_once`` forces that.
    """
    margin = min(reach, math.isqrt(codes_at_once) // 4)

    def parts(size: int, most: int) -> tuple[int, int]:
        """The fewest parts of at most ``most`` codes, and how long each has to be."""
        count = 1 if size <= most else -(-(size - 2 * margin) // (most - 2 * margin))
        return count, -(-(size + 2 * margin * (count - 1)) // count)

    def work(most_rows: int) -> tuple[int, tuple[int, int]]:
        bands, rows = parts(grid[0], most_rows)
        per_band, columns = parts(grid[1], min(LONGEST_SIDE, codes_at_once // rows))
        return bands * rows * per_band * columns, (rows, columns)

    shortest = 4 * margin  # of which half is kept
    longest = min(LONGEST_SIDE, codes_at_once // min(grid[1], shortest))
    return min(map(work, range(min(grid[0], shortest), min(grid[0], longest) + 1)))[1]


def _spans(size: int, side: int, margin: int) -> list[_Span]:
    """Blocks of ``side`` codes that cover ``size`` ≥ ``side`` codes, each cell kept of exactly one of them."""
    spans, first = [], 0
    for start in [*range(0, size - side, side - 2 * margin), size - side]:
        stop = size if start + side == size else start + side - margin
        spans.append(_Span(start, start + side, first, stop))
        first = stop
    return spans
