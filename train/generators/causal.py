"""An autoregressive transformer over codes, by maximum likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from daps_tokenizer.model.conditions import Conditions
from train.generators.base import GeneratorMethod


class Causal(GeneratorMethod):
    """Trains :class:`CausalTransformer`."""

    def nats(
        self, codes: Tensor, labels: Tensor, generator: torch.Generator, conditions: Conditions | None = None
    ) -> Tensor:
        """−log p(z_t | z_<t, label, conditions)."""
        nats: Tensor = -self.model.log_prob(codes, labels, conditions)
        return nats

    def also_measured(self, nats_per_code: float) -> dict[str, float]:
        """Bits of an item: what an ideal entropy coder needs that is driven by the generator and knows the label."""
        return {"bits_per_item": self.model.config.num_tokens * nats_per_code / math.log(2)}
