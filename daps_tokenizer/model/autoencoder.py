"""Recognition model, generative model and likelihood together, with the normalisation between them and the world."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, ModelFileError, first_line
from daps_tokenizer.model.generative import build_generative_model
from daps_tokenizer.model.likelihoods import build_likelihood
from daps_tokenizer.model.parallel import FactorisedModel, LevelQuantiser, NearestQuantiser, ParallelEncoder
from daps_tokenizer.model.recognition import PatchEmbedding, Recognition, RecognitionModel


class CellValues(NamedTuple):
    """What each code's own part of the input adds to the whole, float32, in the shape of the codes."""

    log_likelihood: Tensor
    squared_error: Tensor


class Autoencoder(nn.Module):
    """A discrete variational autoencoder (paper, section 2)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = build_likelihood(config.likelihood)
        self.recognition = build_recognition_model(config)
        self.generative = build_generative_model(config, self.likelihood.num_parameters)
        self.register_buffer("mean", torch.tensor(config.normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.normalisation.std), persistent=False)
        self.apply(_initialise)

    @property
    def autoregressive(self) -> RecognitionModel:
        """The recognition model, for what needs it to draw code by code.

        Raises:
            ConfigError: it is of another kind.
        """
        if not isinstance(self.recognition, RecognitionModel):
            kind = self.config.recognition.kind
            raise ConfigError(f"recognition.kind must be autoregressive for this, not {kind}")
        return self.recognition

    def standardise(self, inputs: Tensor) -> Tensor:
        """Input units to standardised units.

        Args:
            inputs: uint8 images (B, height, width, channels) of any size or float32 features (B, frames, features).

        Returns:
            The same shape, float32; black (0) or white (1) where the likelihood is Bernoulli.
        """
        if self.config.likelihood.kind == "bernoulli":
            return (inputs > 127).float()
        if self.config.modality == "motion":
            return (inputs.float() - self.mean) / self.std
        mean, std = self._along_rows(inputs)
        # To float first: TensorRT cannot reshape bytes.
        return ((inputs.float().flatten(-2) / 255.0 - mean) / std).unflatten(-1, inputs.shape[-2:])

    def to_input_units(self, mean: Tensor) -> Tensor:
        """Standardised means to uint8 images or float32 features, the inverse of :meth:`standardise`."""
        if self.config.modality == "motion":
            return mean * self.std + self.mean
        if self.config.likelihood.kind == "bernoulli":
            scaled = mean
        else:
            own_mean, own_std = self._along_rows(mean)
            scaled = (mean.flatten(-2) * own_std + own_mean).unflatten(-1, mean.shape[-2:])
        return (scaled * 255.0).round().clamp(0, 255).to(torch.uint8)

    def _along_rows(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of every channel of every pixel in a row of images (..., width, channels): (width · channels).

        Broadcasting three channels is a loop of three in ONNX Runtime, 20 times as slow as one along whole rows.
        """
        width = images.shape[-2]
        return self.mean.repeat(width), self.std.repeat(width)

    def log_prob(self, x: Tensor, codes: Tensor) -> Tensor:
        """log p(x|z) in nats of each dimension of standardised x, (B, *input_shape), and codes (B, N)."""
        return self.likelihood.log_prob(self.generative(codes), x)

    def log_likelihood(self, x: Tensor, codes: Tensor) -> Tensor:
        """log p(x|z) in nats, (B,), of standardised x (B, *input_shape) and codes (B, N)."""
        return self.log_prob(x, codes).flatten(1).sum(1)

    def cell_log_likelihood(self, x: Tensor, codes: Tensor) -> Tensor:
        """log p(x|z) summed over each code's own cell of the input, (B, N): a part of :meth:`cell_values`."""
        return self.sum_cells(self.log_prob(x, codes)).reshape(codes.shape)

    def cell_values(self, x: Tensor, codes: Tensor) -> CellValues:
        """log p(x|z) and squared error, summed over each code's own cell of the input (see :meth:`sum_cells`).

        Codes are (B, N), or (B, rows, columns) and x of the size that the generative model makes of such a grid.
        """
        parameters = self.generative(codes)
        error = (x - self.likelihood.moments(parameters).mean).square()
        values = (self.likelihood.log_prob(parameters, x), error)
        return CellValues(*(self.sum_cells(value).reshape(codes.shape) for value in values))

    def sum_cells(self, values: Tensor) -> Tensor:
        """Sum a value per dimension over the part of the input that each code stands for.

        An image is cut as the recognition model cuts it, into one patch per code. A frame of motion is shared equally
        by the codes that fall on it.

        Args:
            values: (B, *input_shape), or of an image that is larger or smaller by whole patches.

        Returns:
            (B, N), one for each patch or code; their sum is the sum over all dimensions.
        """
        embedding = self.recognition.input_embedding
        if isinstance(embedding, PatchEmbedding):
            padded = nn.functional.pad(values, embedding.padding) if any(embedding.padding) else values
            rows = padded.unflatten(2, (-1, embedding.patch_width))
            grid = rows.unflatten(1, (-1, embedding.patch_height))
            return grid.sum(dim=(2, 4, 5)).flatten(1)
        share = self.config.num_tokens // values.shape[1]
        return (values.sum(-1) / share).repeat_interleave(share, dim=1)


def build_recognition_model(config: TokenizerConfig) -> Recognition:
    """The recognition model that a config asks for."""
    kinds: dict[str, Callable[[TokenizerConfig], Recognition]] = {
        "autoregressive": RecognitionModel,
        "independent": FactorisedModel,
        "nearest": NearestQuantiser,
        "levels": LevelQuantiser,
        "gaussian": ParallelEncoder,
    }
    return kinds[config.recognition.kind](config)


def _initialise(module: nn.Module) -> None:
    """Flax's defaults, where the paper's networks start: LeCun-normal kernels, zero biases, N(0, 1) code tables."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d | nn.ConvTranspose1d):
        transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose1d)
        inputs_axis = 0 if transposed else 1
        fan_in = module.weight.shape[inputs_axis] * math.prod(module.weight.shape[2:])
        nn.init.normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write ``model.safetensors``: all parameters and BatchNorm statistics, float32."""
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read ``model.safetensors`` into a model of the same config: a tokenizer's, or a generator's.

    Raises:
        ModelFileError: missing, damaged, or of another model.
    """
    config: Any = model.config
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; expected the weights of {config.name}") from None
    except Exception as error:  # safetensors and torch raise many types for a file that is not what it should be
        raise ModelFileError(f"{path}: not the weights of {config.name} ({first_line(error)})") from error
