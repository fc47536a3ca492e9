"""What a training method is: a loss for a batch, and how to encode with what it trains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import SampledCodes, sample_codes
from daps_tokenizer.model.sweep import Evaluate
from train.items import Items

BatchNorm = Literal["batch", "frozen"]


class Batch(NamedTuple):
    """A step's uint8 images or float32 features (B, *input_shape), and labels (B,) int64 where there are any."""

    inputs: Tensor
    labels: Tensor | None = None


class Losses(NamedTuple):
    """The scalar to descend, and numbers to record (scalars, detached)."""

    total: Tensor
    metrics: dict[str, Tensor]


class Reconstruction(NamedTuple):
    """Reconstructions of B items, and what they cost.

    ``parameters`` of p(x|z), as the generative model gives them; ``kl`` (B,), nats: log q(z|x) − log p(z) of the z that
    was drawn, whose mean is the divergence from the prior, or the divergence itself where it has a closed form;
    ``codes`` (B, N), None where the latent is continuous.
    """

    parameters: Tensor
    kl: Tensor
    codes: Tensor | None


class TrainedModel(nn.Module):
    """A model and how it encodes: all that evaluation needs of a method, and of a checkpoint without its method."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def encode(self, x: Tensor, uniform: Tensor, temperature: float) -> SampledCodes:
        """Codes of standardised x (B, *input_shape), as the trained tokenizer will draw them; for evaluation."""
        recognition = self.model.recognition
        return sample_codes(recognition, recognition.context(x), uniform, temperature)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, uniform: Tensor, temperature: float) -> Reconstruction:
        """Encode and decode standardised x (B, *input_shape); ``uniform`` is (B, N), temperature 0 greedy."""
        codes, log_probs = self.encode(x, uniform, temperature)
        prior = -self.model.config.num_tokens * math.log(self.model.config.vocab_size)
        return Reconstruction(self.model.generative(codes), log_probs.sum(1) - prior, codes)


class Learner(nn.Module, ABC):
    """What the loop trains: a model together with a loss. One instance per run; its buffers are in the checkpoint."""

    model: Any  # a module whose ``config`` has a name and can be written as JSON
    # Whether all processes have the same generator, and each takes its share of what is drawn for the whole batch, so
    # that an item's draws do not depend on their number. Otherwise each process has a generator of its own.
    draws_for_all: ClassVar[bool] = False
    # Whether all that it trains and serves is in the model, whose weights alone are averaged.
    can_be_averaged: ClassVar[bool] = True

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The parts of the model whose gradients are clipped apart."""
        return (self.model,)

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """The loss of one batch.

        Args:
            batch: items, and their labels where the dataset has them.
            generator: the only source of randomness, on the inputs' device.
            progress: share of the run that is done, in [0, 1]: schedules depend on it alone.
        """

    def extra_parameters(self) -> list[dict[str, Any]]:
        """AdamW parameter groups beyond the model's own; a group without ``lr`` has the run's learning rate."""
        return []

    def prepare(self, items: Items, seed: int) -> None:
        """Called once when a run begins, before :meth:`start`, with the training items; not when it resumes."""

    def start(self) -> None:
        """Called once when a run begins, after the weights it starts from are loaded; not when it resumes."""

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Called after each update of the weights, on every process with the same buffers and the same generator."""

    def before_checkpoint(self) -> None:
        """Called before weights are written."""


class Method(TrainedModel, Learner):
    """A tokenizer together with the loss that trains it."""

    settings_type: ClassVar[type[Any]]
    model: Autoencoder

    def __init__(self, model: Autoencoder, settings: Any) -> None:
        super().__init__(model)
        self.settings = settings

    @property
    def parts(self) -> Sequence[nn.Module]:
        """Apart, because the gradient of log p grows with the size of the input and would drown that of log q."""
        return self.model.recognition, self.model.generative

    @torch.no_grad()
    def start(self) -> None:
        """Multiply the logits by ``start_sharpness``, which lowers the entropy of q: sharp codes depend on x from the
        first step.

        Raises:
            ConfigError: the logits are made by code books, which have a sharpness of their own.
        """
        sharpness = getattr(self.settings, "start_sharpness", 1.0)
        if sharpness != 1.0:
            if self.model.config.transform is not None:
                raise ConfigError("start_sharpness: a model with a transform has the sharpness that its codec chose")
            for parameter in self.model.recognition.head.parameters():
                parameter.mul_(sharpness)

    def train(self, mode: bool = True) -> Method:
        """Training mode; the generative model keeps its running statistics where ``batch_norm`` is ``frozen``."""
        super().train(mode)
        if getattr(self.settings, "batch_norm", "batch") == "frozen":
            self.model.generative.eval()
        return self


def check_batch_norm(batch_norm: str) -> None:
    """Refuse what is not one of :data:`BatchNorm`.

    Raises:
        ConfigError: naming both.
    """
    if batch_norm not in get_args(BatchNorm):
        raise ConfigError(f"batch_norm is batch or frozen, not {batch_norm!r}")


def require_kind(model: Autoencoder, method: str, *kinds: str) -> None:
    """Refuse a recognition model that a method cannot train.

    Raises:
        ConfigError: naming the kinds that it can.
    """
    kind = model.config.recognition.kind
    if kind not in kinds:
        raise ConfigError(f"{method} trains a recognition model of kind {' or '.join(kinds)}, not {kind}")


def beta_schedule(initial: float, final: float, progress: float) -> float:
    """Exponential decay from initial to final as progress goes from 0 to 1."""
    return initial * (final / initial) ** progress


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in nats, (...), of logits (..., V)."""
    # Codes less probable than e^-80 add nothing, and their exp, below the normal floats, is 15 times as slow on a CPU.
    log_q = logits.log_softmax(-1).clamp_min(-80.0)
    return -(log_q.exp() * log_q).sum(-1)


