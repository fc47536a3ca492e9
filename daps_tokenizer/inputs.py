"""Images of any kind and size as the batch that a model takes: loaded, then fitted or cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from daps_tokenizer.codes import TileLayout
from daps_tokenizer.errors import InputError
from daps_tokenizer.images import fit_image, load_images
from daps_tokenizer.tiles import cut_tiles, join_tiles

FitMode = Literal["crop", "pad", "stretch", "tile"]
FIT_MODES = ("crop", "pad", "stretch", "tile")


@dataclass(frozen=True)
class ImageBatch:
    """Pieces of the model's size, (n, height, width, C) uint8, and how they make up images.

    n is the product of ``leading``: (B,), or (B, tiles) where there is a ``layout``.
    """

    pieces: np.ndarray
    leading: tuple[int, ...]
    layout: TileLayout | None

    def repeat(self, num_samples: int) -> np.ndarray:
        """Each image ``num_samples`` times in a row, tiles innermost: (n · num_samples, height, width, C)."""
        grouped = self.pieces.reshape(self.leading[0], 1, -1, *self.pieces.shape[1:])
        return np.repeat(grouped, num_samples, axis=1).reshape(-1, *self.pieces.shape[1:])

    def images(self) -> np.ndarray:
        """The images as the model sees them, (B, H, W, C) uint8; whole again where they were cut into tiles."""
        if self.layout is None:
            return self.pieces
        return join_leading(self.pieces.reshape(*self.leading, *self.pieces.shape[1:]), self.layout)


def prepare_images(images: object, input_shape: tuple[int, ...], *, fit: FitMode) -> ImageBatch:
    """Load images and bring them to the model's (height, width, channels).

    Raises:
        InputError: an unknown ``fit``, an image that cannot be read, or tiled images of unequal sizes.
    """
    if fit not in FIT_MODES:
        raise InputError(f"fit must be one of {', '.join(FIT_MODES)}, not {fit!r}")
    height, width, channels = input_shape
    loaded = load_images(images, channels=channels)
    if fit != "tile":
        fitted = np.stack([fit_image(image, height, width, fit=fit) for image in loaded])
        return ImageBatch(fitted, (len(loaded),), None)
    sizes = sorted({image.shape[:2] for image in loaded})
    if len(sizes) > 1:
        found = " and ".join(f"{h}×{w}" for h, w in sizes[:2])
        raise InputError(f'fit="tile" needs images of one size, not {found}; encode them one at a time')
    cut = [cut_tiles(image, height, width) for image in loaded]
    layout = cut[0][1]
    tiles = np.concatenate([image_tiles for image_tiles, _ in cut])
    return ImageBatch(tiles, (len(loaded), layout.rows * layout.columns), layout)


def join_leading(tiles: np.ndarray, layout: TileLayout) -> np.ndarray:
    """Tiles (..., T, height, width, C) to whole images (..., H, W, C)."""
    flat = tiles.reshape(-1, *tiles.shape[-4:])
    joined = np.stack([join_tiles(image_tiles, layout) for image_tiles in flat])
    return joined.reshape(*tiles.shape[:-4], *joined.shape[1:])
