"""GR-MCK, the Rao-Blackwellised straight-through Gumbel-Softmax (Paulus et al., 2020).

The codes are drawn as ever; the gradient of the relaxation is averaged over noise that would have drawn the same
codes. That leaves its mean as it is and lowers its variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.errors import ConfigError
from train.methods.gumbel import GumbelSettings, GumbelSoftmax, gumbel_noise, replace_gradient


def conditional_perturbations(logits: Tensor, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """ℓ + g, (count, ..., V), for Gumbel noise g given that argmax(ℓ + g) are these codes, without a gradient.

    With normalised ℓ and E exponential: −log E_i for the code i that was drawn, −log(E_j / exp ℓ_j + E_i) for the
    others (Paulus et al., 2020, Eq. 11).

    Args:
        logits: (..., V), not necessarily normalised.
        codes: (...) integers.
        count: of noises.
        generator: of the noises.
    """
    with torch.no_grad():
        log_q = logits.log_softmax(-1)
        log_exponential = torch.empty(count, *logits.shape, dtype=logits.dtype, device=logits.device)
        log_exponential = log_exponential.exponential_(generator=generator).clamp_min_(1e-20).log_()
        index = codes[None, ..., None].expand(count, *codes.shape, 1)
        largest = log_exponential.gather(-1, index)
        others = torch.logaddexp(log_exponential - log_q, largest).neg_()
        return others.scatter_(-1, index, -largest)


def rao_straight_through(logits: Tensor, generator: torch.Generator, temperature: float, count: int) -> Tensor:
    """Draw one-hot vectors (..., V) from logits (..., V), with the mean gradient of ``count`` relaxations of each."""
    codes = (logits + gumbel_noise(logits, generator)).argmax(-1)
    perturbed = conditional_perturbations(logits, codes, count, generator)
    surrogate = ((logits + (perturbed - logits).detach()) / temperature).softmax(-1).mean(0)
    return replace_gradient(F.one_hot(codes, logits.shape[-1]).to(logits.dtype), surrogate)


@dataclass(frozen=True)
class GRMCKSettings(GumbelSettings):
    """As of Gumbel-Softmax, with the number of relaxations that the gradient is averaged over."""

    temperature_final: float = 0.75
    inner_samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_samples < 1:
            raise ConfigError(f"inner_samples must be at least 1, not {self.inner_samples}")


class GRMCK(GumbelSoftmax):
    """Gumbel-Softmax with another gradient."""

    settings_type = GRMCKSettings
    settings: GRMCKSettings

    def draw(self, logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """One-hot codes with a gradient, (..., V) from logits (..., V)."""
        return rao_straight_through(logits, generator, temperature, self.settings.inner_samples)
