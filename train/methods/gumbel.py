"""Gumbel-Softmax with straight-through gradients (Jang et al., 2016; paper, section 2).

z = one-hot(argmax(ℓ + g)) going forward, softmax((ℓ + g)/τ) going backward. Autoregressive models are fed what they
drew as one-hot vectors, so gradients flow back through the whole sequence; factorised ones draw all codes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.transformer import Memory
from train.methods.base import (
    Batch,
    BatchNorm,
    Losses,
    Method,
    beta_schedule,
    check_batch_norm,
    entropy_of,
    require_kind,
)


def replace_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value`` going forward, ``surrogate`` going backward."""
    return value + (surrogate - surrogate.detach())


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise of a tensor's shape."""
    return -torch.empty_like(like).exponential_(generator=generator).clamp_min(1e-20).log()


def straight_through(logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    """Draw one-hot vectors (..., V) from logits (..., V), with the gradient of their relaxation."""
    perturbed = logits + gumbel_noise(logits, generator)
    drawn = F.one_hot(perturbed.argmax(-1), logits.shape[-1]).to(logits.dtype)
    return replace_gradient(drawn, (perturbed / temperature).softmax(-1))


class Relaxed(NamedTuple):
    """One-hot codes (B, N, V) with a gradient, and the logits (B, N, V) that they were drawn from."""

    codes: Tensor
    logits: Tensor


@dataclass(frozen=True)
class GumbelSettings:
    """τ and β decay exponentially; ``start_sharpness`` multiplies the logits once, when a run begins.

    ``batch_norm`` as DAPS's.
    """

    temperature_initial: float = 1.0
    temperature_final: float = 1.0
    beta_initial: float = 6.0
    beta_final: float = 0.01
    start_sharpness: float = 1.0
    batch_norm: BatchNorm = "batch"

    def __post_init__(self) -> None:
        positive = (self.temperature_initial, self.temperature_final, self.beta_initial, self.beta_final)
        if min(*positive, self.start_sharpness) <= 0:
            raise ConfigError("temperatures, betas and start_sharpness must be positive")
        check_batch_norm(self.batch_norm)


class GumbelSoftmax(Method):
    """−log p(x|z) + β·KL(q ‖ uniform), differentiated through a relaxation of z."""

    settings_type = GumbelSettings
    settings: GumbelSettings

    def __init__(self, model: Autoencoder, settings: GumbelSettings) -> None:
        super().__init__(model, settings)
        require_kind(model, "a relaxation", "autoregressive", "independent")

    def draw(self, logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """One-hot codes with a gradient, (..., V) from logits (..., V)."""
        return straight_through(logits, generator, temperature)

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """The negative β-ELBO, one sample per item; the divergence is exact at each position given the codes before."""
        settings, model = self.settings, self.model
        beta = beta_schedule(settings.beta_initial, settings.beta_final, progress)
        temperature = beta_schedule(settings.temperature_initial, settings.temperature_final, progress)
        x = model.standardise(batch.inputs)
        relaxed = self._encode(x, generator, temperature)
        parameters = model.generative.decode_embedded(relaxed.codes @ model.generative.embedding.weight)
        log_p = model.likelihood.log_prob(parameters, x).flatten(1).sum(1).mean()
        entropy = entropy_of(relaxed.logits).sum(1).mean()
        divergence = model.config.num_tokens * math.log(model.config.vocab_size) - entropy
        metrics = {
            "log_p": log_p.detach(),
            "elbo": (log_p - divergence).detach(),
            "entropy": entropy.detach(),
            "beta": torch.tensor(beta),
            "temperature": torch.tensor(temperature),
            "codes_in_batch": torch.tensor(float(relaxed.codes.detach().argmax(-1).unique().numel())),
        }
        return Losses(beta * divergence - log_p, metrics)

    def _encode(self, x: Tensor, generator: torch.Generator, temperature: float) -> Relaxed:
        recognition = self.model.recognition
        context = recognition.context(x)
        if isinstance(recognition, RecognitionModel):
            return self._encode_in_turn(recognition, context, generator, temperature)
        logits = context.float()
        return Relaxed(self.draw(logits, generator, temperature), logits)

    def _encode_in_turn(
        self, recognition: RecognitionModel, context: list[Memory], generator: torch.Generator, temperature: float
    ) -> Relaxed:
        windows, table = recognition.windows, recognition.code_embedding.weight
        previous = table[0].expand(context[0].keys.shape[0], -1)  # every sequence begins after code 0
        earlier: list[Memory | None] = [None] * len(context)
        codes, all_logits = [], []
        for position in range(windows.num_codes):
            logits, earlier = recognition.grow(context, previous, position, earlier)
            drawn = self.draw(logits.float(), generator, temperature)
            previous = drawn @ table
            codes.append(drawn)
            all_logits.append(logits.float())
        num_items = len(previous) // windows.per_item
        return Relaxed(*(windows.join(torch.stack(rows, 1), num_items) for rows in (codes, all_logits)))