def reward_of(model: Autoencoder, x: Tensor, parameters: Tensor, log_p: Tensor, squared_error_weight: float) -> Tensor:
    """R of each dimension, (B, *input_shape): log p(x|z) − ``squared_error_weight`` · (x − mean)².

    log p counts errors by 1/(2 · variance), so little where the model is unsure; the weight counts them alike
    everywhere. x and its mean are in standardised units.
    """
    if not squared_error_weight:
        return log_p
    return log_p - squared_error_weight * (x - model.likelihood.moments(parameters).mean).square()


def reward_of_codes(model: Autoencoder, x: Tensor, squared_error_weight: float) -> Evaluate:
    """R of :func:`reward_of`, summed over each code's own cell of the input: (B, N) float64 of codes (B, N)."""

    def evaluate(codes: Tensor) -> Tensor:
        parameters = model.generative(codes)
        log_p = model.likelihood.log_prob(parameters, x)
        return model.sum_cells(reward_of(model, x, parameters, log_p, squared_error_weight)).double()

    return evaluate


def check_squared_error_weight(weight: float) -> None:
    """Refuse a weight of squared errors that is negative or not finite.

    Raises:
        ConfigError: naming it.
    """
    if not 0 <= weight < math.inf:
        raise ConfigError(f"squared_error_weight must be finite and at least 0, not {weight}")


def expand_samples(x: Tensor, num_samples: int) -> Tensor:
    """Repeat each item so that its K samples are next to each other: (B, ...) -> (B·K, ...)."""
    return x.repeat_interleave(num_samples, dim=0)


def sum_neighbourhood(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sum each code's value with those of the 3 × 3 codes around it on the grid: (B, N) -> (B, N)."""
    maps = values.unflatten(1, grid)[:, None]
    # Not a convolution with ones: autocast would run that in bfloat16, and be nats away from the sum.
    return F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1).flatten(1)
