"""The Gaussian VAE (Kingma & Welling, 2013) of equal capacity: bits / 32 float32 numbers in place of the codes.

It shows what the discrete bottleneck costs. It has no codes, so evaluation takes its reconstructions and export refuses
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.parallel import ParallelEncoder
from train.methods.base import Batch, Losses, Method, Reconstruction, beta_schedule, require_kind

BITS_PER_NUMBER = 32


class Posterior(NamedTuple):
    """Mean and log-variance of q(z|x), each (B, D)."""

    mean: Tensor
    log_variance: Tensor

    def divergence(self) -> Tensor:
        """KL(q ‖ N(0, 1)) in nats, (B,)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)


@dataclass(frozen=True)
class GaussianVAESettings:
    """β decays exponentially."""

    beta_initial: float = 1.0
    beta_final: float = 0.01

    def __post_init__(self) -> None:
        if min(self.beta_initial, self.beta_final) <= 0:
            raise ConfigError("gaussian_vae needs positive betas")


class GaussianVAE(Method):
    """−log p(x|z) + β·KL(q ‖ N(0, 1)), reparameterised; no approximation is needed."""

    settings_type = GaussianVAESettings
    settings: GaussianVAESettings
    can_be_averaged = False

    def __init__(self, model: Autoencoder, settings: GaussianVAESettings) -> None:
        super().__init__(model, settings)
        require_kind(model, "gaussian_vae", "gaussian")
        config = model.config
        model.generative.embedding.requires_grad_(False)  # there are no codes to embed
        self.latent_size = max(1, round(config.bits_per_item / BITS_PER_NUMBER))
        self.posterior = nn.Linear(config.num_tokens * config.recognition.hidden_size, 2 * self.latent_size)
        self.embed = nn.Linear(self.latent_size, config.num_tokens * config.generative.embedding_size)

    def extra_parameters(self) -> list[dict[str, Any]]:
        """The layers before and behind the latent."""
        return [{"params": [*self.posterior.parameters(), *self.embed.parameters()]}]

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """The negative β-ELBO, one sample per item."""
        beta = beta_schedule(self.settings.beta_initial, self.settings.beta_final, progress)
        x = self.model.standardise(batch.inputs)
        posterior = self._posterior(x)
        noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
        log_p = self.model.likelihood.log_prob(self._decode(posterior, noise), x).flatten(1).sum(1).mean()
        divergence = posterior.divergence().mean()
        metrics = {"log_p": log_p.detach(), "elbo": (log_p - divergence).detach(), "beta": torch.tensor(beta)}
        return Losses(beta * divergence - log_p, metrics)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, uniform: Tensor, temperature: float) -> Reconstruction:
        """The first D uniforms become normal numbers; temperature scales them, so 0 decodes the mean."""
        posterior = self._posterior(x)
        inside = uniform[:, : self.latent_size].clamp(1e-6, 1 - 1e-6)
        noise = math.sqrt(2) * torch.erfinv(2 * inside - 1) * temperature
        return Reconstruction(self._decode(posterior, noise), posterior.divergence(), None)

    def _posterior(self, x: Tensor) -> Posterior:
        encoder = self.model.recognition
        assert isinstance(encoder, ParallelEncoder)  # checked in __init__
        return Posterior(*self.posterior(encoder.hidden(x).flatten(1)).float().chunk(2, dim=1))

    def _decode(self, posterior: Posterior, noise: Tensor) -> Tensor:
        z = posterior.mean + noise * (0.5 * posterior.log_variance).exp()
        return self.model.generative.decode_embedded(self.embed(z).unflatten(1, (self.model.config.num_tokens, -1)))
