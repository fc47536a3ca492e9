"""How much of an image survives: log p, PSNR and code usage on a test set, through the same Tokenizer that users run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from daps_tokenizer import BestOf, Codes, Tokenizer

BATCH = 500
BOOTSTRAP_SAMPLES = 1000


def measure_quality(tokenizer: Tokenizer, images: np.ndarray, *, best_of: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Quality of greedy codes, of samples of q, and of the best of n.

    Args:
        images: (B, height, width, C) uint8 of the model's size.
        best_of: numbers of candidates to measure ``BestOf`` with.
        seed: of the samples and of the bootstrap.

    Returns:
        For each way to encode, by its name: means with 95 % bootstrap intervals of ``log_p`` (nats), ``psnr`` (dB),
        ``l2`` (norm of the error per image, standardised units) and ``log_q`` (nats); ``code_perplexity`` and
        ``codes_used`` over all positions.
    """
    ways: dict[str, Callable[[np.ndarray, int], Codes]] = {
        "greedy": lambda x, _: tokenizer.encode(x),
        "sampled": lambda x, batch: tokenizer.sample(x, num_samples=1, seed=seed + batch)[:, 0],
    }
    for count in best_of:
        ways[f"best of {count}"] = lambda x, batch, n=count: tokenizer.encode(x, search=BestOf(n, seed=seed + batch))
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
        values["psnr"].append(psnr(model_view(tokenizer, batch), tokenizer.decode(codes)))
        usage += np.bincount(codes.numpy().ravel(), minlength=len(usage))
    share = usage[usage > 0] / usage.sum()
    per_image = {name: np.concatenate(parts) for name, parts in values.items()}
    return {
        **{name: with_interval(array, seed) for name, array in per_image.items()},
        "code_perplexity": math.exp(-float((share * np.log(share)).sum())),
        "codes_used": int((usage > 0).sum()),
    }


def model_view(tokenizer: Tokenizer, images: np.ndarray) -> np.ndarray:
    """The images as the model is asked to reproduce them: black or white where the likelihood is Bernoulli."""
    if tokenizer.config.likelihood.kind == "bernoulli":
        return np.where(images > 127, 255, 0).astype(np.uint8)
    return images


def psnr(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each image, (B,), from uint8 pixels; at most 78 dB, for equal images."""
    difference = originals.astype(np.float64) - reconstructions.astype(np.float64)
    mse = np.square(difference).reshape(len(originals), -1).mean(1)
    return 10 * np.log10(255.0**2 / np.maximum(mse, 1e-3))


def with_interval(values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean, and the 2.5 % and 97.5 % quantiles of the means of bootstrap samples."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
