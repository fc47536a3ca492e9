"""Are searched codes harder to model? A small autoregressive prior, trained on greedy codes and on searched ones.

Its bits on held-out images are what an ideal entropy coder driven by it would need, against N · log2 V without a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reports import report, table, write_report
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.model.transformer import sinusoidal_positions

BATCH = 32
_ENCODED_AT_ONCE = 100


class CodePrior(nn.Module):
    """p(z) = Π p(z_t | z_<t) over N codes out of V: causal transformer blocks."""

    positions: Tensor
    future: Tensor

    def __init__(self, num_tokens: int, vocab_size: int, *, hidden_size: int = 96, num_layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size + 1, hidden_size)  # the last one stands before the first code
        block = nn.TransformerEncoderLayer(
            hidden_size, 4, 4 * hidden_size, dropout=0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers, nn.LayerNorm(hidden_size), enable_nested_tensor=False)
        self.head = nn.Linear(hidden_size, vocab_size)
        self.register_buffer("positions", sinusoidal_positions(num_tokens, hidden_size))
        self.register_buffer("future", nn.Transformer.generate_square_subsequent_mask(num_tokens))

    def forward(self, codes: Tensor) -> Tensor:
        """log p(z_t | z_<t) in nats of codes (B, N) int64: (B, N)."""
        before = F.pad(codes[:, :-1], (1, 0), value=self.embedding.num_embeddings - 1)
        hidden = self.blocks(self.embedding(before) + self.positions, mask=self.future, is_causal=True)
        log_p: Tensor = self.head(hidden).log_softmax(-1)
        return log_p.gather(-1, codes[..., None])[..., 0]


def train_prior(codes: np.ndarray, vocab_size: int, *, steps: int, seed: int) -> CodePrior:
    """A prior fitted to codes (n, N) by maximum likelihood; AdamW, cosine schedule."""
    torch.manual_seed(seed)
    prior, data = CodePrior(codes.shape[1], vocab_size), torch.from_numpy(codes).long()
    optimiser = torch.optim.AdamW(prior.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        loss = -prior(data[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return prior.eval()


@torch.no_grad()
def bits(prior: CodePrior, codes: np.ndarray) -> float:
    """Mean bits of an item under the prior."""
    return float(-prior(torch.from_numpy(codes).long()).sum(1).double().mean()) / math.log(2)


def measure_prior(
    tokenizer: Tokenizer,
    train: np.ndarray,
    held_out: np.ndarray,
    *,
    log_q_weights: Sequence[float],
    steps: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Train one prior on greedy and one on searched codes of the same items, and code held-out items with both.

    Args:
        train: items that the priors learn from, (n, *input_shape).
        held_out: items whose codes are measured.
        log_q_weights: λ of further searches of the held-out items; what they find is coded with the same two priors.
        steps: of each prior, of 32 items.

    Returns:
        For each way to encode the held-out items: ``codes``, ``log_p`` (nats), ``log_q`` (nats), and
        ``bits_greedy_prior`` and ``bits_searched_prior`` an item.
    """
    plain = LocalSearch()
    priors = {
        name: train_prior(encode_all(tokenizer, train, search), tokenizer.vocab_size, steps=steps, seed=seed)
        for name, search in (("greedy", None), ("searched", plain))
    }
    ways: dict[str, LocalSearch | None] = {"greedy": None, "searched": plain}
    ways |= {f"searched, λ = {weight:g}": LocalSearch(log_q_weight=weight) for weight in log_q_weights}
    rows = []
    for name, search in ways.items():
        codes = encode_all(tokenizer, held_out, search)
        rows.append(
            {
                "codes": name,
                "log_p": float(tokenizer.likelihood(held_out, codes).log_likelihood.mean()),
                "log_q": float(tokenizer.log_prob(held_out, codes).mean()),
                **{f"bits_{which}_prior": bits(prior, codes) for which, prior in priors.items()},
            }
        )
    return rows


def encode_all(tokenizer: Tokenizer, items: np.ndarray, search: LocalSearch | None) -> np.ndarray:
    """Codes (n, N) of items, a hundred at a time."""
    parts = range(0, len(items), _ENCODED_AT_ONCE)
    return np.concatenate([tokenizer.encode(items[i : i + _ENCODED_AT_ONCE], search=search).numpy() for i in parts])


def write_prior(folder: Path, model: str, content: dict[str, Any]) -> list[Path]:
    """Write ``prior_MODEL.json`` and ``.md``; returns their paths.

    ``content``: ``command``, ``machine``, ``train``, ``data``, ``steps``, ``bits_per_item``, ``weights_sha256`` and the
    ``results`` of :func:`benchmarks.studies.prior.measure_prior`.
    """
    columns = {
        "log_p": "log p, nats",
        "log_q": "log q, nats",
        "bits_greedy_prior": "bits, prior of greedy codes",
        "bits_searched_prior": "bits, prior of searched codes",
    }
    text = report(
        f"Codes of {model} under a prior",
        [content["command"]],
        table(
            ("codes", *columns.values()),
            [(row["codes"], *(f"{row[key]:.1f}" for key in columns)) for row in content["results"]],
        ),
        f"Means an item over {content['data']}; without a prior an item has {content['bits_per_item']:.0f} bits. Each "
        f"prior is a causal transformer of 2 blocks, trained for {content['steps']} steps of 32 on {content['train']}; "
        f"weights {content['weights_sha256'][:12]}. Search: one sweep, two proposals; λ is log_q_weight.",
        machine=content["machine"],
    )
    return write_report(folder, f"prior_{model}", content, text)
