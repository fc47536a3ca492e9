"""Is the autoregressive model used? The share of log q(z|x) that previous codes account for, and the passes of drawing.

log q of a model's own samples is compared with that of the same network with the previous codes hidden from it (an
embedding of zero). A model whose codes are independent given x loses nothing by that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import choose_codes, sample_codes


class Autoregression(NamedTuple):
    """Means over items: log q in nats, log q with previous codes hidden, and parallel passes until nothing changes."""

    log_q: float
    log_q_hidden: float
    passes: float


@torch.no_grad()
def measure_autoregression(model: Autoencoder, inputs: np.ndarray, *, seed: int = 0, batch: int = 50) -> Autoregression:
    """Draw one sample of each input and score it twice.

    Args:
        model: in evaluation mode.
        inputs: uint8 images or features (items, *input_shape).
        seed: of the samples.
        batch: items at a time.
    """
    recognition = model.autoregressive
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for part in torch.from_numpy(inputs).split(batch):
        context = recognition.context(model.standardise(part))
        uniform = torch.rand(len(part), model.config.num_tokens, generator=generator)
        drawn = sample_codes(recognition, context, uniform)
        hidden = recognition.head(recognition.hidden_without_codes(context)).float().log_softmax(-1)
        without = hidden.gather(-1, drawn.codes[..., None])[..., 0]
        passes = torch.zeros(len(part))
        codes, unsettled = torch.zeros_like(drawn.codes), torch.ones(len(part), dtype=torch.bool)
        while unsettled.any():
            chosen = choose_codes(recognition.logits(context, codes).float(), uniform, 1.0)
            passes += unsettled
            unsettled &= (chosen != codes).any(1)
            codes = chosen
        found.append(torch.stack([drawn.log_probs.sum(1), without.sum(1), passes], dim=1))
    return Autoregression(*torch.cat(found).double().mean(0).tolist())
