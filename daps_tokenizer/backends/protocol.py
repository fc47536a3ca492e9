"""What a backend is: a model in some runtime, behind one small protocol. A backend knows nothing of files or PIL."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Encoded(NamedTuple):
    """Codes (B, N) int32 and log q(z_t | z_<t, x) of each at temperature 1, in nats, (B, N) float32."""

    codes: np.ndarray
    log_probs: np.ndarray


class Decoded(NamedTuple):
    """The reconstruction in input units, mean and variance of p(x|z) in standardised units, each (B, *input_shape).

    Of a grid (B, rows, columns) of a convolutional model each (B, rows · cell, columns · cell, channels).
    """

    reconstruction: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Scored(NamedTuple):
    """log q(z_t | z_<t, x) (B, N) float32 and the k most probable codes at each position (B, N, k) int32."""

    log_probs: np.ndarray
    top_codes: np.ndarray


class CellLikelihood(NamedTuple):
    """log p(x|z) in nats and squared error in standardised units, summed over each code's own cell, shaped as codes."""

    log_likelihood: np.ndarray
    squared_error: np.ndarray


class SweptCodes(NamedTuple):
    """Codes (B, N) int32 after a sweep of local search, and by how much each item's objective rose, (B,) float64."""

    codes: np.ndarray
    gain: np.ndarray


class Backend(Protocol):
    """A model that is loaded in some runtime. Every method is safe to call from several threads.

    ``inputs`` are uint8 images (B, height, width, channels) or float32 features (B, frames, features), of the model's
    size: normalisation is the backend's business, resizing is not. ``encode`` and ``score`` also take images with
    ``recognition.surroundings`` more pixels on every side. Where inputs are tiles, every method takes whole images.

    ``decode`` and ``likelihood`` take codes (B, N) int32, or a grid (B, rows, columns): the N codes of an item as one
    row, (B, 1, N), or, where the generative model is convolutional (``config.token_grid``), any number of rows and
    columns, with images of the size that they decode to.
    """

    name: str
    device: str
    tiles_per_item: int  # items in a row that make up one image, so that their codes depend on each other; 1 if none do

    @property
    def info(self) -> str:
        """A line for people: versions, hardware, precision."""

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes; ``uniform`` is (B, N) float32 in [0, 1), temperature 0 is greedy."""

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct from codes."""

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """The reconstruction alone: mean and variance, eight times its bytes, are not brought to the host."""

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes (B, N), teacher-forced, in one parallel pass; UnsupportedError from a quantiser."""

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes explain the inputs, cell by cell."""


@runtime_checkable
class SweepsOnDevice(Protocol):
    """A backend that can do a whole sweep of local search where the model is, so that no decode waits for the host."""

    def sweep_on_device(
        self, inputs: np.ndarray, codes: np.ndarray, *, objective: str, proposals: int
    ) -> SweptCodes | None:
        """One sweep of :class:`~daps_tokenizer.LocalSearch` from codes (B, N); None where it is not done there."""
