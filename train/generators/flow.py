"""Discrete flow matching (Gat et al., 2024) with the uniform source, as the paper generates (Figure 13).

At time t each code is the data's with probability t, else uniform; the network predicts the data from that, by maximum
likelihood. :func:`daps_tokenizer.model.generators.flow_step` draws.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.model.conditions import Conditions
from train.generators.base import GeneratorMethod


class Flow(GeneratorMethod):
    """Trains :class:`FlowTransformer`."""

    def nats(
        self, codes: Tensor, labels: Tensor, generator: torch.Generator, conditions: Conditions | None = None
    ) -> Tensor:
        """−log p(z_1 | z_t, t, label), each item at a time from another of B equal parts of [0, 1), in random order."""
        device, (count, num_tokens) = codes.device, codes.shape
        # A batch's loss varies less than with independent times.
        order = torch.randperm(count, generator=generator, device=device)
        time = (order + torch.rand(count, generator=generator, device=device)) / count
        kept = torch.rand(count, num_tokens, generator=generator, device=device) < time[:, None]
        source = torch.randint(self.model.config.vocab_size, codes.shape, generator=generator, device=device)
        logits = self.model(torch.where(kept, codes, source), time, labels)
        nats: Tensor = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")
        return nats
