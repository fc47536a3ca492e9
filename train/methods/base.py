"""What a training method is: a loss for a batch, and how to encode with what it trains."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import Sampled, sample_codes


class Batch(NamedTuple):
    """A step's uint8 images or float32 features (B, *input_shape), and labels (B,) int64 where there are any."""

    inputs: Tensor
    labels: Tensor | None = None


class Losses(NamedTuple):
    """The scalar to descend, and numbers to record (scalars, detached)."""

    total: Tensor
    metrics: dict[str, Tensor]


class Method(nn.Module):
    """A model together with the loss that trains it. One instance per run; its buffers are part of the checkpoint."""

    settings_type: ClassVar[type[Any]]

    def __init__(self, model: Autoencoder, settings: Any = None) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """The loss of one batch.

        Args:
            batch: items, and their labels where the dataset has them.
            generator: the only source of randomness, on the inputs' device.
            progress: share of the run that is done, in [0, 1]: schedules depend on it alone.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def extra_parameters(self) -> list[dict[str, Any]]:
        """AdamW parameter groups beyond the model's own, each with its learning rate."""
        return []

    def start(self) -> None:
        """Called once when a run begins, after the weights it starts from are loaded; not when it resumes."""

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Called after each update of the weights, on every process with the same buffers and the same generator."""

    def before_checkpoint(self) -> None:
        """Called before weights are written."""

    @torch.no_grad()
    def encode(self, x: Tensor, uniform: Tensor, temperature: float) -> Sampled:
        """Codes of standardised x (B, *input_shape), as the trained tokenizer will draw them; for evaluation."""
        recognition = self.model.recognition
        return sample_codes(recognition, recognition.context(x), uniform, temperature)


def expand_samples(x: Tensor, num_samples: int) -> Tensor:
    """Repeat each item so that its K samples are next to each other: (B, ...) -> (B·K, ...)."""
    return x.repeat_interleave(num_samples, dim=0)
