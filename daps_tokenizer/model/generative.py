"""The generative models p(x|z): codes to the parameters of a distribution over x (paper, Appendix F and G).

Each has a code table ``embedding`` (V, H) and :meth:`decode_embedded`, so that a quantiser can pass vectors straight
through. A convolutional model takes grids of codes of any size, all others the N codes of an item. Outputs are
channels-last, (B, *input_shape[:-1], channels × parameters): the likelihood splits the last axis.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.transform import Transform
from daps_tokenizer.model.transformer import EncoderBlock, layer_norm, sinusoidal_positions

# Flax's default of 0.99, in PyTorch's convention.
BATCH_NORM_MOMENTUM = 0.01


class GenerativeModel(nn.Module, ABC):
    """A code table and a network on the embedded codes."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.generative.embedding_size)

    def forward(self, codes: Tensor) -> Tensor:
        """Codes -> distribution parameters (B, *input_shape[:-1], channels × parameters).

        Codes are (B, N), or (B, rows, columns): (B, 1, N), or any grid where :class:`ResNetGenerator` says so.
        """
        return self.decode_embedded(self.embedding(codes.flatten(1)))

    @abstractmethod
    def decode_embedded(self, embedded: Tensor) -> Tensor:
        """Embedded codes (B, N, H) -> distribution parameters."""


class MLPGenerator(GenerativeModel):
    """Concatenated embeddings, two hidden ReLU layers, pixels: MNIST."""

    def __init__(self, config: TokenizerConfig, num_parameters: int) -> None:
        super().__init__(config)
        sizes = config.generative
        self.output_shape = (*config.input_shape[:-1], config.input_shape[-1] * num_parameters)
        wide = sizes.hidden_size * sizes.mlp_ratio
        self.input = nn.Linear(config.num_tokens * sizes.embedding_size, sizes.hidden_size)
        self.hidden = nn.Linear(sizes.hidden_size, wide)
        self.output = nn.Linear(wide, math.prod(self.output_shape))

    def decode_embedded(self, embedded: Tensor) -> Tensor:
        """(B, N, H) -> (B, height, width, channels × parameters)."""
        hidden = F.relu(self.hidden(F.relu(self.input(embedded.flatten(1)))))
        return self.output(hidden).unflatten(1, self.output_shape)


class ResidualBlock(nn.Module):
    """ReLU, 3×3, BN, ReLU, 1×1, BN, added to the input (van den Oord et al., 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.convolution_norm = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
        self.mixing = nn.Conv2d(channels, channels, kernel_size=1)
        self.mixing_norm = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, rows, columns) -> the same shape."""
        y = self.convolution_norm(self.convolution(F.relu(x)))
        return x + self.mixing_norm(self.mixing(F.relu(y)))


