"""VQ-VAE (van den Oord et al., 2017; paper, Eq. 2), with an encoder of its own or through the recognition network.

A recognition model of kind nearest is the paper's: self-attention, then the nearest vector of the generative model's
own code table C. For a warm start of DAPS it is trained through the autoregressive network instead: its decoder blocks
see positions only, so they form a parallel encoder; its last hidden states are quantised to C. With codes =
argmin ‖h − C‖², a head of weight 2αC and bias −α‖C‖² has the same codes as its most probable ones, and a code embedding
of zero makes the autoregressive model ignore what it has drawn. So the checkpoint of such a VQ-VAE *is* an
autoregressive recognition model with the same greedy codes: DAPS starts from it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import SampledCodes
from train.methods.base import (
    Batch,
    BatchNorm,
    Losses,
    Method,
    check_batch_norm,
    check_squared_error_weight,
    require_kind,
    reward_of,
)
from train.processes import place, sum_of_all

NEXT_CODES = 7  # the gap that sets α is the mean distance from the nearest code to the next 7, or all where V < 8


@dataclass(frozen=True)
class VQVAESettings:
    """Settings of the quantiser and of the head that is made of it.

    ``commitment``: weight of the commitment loss. ``revive_every``: steps between revivals of codes that are used less
    than ``revive_below`` times their even share, 0 for never; revivals end at ``revive_until`` of the run.
    ``logit_gap``: the mean gap in nats between a code and the next 7 that the autoregressive head is scaled to.
    ``batch_norm`` and ``squared_error_weight`` as DAPS's.
    """

    commitment: float = 0.25
    revive_every: int = 50
    revive_below: float = 0.03
    revive_until: float = 0.7
    logit_gap: float = 2.0
    batch_norm: BatchNorm = "batch"
    squared_error_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.commitment < 0 or self.revive_every < 0 or self.logit_gap <= 0:
            raise ConfigError("vqvae needs commitment and revive_every of at least 0 and a positive logit_gap")
        check_batch_norm(self.batch_norm)
        check_squared_error_weight(self.squared_error_weight)


class VQVAE(Method):
    """Straight-through quantisation; the codebook follows by its own loss and unused codes are revived."""

    settings_type = VQVAESettings
    settings: VQVAESettings
    draws_for_all = True
    usage: Tensor
    recent: Tensor
    num_recent: Tensor
    distance_gap: Tensor

    def __init__(self, model: Autoencoder, settings: VQVAESettings) -> None:
        super().__init__(model, settings)
        table = model.generative.embedding.weight
        if table.shape[1] != model.recognition.positions.shape[1]:
            raise ConfigError("vqvae needs the generative model's embedding_size to equal recognition.hidden_size")
        require_kind(model, "vqvae", "nearest", "autoregressive")
        # Neither is used by a parallel encoder; weight decay or gradients must not move them.
        if isinstance(model.recognition, RecognitionModel):
            model.recognition.code_embedding.requires_grad_(False)
        model.recognition.head.requires_grad_(False)
        self.register_buffer("usage", torch.zeros(table.shape[0]))
        self.register_buffer("recent", torch.zeros(1024, table.shape[1]))
        self.register_buffer("num_recent", torch.tensor(0))
        self.register_buffer("distance_gap", torch.tensor(1.0))

    @torch.no_grad()
    def start(self) -> None:
        """With a code embedding of zero an autoregressive model ignores what it has drawn."""
        if isinstance(self.model.recognition, RecognitionModel):
            self.model.recognition.code_embedding.weight.zero_()

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """−R per dimension + ‖sg(h) − C‖² + commitment · ‖h − sg(C)‖², means over all elements.

        R is log p(x|z), less squared errors where they have a weight.
        """
        x = self.model.standardise(batch.inputs)
        h = self._hidden(x)
        codes = self._quantise(h)
        quantised = F.embedding(codes, self.model.generative.embedding.weight)
        parameters = self.model.generative.decode_embedded(h + (quantised - h).detach())
        log_p = self.model.likelihood.log_prob(parameters, x)
        reward = reward_of(self.model, x, parameters, log_p, self.settings.squared_error_weight)
        codebook = (quantised - h.detach()).square().mean()
        commitment = (quantised.detach() - h).square().mean()
        if self.training:
            self._observe(h.detach(), codes, progress, generator)
        metrics = {
            "log_p": log_p.flatten(1).sum(1).mean().detach(),
            "codebook_loss": codebook.detach(),
            "codes_in_batch": torch.tensor(float(codes.unique().numel())),
        }
        return Losses(-reward.mean() + codebook + self.settings.commitment * commitment, metrics)

    def _hidden(self, x: Tensor) -> Tensor:
        recognition = self.model.recognition
        context = recognition.context(x)
        if isinstance(recognition, RecognitionModel):
            return recognition.hidden_without_codes(context).float()
        return context.float()

    @torch.no_grad()
    def _distances(self, h: Tensor) -> Tensor:
        """‖h − C‖² − ‖h‖² to every code, (B, N, V), in float32 also under autocast."""
        table = self.model.generative.embedding.weight
        with torch.autocast(h.device.type, enabled=False):
            return table.square().sum(1) - 2 * h @ table.T

    def _quantise(self, h: Tensor) -> Tensor:
        return self._distances(h).argmin(-1)

    @torch.no_grad()
    def _observe(self, h: Tensor, codes: Tensor, progress: float, generator: torch.Generator) -> None:
        """Keep what revival and the autoregressive head need to know of recent batches, those of all processes."""
        flat = h.flatten(0, 1)
        # A batch that is not finite is skipped by the loop, and must not stay in here either.
        if progress < self.settings.revive_until:
            counts = torch.bincount(codes.flatten(), minlength=self.usage.shape[0])
            self.usage += sum_of_all(counts * flat.isfinite().all())
            number, processes = place()
            total = flat.shape[0] * processes
            count = min(total, self.recent.shape[0])
            chosen = torch.randint(total, (count,), generator=generator, device=flat.device)
            item, position = chosen // h.shape[1], chosen % h.shape[1]
            mine = (item % processes == number)[:, None]
            rows = sum_of_all(torch.where(mine, h[item // processes, position], 0.0))
            newest = torch.cat([rows, self.recent])[: self.recent.shape[0]]
            is_finite = rows.isfinite().all()
            self.recent.copy_(torch.where(is_finite, newest, self.recent))
            self.num_recent.copy_((self.num_recent + count * is_finite).clamp_max(len(self.recent)))
        else:
            self.usage.fill_(1.0)  # too late to revive: count every code as used
        next_codes = min(NEXT_CODES, self.usage.shape[0] - 1)
        nearest = self._distances(flat[:512]).topk(next_codes + 1, largest=False).values
        gap = (nearest[..., 1:].mean(-1) - nearest[..., 0]).mean()
        followed = self.distance_gap.lerp(gap, 0.01 if progress > 0 else 1.0)
        self.distance_gap.copy_(torch.where(gap.isfinite(), followed, self.distance_gap))

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Move codes that almost nothing chose since the last revival to recent hidden states."""
        if not self.settings.revive_every or (step + 1) % self.settings.revive_every:
            return
        dead = (self.usage < self.settings.revive_below * self.usage.mean()).nonzero()[:, 0]
        order = torch.randperm(int(self.num_recent), generator=generator, device=generator.device)
        chosen = order[: dead.shape[0]].to(self.recent.device)
        self.model.generative.embedding.weight[dead[: chosen.shape[0]]] = self.recent[chosen]
        self.usage.zero_()

    @torch.no_grad()
    def before_checkpoint(self) -> None:
        """Write the head that has this quantiser's codes as its largest outputs, or as its most probable ones."""
        table, head = self.model.generative.embedding.weight, self.model.recognition.head
        has_probabilities = self.model.config.recognition.has_probabilities
        alpha = self.settings.logit_gap / self.distance_gap if has_probabilities else 1.0
        head.weight.copy_(2 * alpha * table)
        head.bias.copy_(-alpha * table.square().sum(1))

    @torch.no_grad()
    def encode(self, x: Tensor, uniform: Tensor, temperature: float) -> SampledCodes:
        """The quantiser's codes: one parallel pass, nothing drawn, so probability 1 each."""
        codes = self._quantise(self._hidden(x))
        return SampledCodes(codes, torch.zeros_like(codes, dtype=torch.float32))
