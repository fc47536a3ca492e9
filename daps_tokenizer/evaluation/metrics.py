"""How good codes and reconstructions are: one value per item, so that nothing is ever averaged per batch.

NumPy alone, and functions of arrays alone: training, benchmarks and the command line measure with the same ones, a
tokenizer as well as an image codec.
"""

from __future__ import annotations

import math

import numpy as np

EXACT_COPY_DB = 100.0  # what an exact copy counts as, so that means of PSNR stay finite
BOOTSTRAP_SAMPLES = 1000

_PEAK = 255.0
# Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def psnr(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB; infinite where both are equal.

    Args:
        original, reconstruction: (B, ...) uint8.

    Returns:
        (B,) float64.
    """
    error = original.astype(np.float64) - reconstruction
    mse = np.square(error).mean(axis=tuple(range(1, error.ndim)))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_PEAK**2 / mse)


def ssim(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Structural similarity of each image (Wang et al., 2004), 1 where both are equal.

    An 11 × 11 Gaussian window with σ 1.5 that stays inside the image, averaged over places and channels; in an image
    under 11 pixels the window is as large as the image.

    Args:
        original, reconstruction: (B, height, width, C) uint8.

    Returns:
        (B,) float64.
    """
    height, width = original.shape[1:3]
    rows, columns = _window_matrix(height), _window_matrix(width).T
    return np.array([_ssim_of_one(x, y, rows, columns) for x, y in zip(original, reconstruction, strict=True)])


def _window_matrix(size: int) -> np.ndarray:
    """(places, size): multiplied with an axis, it weights that axis with the window at each of its places."""
    window = min(_SSIM_WINDOW, size)
    weights = np.exp(-0.5 * np.square((np.arange(window) - (window - 1) / 2) / _SSIM_SIGMA))
    places = size - window + 1
    matrix = np.zeros((places, size))
    for place in range(places):
        matrix[place, place : place + window] = weights / weights.sum()
    return matrix


def _ssim_of_one(original: np.ndarray, reconstruction: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    x, y = (image.astype(np.float64).transpose(2, 0, 1) for image in (original, reconstruction))
    mean_x, mean_y, xx, yy, xy = rows @ np.stack([x, y, x * x, y * y, x * y]) @ columns
    covariance, variances = xy - mean_x * mean_y, xx - mean_x**2 + yy - mean_y**2
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
    return float((luminance * (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)).mean())


def image_metrics(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, np.ndarray]:
    """``psnr`` (dB; an exact copy counts as 100) and ``ssim`` of each image, (B,), from (B, height, width, C) uint8."""
    return {
        "psnr": np.minimum(psnr(original, reconstruction), EXACT_COPY_DB),
        "ssim": ssim(original, reconstruction),
    }


def code_usage(codes: np.ndarray, vocab_size: int) -> dict[str, float]:
    """How much of the vocabulary codes (n, N) use, over all positions together.

    Returns:
        ``code_perplexity`` (exp of the entropy of the codes' shares; 1 where there are none), ``codes_used`` and
        ``dead_codes``.
    """
    counts = np.bincount(codes.ravel(), minlength=vocab_size)
    share = counts[counts > 0] / max(1, counts.sum())
    used = int((counts > 0).sum())
    perplexity = math.exp(-float((share * np.log(share)).sum()))
    return {"code_perplexity": perplexity, "codes_used": used, "dead_codes": vocab_size - used}


def with_interval(values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean, and the 2.5 % and 97.5 % quantiles of the means of bootstrap samples."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def interval_text(found: dict[str, float], digits: int) -> str:
    """What :func:`with_interval` returned, for people."""
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def summarise(items: dict[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    """For each metric its mean over all items with a 95 % bootstrap interval."""
    return {name: with_interval(values, seed) for name, values in items.items()}
