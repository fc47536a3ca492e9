"""Training with search: p(x|z) learns from searched codes, and q(z|x) learns to find them itself.

Every item's greedy codes z⁰ are improved by local search with the generative model in the loop, to z*. Then

(a) L(φ) = −log p_φ(x|z*), or of z⁰ for a share of the batch, so that p does not come to expect searched codes alone;
(b) L(θ) = −Σ_t [ w_t log q_θ(z*_t | z*_<t, x) + (1 − w_t) log q_θ(z⁰_t | z*_<t, x) ] − α Σ_t H(q_θ(· | z*_<t, x)).

w_t is the weight of z* against z⁰ after the objective R_t of the codes around t: softmax(R_t / τ) over the two, as DAPS
weights its samples, with credit to single codes. Where both agree, w_t does not matter. Nothing is differentiated
through the search, so (a) moves the generative model alone and (b) the recognition model alone. This is hard
expectation maximisation with q as a learned first guess; the latent refinement of learned image compression (Yang et
al., 2020) improves the codes of an image in the same spirit, but teaches no one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sweep import Swept
from train.code_search import CodeSearch, greedy_in_passes
from train.methods.base import Batch, Losses, Method, entropy_of, require_kind, sum_neighbourhood


@dataclass(frozen=True)
class SearchSettings:
    """Settings of training with search; the run starts from a trained model.

    ``search``: how codes are searched in a step. ``greedy_share``: the share of the batch whose greedy codes train the
    generative model. ``temperature``: τ, in units of the search's objective. ``entropy_weight``: α, which keeps q from
    collapsing onto fewer codes. ``start_sharpness`` multiplies the logits once, before the first step. BatchNorm always
    keeps its running statistics.
    """

    search: CodeSearch = field(default_factory=CodeSearch)
    greedy_share: float = 0.3
    temperature: float = 1.0
    entropy_weight: float = 0.01
    start_sharpness: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.greedy_share <= 1:
            raise ConfigError(f"greedy_share must be between 0 and 1, not {self.greedy_share}")
        if self.temperature <= 0 or self.start_sharpness <= 0 or self.entropy_weight < 0:
            raise ConfigError("search needs a positive temperature and start_sharpness, and no negative entropy_weight")


class SearchTraining(Method):
    """Maximum likelihood of both models on codes that local search has improved."""

    settings_type = SearchSettings
    settings: SearchSettings
    draws_for_all = True

    def __init__(self, model: Autoencoder, settings: SearchSettings) -> None:
        super().__init__(model, settings)
        require_kind(model, "search", "autoregressive", "independent")

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """L(θ) + L(φ): the two models share no parameters, so one backward pass serves both."""
        model, settings = self.model, self.settings
        model.generative.eval()
        x = model.standardise(batch.inputs)
        context = model.recognition.context(x)
        with torch.no_grad():
            greedy, logits = greedy_in_passes(model.recognition, context, len(x))
        found = settings.search.run(model, x, greedy, logits, generator)
        num_greedy = round(settings.greedy_share * len(x))
        codes = torch.cat([greedy[:num_greedy], found.codes[num_greedy:]])
        log_p = model.log_likelihood(x, codes).mean()
        logits = model.recognition.logits(context, found.codes).float()
        loss, entropy = self._recognition_loss(logits, found, greedy)
        return Losses(loss - log_p, _describe(found, greedy) | {"log_p": log_p.detach(), "entropy": entropy})

    def _recognition_loss(self, logits: Tensor, found: Swept, greedy: Tensor) -> tuple[Tensor, Tensor]:
        """L(θ), and the mean entropy per item in nats, from logits (B, N, V) teacher-forced on what was found."""
        log_q = logits.log_softmax(-1)
        of_found, of_greedy = (log_q.gather(-1, codes[..., None])[..., 0] for codes in (found.codes, greedy))
        weights = self._weights(found).to(log_q.dtype)
        entropy = entropy_of(logits).sum(1)
        loss = -(weights * of_found + (1 - weights) * of_greedy).sum(1) - self.settings.entropy_weight * entropy
        return loss.mean(), entropy.detach().mean()

    def _weights(self, found: Swept) -> Tensor:
        """w_t of Eq. (b): (B, N), in [0, 1]."""
        gain = found.values - found.values_before
        grid = self.model.config.token_grid
        around = sum_neighbourhood(gain, grid) if grid else gain.sum(1, keepdim=True).expand_as(gain)
        return torch.sigmoid(around / self.settings.temperature)


def _describe(found: Swept, greedy: Tensor) -> dict[str, Tensor]:
    """What the search gained per item, the share of codes it changed, and how many codes the batch uses."""
    return {
        "search_gain": (found.values - found.values_before).sum(1).mean(),
        "changed": (found.codes != greedy).float().mean(),
        "codes_in_batch": torch.tensor(float(found.codes.unique().numel())),
    }
