"""How much of an image survives: log p, PSNR and code usage on a test set, through the Tokenizer that users run."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer
from daps_tokenizer.measure import psnr

BATCH = 500
BOOTSTRAP_SAMPLES = 1000


def measure_quality(tokenizer: Tokenizer, images: np.ndarray, *, best_of: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Quality of greedy codes, of samples of q, of the best of n, and of local search (1 sweep, 2 proposals).

    Args:
        images: (B, height, width, C) uint8 of the model's size.
        best_of: numbers of candidates to measure ``BestOf`` with.
        seed: of the samples and of the bootstrap.

    Returns:
        For each way to encode, by its name: means with 95 % bootstrap intervals of ``log_p`` (nats), ``psnr`` (dB),
        ``l2`` (norm of the error per image, standardised units) and ``log_q`` (nats); ``code_perplexity`` and
        ``codes_used`` over all positions.
    """

    def sample(x: np.ndarray, batch: int) -> Codes:
        return tokenizer.sample(x, num_samples=1, seed=seed + batch)[:, 0]

    def search(x: np.ndarray, batch: int, num_samples: int) -> Codes:
        return tokenizer.encode(x, search=BestOf(num_samples, seed=seed + batch))

    ways: dict[str, Callable[[np.ndarray, int], Codes]] = {
        "greedy": lambda x, _: tokenizer.encode(x),
        "sampled": sample,
        **{f"best of {count}": partial(search, num_samples=count) for count in best_of},
        "local search": lambda x, _: tokenizer.encode(x, search=LocalSearch()),
        "local search, squared error": lambda x, _: tokenizer.encode(x, search=LocalSearch(objective="squared_error")),
    }
    return {name: _measure(tokenizer, images, encode, seed) for name, encode in ways.items()}


def _measure(
    tokenizer: Tokenizer, images: np.ndarray, encode: Callable[[np.ndarray, int], Codes], seed: int
) -> dict[str, Any]:
    values: dict[str, list[np.ndarray]] = {"log_p": [], "psnr": [], "l2": [], "log_q": []}
    usage = np.zeros(tokenizer.vocab_size)
    for number, start in enumerate(range(0, len(images), BATCH)):
        batch = images[start : start + BATCH]
        codes = encode(batch, number)
        values["log_p"].append(tokenizer.log_likelihood(batch, codes))
        values["log_q"].append(tokenizer.log_prob(batch, codes))
        values["l2"].append(np.sqrt(tokenizer.squared_error(batch, codes)))
        pairs = zip(tokenizer.prepare(batch), tokenizer.decode(codes), strict=True)
        values["psnr"].append(np.array([psnr(original, reconstruction) for original, reconstruction in pairs]))
        usage += np.bincount(codes.numpy().ravel(), minlength=len(usage))
    share = usage[usage > 0] / usage.sum()
    per_image = {name: np.concatenate(parts) for name, parts in values.items()}
    return {
        **{name: with_interval(array, seed) for name, array in per_image.items()},
        "code_perplexity": math.exp(-float((share * np.log(share)).sum())),
        "codes_used": int((usage > 0).sum()),
    }


def with_interval(values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean, and the 2.5 % and 97.5 % quantiles of the means of bootstrap samples."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
