"""A linear transform of motion clips, and code books for its coefficients: where a motion tokenizer begins.

Motion is smooth in time and its features depend on each other, so most of a clip's 4,064 numbers follow from a few
hundred: principal components of the features in each frame, the lowest frequencies of each over the frames, and of
these the directions in which clips differ most (the Karhunen-Loève transform, Jayant and Noll, 1984, section 12.3).
All three are orthonormal where a transform is fitted to data (``train/transform_codec.py``); training may move them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig, TransformConfig
from daps_tokenizer.model.transformer import Memory


def cosine_table(frames: int, frequencies: int) -> Tensor:
    """The first rows of the orthonormal cosine transform (DCT-II), (frequencies, frames)."""
    # In float64, and rounded once, as ``sinusoidal_positions``.
    frame = torch.arange(frames, dtype=torch.float64) + 0.5
    frequency = torch.arange(frequencies, dtype=torch.float64)
    table = torch.cos(math.pi / frames * frequency[:, None] * frame) * math.sqrt(2 / frames)
    table[0] /= math.sqrt(2)
    return table.float()


class Transform(nn.Module):
    """Clips (B, frames, features), standardised, to coefficients (B, size) and back."""

    cosines: Tensor

    def __init__(self, config: TransformConfig, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        frames, features = input_shape
        self.register_buffer("cosines", cosine_table(frames, config.frequencies), persistent=False)
        self.components = nn.Parameter(torch.empty(features, config.components))
        self.directions = nn.Parameter(torch.empty(config.frequencies * config.components, config.size))
        nn.init.orthogonal_(self.components)
        nn.init.orthogonal_(self.directions)

    def spectrum(self, x: Tensor) -> Tensor:
        """(B, frames, features) -> (B, frequencies · components)."""
        return (self.cosines @ (x @ self.components)).flatten(1)

    def analyse(self, x: Tensor) -> Tensor:
        """(B, frames, features) -> (B, size)."""
        return self.spectrum(x) @ self.directions

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """(B, size) -> (B, frames, features); the inverse as far as the clip can be expressed."""
        spectrum = (coefficients @ self.directions.T).unflatten(1, (self.cosines.shape[0], -1))
        return (self.cosines.T @ spectrum) @ self.components.T


class CodeBooks(nn.Module):
    """How near each code of a code book is to coefficients of an input: what a transform codec would choose by.

    A code book is a few columns of the table (V, coefficients), next to each other. Scores are −sharpness ·
    ‖coefficients − codes‖² up to what all codes have in common, so the best is the nearest. Coefficients are those of
    the transform, and where ``transform.hidden`` is not 0, what a hidden layer on the whole spectrum adds to them.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        assert config.transform is not None  # checked by the config
        self.num_tokens = config.num_tokens
        self.transform = Transform(config.transform, config.input_shape)
        self.hidden, self.correction = None, None
        if config.transform.hidden:
            frequencies, components = config.transform.frequencies, config.transform.components
            self.hidden = nn.Linear(frequencies * components, config.transform.hidden)
            self.correction = nn.Linear(config.transform.hidden, config.transform.size)
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.transform.size))
        self.log_sharpness = nn.Parameter(torch.zeros(()))

    def coefficients(self, x: Tensor) -> Tensor:
        """Standardised clips (B, frames, features) -> (B, size)."""
        if self.hidden is None or self.correction is None:
            return self.transform.analyse(x)
        spectrum = self.transform.spectrum(x)
        return spectrum @ self.transform.directions + self.correction(F.relu(self.hidden(spectrum)))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised clips (B, frames, features) -> scores (B, N, V)."""
        coefficients = self.coefficients(x).unflatten(1, (self.num_tokens, -1))
        books = self.table.T.unflatten(0, (self.num_tokens, -1))
        nearness = 2 * torch.einsum("bnd,ndv->bnv", coefficients, books) - books.square().sum(1)
        return self.log_sharpness.exp() * nearness

    def halves(self, x: Tensor) -> Memory:
        """The same scores as a memory, which has two parts: (B, N, V / 2) each."""
        return Memory(*(half.contiguous() for half in self(x).chunk(2, dim=-1)))
