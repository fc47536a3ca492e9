"""Images of any size as a grid of tiles of the model's size, and back."""

from __future__ import annotations

import itertools

import numpy as np

from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import CodesError


def cut_tiles(image: np.ndarray, tile_height: int, tile_width: int) -> tuple[np.ndarray, TileLayout]:
    """Cut an image of any size into a grid of tiles, without scaling it.

    Where the last row and column reach beyond the image, its outermost pixels are repeated (reflection would need an
    image at least as large as what is missing).

    Args:
        image: (H, W, C) uint8.
        tile_height, tile_width: in pixels.

    Returns:
        The tiles, (rows · columns, tile_height, tile_width, C) uint8, row by row, and the layout that
        :func:`join_tiles` needs.
    """
    height, width, channels = image.shape
    rows, columns = -(-height // tile_height), -(-width // tile_width)
    missing = (rows * tile_height - height, columns * tile_width - width)
    padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    grid = padded.reshape(rows, tile_height, columns, tile_width, channels).swapaxes(1, 2)
    tiles = grid.reshape(rows * columns, tile_height, tile_width, channels)
    return tiles, TileLayout(height=height, width=width, rows=rows, columns=columns)


def with_surroundings(
    tiles: np.ndarray, layout: TileLayout, margin: int, beyond: np.ndarray, numbers: range
) -> np.ndarray:
    """Some tiles with the pixels around them, which are those of their neighbours.

    Args:
        tiles: of images that are cut like this, (B · rows · columns, tile_height, tile_width, C) uint8, row by row.
        layout: how they were cut.
        margin: pixels on every side, at most those of a tile.
        beyond: (C,) uint8, what is beyond the image.
        numbers: which of the tiles.

    Returns:
        (len(numbers), tile_height + 2 · margin, tile_width + 2 · margin, C) uint8.
    """
    grid = tiles.reshape(-1, layout.rows, layout.columns, *tiles.shape[1:])
    bands = [_bands(size, margin) for size in tiles.shape[1:3]]
    surrounded = np.empty((len(numbers), *(size + 2 * margin for size in tiles.shape[1:3]), tiles.shape[3]), np.uint8)
    surrounded[:] = beyond
    for place, number in enumerate(numbers):
        image, row, column = np.unravel_index(number, grid.shape[:3])
        for (down, to_rows, from_rows), (right, to_columns, from_columns) in itertools.product(*bands):
            if 0 <= row + down < layout.rows and 0 <= column + right < layout.columns:
                neighbour = grid[image, row + down, column + right]
                surrounded[place, to_rows, to_columns] = neighbour[from_rows, from_columns]
    return surrounded


def _bands(size: int, margin: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: how many tiles away, where its pixels go in a tile with surroundings, and which these are."""
    return [
        (-1, slice(0, margin), slice(size - margin, size)),
        (0, slice(margin, margin + size), slice(0, size)),
        (1, slice(margin + size, None), slice(0, margin)),
    ]


def join_tiles(tiles: np.ndarray, layout: TileLayout) -> np.ndarray:
    """Put tiles together again: the inverse of :func:`cut_tiles`.

    Takes (rows · columns, tile_height, tile_width, C) uint8, row by row, and returns (layout.height, layout.width, C)
    uint8.

    Raises:
        CodesError: tiles whose number or size does not belong to this layout.
    """
    check_layout(tiles.shape, layout)
    _, tile_height, tile_width, channels = tiles.shape
    grid = tiles.reshape(layout.rows, layout.columns, tile_height, tile_width, channels).swapaxes(1, 2)
    padded = grid.reshape(layout.rows * tile_height, layout.columns * tile_width, channels)
    return padded[: layout.height, : layout.width]


def check_layout(shape: tuple[int, ...], layout: TileLayout) -> None:
    """Check that tiles of ``shape`` (count, tile_height, tile_width, C) can have been cut by ``layout``.

    Raises:
        CodesError: saying what the layout expects; it came with the codes.
    """
    count, tile_height, tile_width, _ = shape
    if (
        count != layout.rows * layout.columns
        or layout.rows != -(-layout.height // tile_height)
        or layout.columns != -(-layout.width // tile_width)
    ):
        raise CodesError(
            f"{count} tiles of {tile_height}×{tile_width} do not make an image of {layout.height}×{layout.width}; "
            f"expected {layout.rows}×{layout.columns} tiles"
        )
