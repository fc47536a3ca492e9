"""What users pass in as the batch that a model takes: one small protocol, and one implementation for each modality."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

import numpy as np

from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.errors import InputError

FitMode = Literal["crop", "pad", "stretch", "tile"]
FIT_MODES = ("crop", "pad", "stretch", "tile")


class InputOptions(TypedDict, total=False):
    """How inputs are brought to the size of a model; each modality has its own options.

    ``fit``, of images (default ``crop``): how an image of another size is brought to the model's: ``crop`` and
    ``stretch`` scale it, ``pad`` scales it and repeats its edges, ``tile`` cuts it into as many tiles as it takes and
    scales nothing.

    ``fps``, of motion: frames per second of clips that do not say so themselves (default: the model's).

    ``overlap``, of motion (default 0): frames that neighbouring windows share; decoding fades from one to the next.
    """

    fit: FitMode
    fps: float
    overlap: int


@dataclass(frozen=True)
class Batch:
    """Pieces of the model's size, (n, *input_shape), and how they make up what was passed in.

    n is the product of ``leading``: (B,), or (B, pieces) where there is a ``layout``.
    """

    pieces: np.ndarray
    leading: tuple[int, ...]
    layout: TileLayout | ClipLayout | None

    def repeat(self, num_samples: int) -> np.ndarray:
        """Each item ``num_samples`` times in a row, its pieces innermost: (n · num_samples, *input_shape)."""
        grouped = self.pieces.reshape(self.leading[0], 1, -1, *self.pieces.shape[1:])
        return np.repeat(grouped, num_samples, axis=1).reshape(-1, *self.pieces.shape[1:])


class Modality(Protocol):
    """Inputs of one kind, for a model of one size."""

    def prepare(self, inputs: object, options: InputOptions) -> Batch:
        """Load inputs and bring them to the model's size.

        Raises:
            InputError: inputs that cannot be read, or an option of another modality or out of range.
        """

    def originals(self, inputs: object, options: InputOptions) -> np.ndarray:
        """What the model is asked to reproduce, as :meth:`restore` would give it back; errors of :meth:`prepare`."""

    def restore(self, pieces: np.ndarray, layout: TileLayout | ClipLayout | None) -> np.ndarray:
        """Decoded pieces as what users get.

        Args:
            pieces: reconstructions (..., *input_shape); where there is a layout, the last of the leading axes is that
                of the pieces of an item.
            layout: how items were cut; None for whole items.

        Returns:
            uint8 images (..., H, W, C), or poses (..., T, 26) float64.
        """


def check_options(options: InputOptions, accepted: Collection[str], modality: str) -> None:
    """Refuse options that a modality does not have.

    Raises:
        InputError: an option of another modality.
        TypeError: an option that no modality has.
    """
    for name in options:
        if name not in InputOptions.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
        if name not in accepted:
            raise InputError(f"{name}= is not an option of {modality} models; accepted are {', '.join(accepted)}")
