"""Images of any size as a grid of tiles of the model's size, and back."""

from __future__ import annotations

import numpy as np

from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import CodesError, InputError


def cut_tiles(
    image: np.ndarray, tile_height: int, tile_width: int, *, overlap: int = 0
) -> tuple[np.ndarray, TileLayout]:
    """Cut an image of any size into a grid of tiles, without scaling it.

    Where the last row and column reach beyond the image, its outermost pixels are repeated (reflection would need an
    image at least as large as what is missing).

    Args:
        image: (H, W, C) uint8.
        tile_height, tile_width: in pixels.
        overlap: pixels that neighbouring tiles share, in both directions. The tiles hold about
            ``tile² / (tile - overlap)²`` times as many pixels as the image.

    Returns:
        The tiles, (rows · columns, tile_height, tile_width, C) uint8, row by row, and the layout that
        :func:`join_tiles` needs.

    Raises:
        InputError: an ``overlap`` that is negative or not smaller than a tile.
    """
    if not 0 <= overlap < min(tile_height, tile_width):
        raise InputError(
            f"overlap must be from 0 to {min(tile_height, tile_width) - 1} pixels "
            f"for tiles of {tile_height}×{tile_width}, not {overlap}"
        )
    height, width, channels = image.shape
    rows, columns = count_pieces(height, tile_height, overlap), count_pieces(width, tile_width, overlap)
    step_y, step_x = tile_height - overlap, tile_width - overlap
    missing = (rows * step_y + overlap - height, columns * step_x + overlap - width)
    padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    # (rows, columns, C, tile_height, tile_width): a view, copied once by the reshape
    windows = np.lib.stride_tricks.sliding_window_view(padded, (tile_height, tile_width), axis=(0, 1))
    windows = windows[::step_y, ::step_x].transpose(0, 1, 3, 4, 2)
    tiles = windows.reshape(rows * columns, tile_height, tile_width, channels)
    return tiles, TileLayout(height=height, width=width, rows=rows, columns=columns, overlap=overlap)


def join_tiles(tiles: np.ndarray, layout: TileLayout) -> np.ndarray:
    """Put tiles together again: the inverse of :func:`cut_tiles`, exact where the tiles are unchanged.

    Takes (rows · columns, tile_height, tile_width, C) uint8, row by row, and returns (layout.height, layout.width, C)
    uint8. Where tiles overlap, one fades linearly into the next, which softens the seams between tiles that were
    decoded each on its own. Needs one float32 buffer of the size of the image.

    Raises:
        CodesError: tiles whose number or size does not belong to this layout.
    """
    check_layout(tiles.shape, layout)
    _, tile_height, tile_width, channels = tiles.shape
    rows, columns = layout.rows, layout.columns
    step_y, step_x = tile_height - layout.overlap, tile_width - layout.overlap
    weights_y = fade_weights(rows, tile_height, layout.overlap)[:, :, None, None]
    weights_x = fade_weights(columns, tile_width, layout.overlap)[:, None, :, None]
    canvas = np.zeros((rows * step_y + layout.overlap, columns * step_x + layout.overlap, channels), np.float32)
    for row in range(rows):
        for column in range(columns):
            top, left = row * step_y, column * step_x
            weights = weights_y[row] * weights_x[column]
            canvas[top : top + tile_height, left : left + tile_width] += tiles[row * columns + column] * weights
    image = canvas[: layout.height, : layout.width]
    return np.rint(image, out=image).astype(np.uint8)


def check_layout(shape: tuple[int, ...], layout: TileLayout) -> None:
    """Check that tiles of ``shape`` (count, tile_height, tile_width, C) can have been cut by ``layout``.

    Raises:
        CodesError: saying what the layout expects; it came with the codes.
    """
    count, tile_height, tile_width, _ = shape
    if (
        count != layout.rows * layout.columns
        or layout.overlap >= min(tile_height, tile_width)
        or layout.rows != count_pieces(layout.height, tile_height, layout.overlap)
        or layout.columns != count_pieces(layout.width, tile_width, layout.overlap)
    ):
        raise CodesError(
            f"{count} tiles of {tile_height}×{tile_width} do not make an image of {layout.height}×{layout.width}; "
            f"expected {layout.rows}×{layout.columns} tiles with an overlap of {layout.overlap}"
        )


def count_pieces(size: int, tile: int, overlap: int) -> int:
    """How many tiles along one axis cover ``size`` pixels, or windows so many frames."""
    return max(1, -(-(size - overlap) // (tile - overlap)))


def fade_weights(count: int, tile: int, overlap: int) -> np.ndarray:
    """Weight of each pixel of each tile along one axis, (count, tile) float32: over all tiles a place's sum is 1.

    The same for windows of a clip, whose axis is time.
    """
    position = np.arange(tile)
    ramp = np.minimum(np.minimum(position + 1, tile - position), overlap + 1) / (overlap + 1)
    places = np.arange(count)[:, None] * (tile - overlap) + position
    total = np.bincount(places.ravel(), weights=np.tile(ramp, count))
    return (ramp / total[places]).astype(np.float32)
