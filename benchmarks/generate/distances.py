"""How far two sets of features are from each other, and how a set covers another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Of features (n, F)."""
        return cls(features.mean(0), np.cov(features, rowvar=False))


def frechet_distance(ours: Moments, others: Moments) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (Heusel et al., 2017); with Inception's features this is FID."""
    # The trace of the root is the sum of the roots of the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric.
    values, vectors = np.linalg.eigh(ours.covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    between = np.linalg.eigvalsh(root @ others.covariance @ root)
    trace = np.trace(ours.covariance) + np.trace(others.covariance) - 2 * np.sqrt(between.clip(min=0)).sum()
    return float(np.square(ours.mean - others.mean).sum() + trace)


def kernel_distance(ours: np.ndarray, others: np.ndarray) -> float:
    """The squared maximum mean discrepancy of the kernel (x·y / F + 1)³, without bias (Bińkowski et al., 2018: KID)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_pairs(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return mean_of_pairs(ours) + mean_of_pairs(others) - 2 * float(kernel(ours, others).mean())


def precision_and_recall(generated: np.ndarray, real: np.ndarray, *, neighbours: int = 3) -> tuple[float, float]:
    """The share of generated features inside the manifold of the real ones, and the reverse.

    A set's manifold is the union of balls around its features that reach to their third nearest neighbour
    (Kynkäänniemi et al., 2019).
    """

    def covered(points: np.ndarray, by: np.ndarray) -> float:
        own = np.sqrt(np.partition(_squared(by, by), neighbours, axis=1)[:, neighbours])
        return float((np.sqrt(_squared(points, by)) <= own).any(1).mean())

    return covered(generated, real), covered(real, generated)


def nearest(images: np.ndarray, among: np.ndarray, *, at_once: int = 5000) -> np.ndarray:
    """Root mean squared difference, in grey levels, of each image to the nearest of others; both (n, H, W, C) uint8."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    best = np.full(len(flat), np.inf)
    for start in range(0, len(among), at_once):
        part = among[start : start + at_once].reshape(-1, flat.shape[1]).astype(np.float32)
        best = np.minimum(best, _squared(flat, part).min(1))
    return np.sqrt(best / flat.shape[1])


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n, m), at least 0."""
    distances: np.ndarray = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T)
    return distances.clip(min=0)
