"""FSQ, finite scalar quantisation (Mentzer et al., 2023): a few bounded numbers per code, rounded straight through.

There is no code table to learn: a dense layer maps the rounded numbers to what the generative model expects. A
checkpoint holds its value for every code as the generative model's table, so that decoding is the same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.parallel import LevelQuantiser
from train.methods.base import Batch, BatchNorm, Losses, Method, check_batch_norm, require_kind


@dataclass(frozen=True)
class FSQSettings:
    """``batch_norm`` as DAPS's; the levels belong to the model's config (``recognition.levels``)."""

    batch_norm: BatchNorm = "batch"

    def __post_init__(self) -> None:
        check_batch_norm(self.batch_norm)


class FSQ(Method):
    """−log p(x|z) alone; rounding passes gradients straight through."""

    settings_type = FSQSettings
    settings: FSQSettings
    can_be_averaged = False

    def __init__(self, model: Autoencoder, settings: FSQSettings) -> None:
        super().__init__(model, settings)
        require_kind(model, "fsq", "levels")
        model.generative.embedding.requires_grad_(False)  # written before each checkpoint
        levels = model.config.recognition.levels
        self.embed = nn.Linear(len(levels), model.config.generative.embedding_size)

    @property
    def quantiser(self) -> LevelQuantiser:
        recognition = self.model.recognition
        assert isinstance(recognition, LevelQuantiser)  # checked in __init__
        return recognition

    @torch.no_grad()
    def start(self) -> None:
        """Continue with the dense layer that made the model's table, if one did: then it is affine in the numbers."""
        table = self.model.generative.embedding.weight
        numbers = self._numbers()
        known = torch.cat([numbers, torch.ones_like(numbers[:, :1])], dim=1)
        layer = torch.linalg.lstsq(known, table).solution
        if (known @ layer - table).abs().mean() < 0.01 * table.abs().mean():
            self.embed.weight.copy_(layer[:-1].T)
            self.embed.bias.copy_(layer[-1])

    def extra_parameters(self) -> list[dict[str, Any]]:
        """The dense layer in place of the code table."""
        return [{"params": list(self.embed.parameters())}]

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """Mean over the batch of −log p(x|z) in nats."""
        x = self.model.standardise(batch.inputs)
        numbers = self.quantiser.context(x).float()
        rounded = numbers + (numbers.round() - numbers).detach()
        parameters = self.model.generative.decode_embedded(self.embed(self.quantiser.scale(rounded)))
        log_p = self.model.likelihood.log_prob(parameters, x).flatten(1).sum(1).mean()
        codes = self.quantiser.quantise(numbers)
        return Losses(-log_p, {"log_p": log_p.detach(), "codes_in_batch": torch.tensor(float(codes.unique().numel()))})

    @torch.no_grad()
    def before_checkpoint(self) -> None:
        self.model.generative.embedding.weight.copy_(self.table())

    def table(self) -> Tensor:
        """What each code is decoded from, (V, H)."""
        return self.embed(self._numbers())

    def _numbers(self) -> Tensor:
        """The rounded numbers of each code, (V, levels)."""
        return self.quantiser.numbers_of(torch.arange(self.model.config.vocab_size, device=self.embed.weight.device))
