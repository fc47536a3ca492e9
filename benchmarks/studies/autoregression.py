"""Is the autoregressive model used? The share of log q(z|x) that previous codes account for, and the passes of drawing.

log q of a model's own samples is compared with that of the same network with the previous codes hidden from it (an
embedding of zero). A model whose codes are independent given x loses nothing by that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.reports import report, table, write_report
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


def write_autoregression(folder: Path, content: dict[str, Any]) -> list[Path]:
    rows = [
        (row["model"], f"{row['log_q']:.3f}", f"{row['log_q_hidden']:.3f}", f"{row['passes']:.2f}")
        for row in content["rows"]
    ]
    text = report(
        "How much of log q(z|x) comes from previous codes",
        [content["command"]],
        table(("model", "log q, nats", "log q, previous codes hidden", "passes"), rows),
        f"Means over one sample of each of {content['data']}. Hidden: the embedding of previous codes is zero.",
        machine=content["machine"],
    )
    return write_report(folder, f"autoregression_{content['rows'][0]['model']}", content, text)
