"""log p(x|z) per dimension, in nats and standardised units, from the outputs of the generative model.

Summed over all dimensions of an item, in the units of its authors, it is what the paper's Table 1 reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.config import LikelihoodConfig

LOG_2PI = math.log(2 * math.pi)


class Moments(NamedTuple):
    """Mean and variance of x given z, each (B, *input_shape), standardised units."""

    mean: Tensor
    variance: Tensor


class Likelihood(Protocol):
    """A family of distributions over x, factorised over its dimensions."""

    @property
    def num_parameters(self) -> int:
        """Outputs of the generative model per dimension of x."""

    def moments(self, parameters: Tensor) -> Moments:
        """Mean and variance, each (B, *input_shape)."""

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log p of each dimension of x, (B, *input_shape)."""


def _gaussian_log_prob(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * (LOG_2PI + log_variance + (x - mean).square() * torch.exp(-log_variance))


@dataclass(frozen=True)
class Bernoulli:
    """Black or white pixels; parameters are logits (B, *input_shape)."""

    num_parameters: int = 1

    def moments(self, parameters: Tensor) -> Moments:
        """Mean p and variance p(1 − p)."""
        mean = torch.sigmoid(parameters.float())
        return Moments(mean, mean * (1 - mean))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """x is 0 or 1."""
        return -F.binary_cross_entropy_with_logits(parameters.float(), x, reduction="none")


@dataclass(frozen=True)
class Gaussian:
    """Learned mean and log-variance, the latter clipped; parameters are (..., 2·channels), means first."""

    min_variance: float
    max_variance: float
    num_parameters: int = 2

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = parameters.float().chunk(2, dim=-1)
        return mean, log_variance.clamp(math.log(self.min_variance), math.log(self.max_variance))

    def moments(self, parameters: Tensor) -> Moments:
        """Mean and clipped variance."""
        mean, log_variance = self._split(parameters)
        return Moments(mean, log_variance.exp())

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Density of x under the learned mean and variance."""
        return _gaussian_log_prob(x, *self._split(parameters))


@dataclass(frozen=True)
class ConstantGaussian:
    """Learned mean, one variance for everything; parameters are the means (B, *input_shape)."""

    variance: float
    num_parameters: int = 1

    def moments(self, parameters: Tensor) -> Moments:
        """Mean and the constant variance."""
        mean = parameters.float()
        return Moments(mean, torch.full_like(mean, self.variance))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Density of x under the learned mean and the constant variance."""
        mean = parameters.float()
        return _gaussian_log_prob(x, mean, torch.full_like(mean, math.log(self.variance)))


def build_likelihood(config: LikelihoodConfig) -> Likelihood:
    if config.kind == "bernoulli":
        return Bernoulli()
    if config.kind == "gaussian":
        return Gaussian(config.min_variance, config.max_variance)
    return ConstantGaussian(config.variance)
