"""How much of an image survives on a test set, through the Tokenizer that users run."""

from __future__ import annotations

from typing import Any

import numpy as np

from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.datasets import ArrayData
from daps_tokenizer.evaluation import evaluate, ways_to_encode


def measure_quality(tokenizer: Tokenizer, images: np.ndarray, *, best_of: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Quality of greedy codes, of samples of q, of the best of n, and of local search (1 sweep, 2 proposals).

    Args:
        images: (B, height, width, C) uint8 of the model's size.
        best_of: numbers of candidates to measure ``BestOf`` with.
        seed: of the samples and of the bootstrap.

    Returns:
        For each way to encode, by its name: see :meth:`daps_tokenizer.evaluation.Evaluated.summary`.
    """
    searches = {
        "local search": LocalSearch(),
        "local search, squared error": LocalSearch(objective="squared_error"),
    }
    ways = ways_to_encode(tokenizer, best_of=best_of, searches=searches)
    found = evaluate(tokenizer, ArrayData(images, "images in memory"), ways, seed=seed)
    return {name: each.summary(tokenizer.vocab_size, seed) for name, each in found.items()}