class ResNetGenerator(GenerativeModel):
    """A square grid of embedded codes, residual blocks, then transposed convolutions up to the image: CIFAR, photos."""

    def __init__(self, config: TokenizerConfig, num_parameters: int) -> None:
        super().__init__(config)
        sizes = config.generative
        height, _, channels = config.input_shape
        self.side = math.isqrt(config.num_tokens)
        num_doublings = int(math.log2(height // self.side))
        self.input = nn.Conv2d(sizes.embedding_size, sizes.hidden_size, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(sizes.hidden_size) for _ in range(sizes.num_layers))
        widths = [sizes.hidden_size >> i for i in range(num_doublings)] + [channels * num_parameters]
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1)
            for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, momentum=BATCH_NORM_MOMENTUM) for width in widths[1:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, rows, columns), any number of them -> (B, rows · cell, columns · cell, channels × parameters).

        Codes (B, N) are a square grid: the model's own, or a part of it.
        """
        return self.decode_embedded(self.embedding(codes))

    def decode_embedded(self, embedded: Tensor) -> Tensor:
        """(B, rows, columns, H), or (B, N, H) of a square grid -> what :meth:`forward` gives."""
        if embedded.ndim == 3:
            embedded = embedded.unflatten(1, (math.isqrt(embedded.shape[1]), -1))
        x = self.input(embedded.permute(0, 3, 1, 2))
        for block in self.blocks:
            x = block(x)
        x = F.relu(x)
        for upsampling, norm in zip(self.upsamplings, self.norms, strict=False):
            x = F.relu(norm(upsampling(x)))
        return self.upsamplings[-1](x).permute(0, 2, 3, 1)


class TransformerGenerator(GenerativeModel):
    """Embedded codes, transformer blocks, a strided convolution down to the clip's frames: motion."""

    positions: Tensor

    def __init__(self, config: TokenizerConfig, num_parameters: int) -> None:
        super().__init__(config)
        sizes = config.generative
        num_frames, num_features = config.input_shape
        hidden = sizes.hidden_size
        self.register_buffer("positions", sinusoidal_positions(config.num_tokens, hidden), persistent=False)
        self.blocks = nn.ModuleList(
            EncoderBlock(hidden, sizes.num_heads, sizes.mlp_ratio) for _ in range(sizes.num_layers)
        )
        self.norm = layer_norm(hidden)
        self.dense = nn.Linear(hidden, hidden)
        self.downsampling = nn.Conv1d(hidden, hidden, kernel_size=4, stride=config.num_tokens // num_frames, padding=1)
        self.output = nn.Linear(hidden, num_features * num_parameters)

    def decode_embedded(self, embedded: Tensor) -> Tensor:
        """(B, N, H) -> (B, frames, features × parameters)."""
        x = embedded + self.positions
        for block in self.blocks:
            x = block(x)
        # No ReLU after the dense layer and the convolution: the authors' code has none.
        x = self.dense(self.norm(x))
        return self.output(self.downsampling(x.transpose(1, 2)).transpose(1, 2))


class FrameRefinement(nn.Module):
    """What is to be added to frames, by what is near them in time: two residual blocks of convolutions."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.input = nn.Conv1d(features, channels, kernel_size=3, padding=1)
        self.wide = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size=3, padding=1) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size=1) for _ in range(2))
        self.output = nn.Conv1d(channels, features, kernel_size=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, features) -> the same shape."""
        h = self.input(frames.transpose(1, 2))
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            h = h + narrow(F.relu(wide(F.relu(h))))
        return self.output(F.relu(h)).transpose(1, 2)


class SpectralGenerator(GenerativeModel):
    """Codes to coefficients of a transform, a correction of all of them together, the transform back: motion.

    Each code has columns of the table of its own: ``embedding`` (V, coefficients) is as many code books side by side. A
    linear decoder would stop there; what hidden layers add is that coefficients say something of each other; what
    the refinement of frames adds is that the features of a frame do.
    """

    def __init__(self, config: TokenizerConfig, num_parameters: int) -> None:
        super().__init__(config)
        assert config.transform is not None  # checked by the config
        sizes = config.generative
        self.transform = Transform(config.transform, config.input_shape)
        widths = [config.transform.size] + [sizes.hidden_size] * sizes.num_layers
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(widths))
        self.correction = nn.Linear(sizes.hidden_size, config.transform.size)
        channels = sizes.refinement
        self.refinement = FrameRefinement(config.input_shape[1], channels) if channels else None
        self.num_parameters = num_parameters

    def decode_embedded(self, embedded: Tensor) -> Tensor:
        """(B, N, coefficients), of which each code's own columns are read -> (B, frames, features)."""
        num_codes = embedded.shape[1]
        own = embedded.unflatten(2, (num_codes, -1)).diagonal(dim1=1, dim2=2)  # (B, coefficients of a code, N)
        return self.decode_coefficients(own.transpose(1, 2).flatten(1))

    def decode_coefficients(self, coefficients: Tensor) -> Tensor:
        """(B, coefficients) -> (B, frames, features)."""
        frames = self.transform.synthesise(coefficients + self.correct(coefficients))
        return frames if self.refinement is None else frames + self.refinement(frames)

    def correct(self, coefficients: Tensor) -> Tensor:
        """What is to be added to quantised coefficients, (B, coefficients)."""
        h = coefficients
        for layer in self.hidden:
            h = F.relu(layer(h))
        return self.correction(h)


def build_generative_model(config: TokenizerConfig, num_parameters: int) -> GenerativeModel:
    """The generative model that a config asks for, with ``num_parameters`` outputs per dimension of x."""
    kinds: dict[str, Callable[[TokenizerConfig, int], GenerativeModel]] = {
        "mlp": MLPGenerator,
        "resnet": ResNetGenerator,
        "transformer": TransformerGenerator,
        "spectral": SpectralGenerator,
    }
    return kinds[config.generative.kind](config, num_parameters)
