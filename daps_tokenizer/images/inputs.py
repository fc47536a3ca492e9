"""Images of any kind and size as the batch that a model takes: loaded, then fitted or cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard, get_args

import numpy as np

from daps_tokenizer.checks import check_choice
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import CodesError, InputError
from daps_tokenizer.images.load import Fitted, load_images
from daps_tokenizer.images.tiles import cut_tiles, join_tiles
from daps_tokenizer.inputs import Batch, FitMode, InputOptions


@dataclass(frozen=True)
class ImageInputs:
    """Images for an image model; implements :class:`~daps_tokenizer.inputs.Modality`."""

    config: TokenizerConfig

    def prepare(self, inputs: object, options: InputOptions) -> Batch:
        """Load images and bring them to the model's (height, width, channels).

        Raises:
            InputError: an unknown ``fit``, an image that cannot be read, or tiled images of unequal sizes.
        """
        options.check_accepted(("fit", "value_range"), "image")
        fit = "crop" if options.fit is None else options.fit
        check_choice("fit", fit, get_args(FitMode))
        height, width, channels = self.config.input_shape
        fitted = None if fit == "tile" else Fitted(height, width, fit)
        if fitted is not None and self._are_ready(inputs) and options.value_range is None:
            return Batch(np.ascontiguousarray(inputs), (len(inputs),), None)
        loaded = load_images(inputs, channels=channels, value_range=options.value_range, fitted=fitted)
        if not loaded:
            return Batch(np.empty((0, *self.config.input_shape), np.uint8), (0,), None)
        if fitted is not None:
            return Batch(np.stack(loaded), (len(loaded),), None)
        sizes = sorted({image.shape[:2] for image in loaded})
        if len(sizes) > 1:
            found = " and ".join(f"{h}×{w}" for h, w in sizes[:2])
            raise InputError(
                f'fit="tile" needs images of one size, not {found}; tok.encode_each(images, fit="tile") takes any sizes'
            )
        cut = [cut_tiles(image, height, width) for image in loaded]
        layout = cut[0][1]
        tiles = np.concatenate([image_tiles for image_tiles, _ in cut])
        return Batch(tiles, (len(loaded), layout.rows * layout.columns), layout)

    def _are_ready(self, inputs: object) -> TypeGuard[np.ndarray]:
        """Whether the images are an array as the model takes it, which is not copied: thousands take milliseconds."""
        return (
            isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and inputs.shape[1:] == self.config.input_shape
        )

    def targets(self, inputs: object, options: InputOptions) -> np.ndarray:
        """The images as the model sees them, (B, H, W, C) uint8: whole, and black or white where it knows no greys."""
        batch = self.prepare(inputs, options)
        seen = self.restore(batch.pieces.reshape(*batch.leading, *batch.pieces.shape[1:]), batch.layout)
        if self.config.likelihood.kind == "bernoulli":
            return np.where(seen > 127, 255, 0).astype(np.uint8)
        return np.array(seen)  # a copy, as the batch may be the caller's own array

    def restore(self, pieces: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
        """Images (..., height, width, C) as they are, tiles (..., T, height, width, C) put together, (..., H, W, C).

        Raises:
            CodesError: the layout is that of motion clips, or of other tiles.
        """
        if layout is None:
            return pieces
        if not isinstance(layout, TileLayout):
            raise CodesError(f"codes of an image model have tiles, not {layout.pieces}")
        flat = pieces.reshape(-1, *pieces.shape[-4:])
        joined = np.stack([join_tiles(tiles, layout) for tiles in flat])
        return joined.reshape(*pieces.shape[:-4], *joined.shape[1:])
