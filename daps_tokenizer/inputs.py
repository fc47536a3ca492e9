"""What users pass in as the batch that a model takes: one small protocol, and one implementation for each modality."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.errors import InputError
from daps_tokenizer.images.arrays import ValueRange

FitMode = Literal["crop", "pad", "stretch", "tile"]


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read and brought to the size of a model; each modality has its own options. None is its default.

    Args:
        fit: of images (default ``crop``): how an image of another size is brought to the model's: ``crop`` and
            ``stretch`` scale it, ``pad`` scales it and repeats its edges, ``tile`` cuts it into as many tiles as it
            takes and scales nothing.
        fps: of motion: frames per second of clips that do not say so themselves (default: the model's).
        overlap: of motion (default 0): frames that neighbouring windows share; decoding fades from one to the next.
        value_range: of images in arrays and tensors of floating-point numbers: the values of black and of white, for
            example (0, 1) or (-1, 1).
    """

    fit: FitMode | None = None
    fps: float | None = None
    overlap: int | None = None
    value_range: ValueRange | None = None

    def check_accepted(self, accepted: Collection[str], modality: str) -> None:
        """Refuse options that a modality does not have.

        Raises:
            InputError: an option of another modality.
        """
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None and field.name not in accepted:
                raise InputError(
                    f"{field.name}= is not an option of {modality} models; accepted are {', '.join(accepted)}"
                )


@dataclass(frozen=True)
class Batch:
    """Pieces of the model's size, (n, *input_shape), and how they make up what was passed in.

    n is the product of ``leading``: (B,), or (B, pieces) where there is a ``layout``. No inputs have none.
    """

    pieces: np.ndarray
    leading: tuple[int, ...]
    layout: TileLayout | ClipLayout | None

    def repeated(self, num_samples: int) -> np.ndarray:
        """Numbers of the pieces, those of each item ``num_samples`` times in a row: (n · num_samples,)."""
        numbers = np.arange(len(self.pieces)).reshape(self.leading[0], 1, math.prod(self.leading[1:]))
        return np.repeat(numbers, num_samples, axis=1).reshape(-1)


class Modality(Protocol):
    """Inputs of one kind, for a model of one size."""

    def prepare(self, inputs: object, options: InputOptions) -> Batch:
        """Load inputs and bring them to the model's size.

        Raises:
            InputError: inputs that cannot be read, or an option of another modality or out of range.
        """

    def targets(self, inputs: object, options: InputOptions) -> np.ndarray:
        """What a reconstruction is compared with, as :meth:`restore` would give it back; errors of :meth:`prepare`."""

    def restore(self, pieces: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
        """Decoded pieces as what users get.

        Args:
            pieces: reconstructions (..., *input_shape); where there is a layout, the last of the leading axes is that
                of the pieces of an item.
            layout: how items were cut; None for whole items.

        Returns:
            uint8 images (..., H, W, C), or poses (..., T, 26) float64.
        """
