"""How good a tokenizer is on held-out items: every way to encode, item by item, through the Tokenizer that users run.

``daps-tokenize evaluate`` and ``python -m benchmarks quality`` both end here. A result names the protocol
that made it, so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.evaluation.metrics import code_usage, image_metrics, summarise
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.tokenizer import Tokenizer
from daps_tokenizer.ways import Sampled, Way, make_codes

BATCH = 100  # part of the protocol: batch b is drawn with seed + b

Observe = Callable[[str, np.ndarray, np.ndarray], dict[str, np.ndarray]]  # way, originals, reconstructions


class Evaluated(NamedTuple):
    """What one way to encode gave: each metric (n,) by its name, and the codes (n, N)."""

    items: dict[str, np.ndarray]
    codes: np.ndarray

    def summary(self, vocab_size: int, seed: int) -> dict[str, Any]:
        """Mean of each metric with its 95 % bootstrap interval, and which codes are used."""
        return {**summarise(self.items, seed), **code_usage(self.codes, vocab_size)}


def ways_to_encode(
    tokenizer: Tokenizer, *, best_of: Sequence[int] = (), searches: dict[str, LocalSearch] | None = None
) -> dict[str, Way]:
    """Ways to encode by their names: ``greedy``, ``sampled``, ``best of n``, and local searches under theirs.

    A quantiser has one code for an item, so ``greedy`` is its only way, and another that is asked for is refused.
    """
    if best_of or searches:
        tokenizer.config.require_probabilities()
    sampled: dict[str, Way] = {"sampled": Sampled()} if tokenizer.config.recognition.has_probabilities else {}
    return {"greedy": None, **sampled, **{f"best of {n}": BestOf(n) for n in best_of}, **(searches or {})}


def measure(
    tokenizer: Tokenizer, inputs: np.ndarray, codes: Codes, reconstruction: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric of given codes, item by item.

    Args:
        inputs: items of the model's size, (B, *input_shape).
        codes: (B, N).
        reconstruction: what the codes decode to, where it is known already.

    Returns:
        (B,) each: ``log_p`` = log p(x|z) and, except of a quantiser, ``log_q`` = log q(z|x) in nats (the mean of −log q
        of sampled codes estimates the entropy of q), ``l2``, the norm of the error in standardised units; of images
        also ``psnr`` in dB and ``ssim``, both of 8-bit pixels, of motion
        :func:`~daps_tokenizer.motion.metrics.motion_metrics`.
    """
    log_p, squared_error = tokenizer.likelihood(inputs, codes)
    found = {"log_p": log_p, "l2": np.sqrt(squared_error)}
    if tokenizer.config.recognition.has_probabilities:
        found["log_q"] = tokenizer.log_prob(inputs, codes)
    decoded = tokenizer.decode(codes) if reconstruction is None else reconstruction
    original = tokenizer.targets(inputs)
    if tokenizer.config.motion is None:
        return found | image_metrics(original, decoded)
    return found | motion_metrics(original, decoded, fps=tokenizer.config.motion.fps, robot=robot_of(tokenizer.config))


def evaluate(
    tokenizer: Tokenizer,
    data: Data,
    ways: dict[str, Way],
    *,
    seed: int = 0,
    observe: Observe | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Evaluated]:
    """Measure every item in every way.

    Args:
        data: items, read in batches of 100.
        ways: see :func:`ways_to_encode`.
        seed: batch b is drawn with seed + b.
        observe: sees the originals and reconstructions of each batch, and returns further metrics (B,) of it.
        on_progress: is told how many items are done.
    """
    values: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in ways}
    codes: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for number, start in enumerate(range(0, len(data), BATCH)):
        indices = np.arange(start, min(start + BATCH, len(data)))
        inputs = data.read(indices)
        for name, way in ways.items():
            found = make_codes(tokenizer, inputs, way, seed=seed + number).codes
            reconstruction = tokenizer.decode(found)
            metrics = measure(tokenizer, inputs, found, reconstruction)
            if observe is not None:
                metrics |= observe(name, tokenizer.targets(inputs), reconstruction)
            for metric, value in metrics.items():
                values[name].setdefault(metric, []).append(value)
            codes[name].append(found.numpy())
        on_progress(int(indices[-1]) + 1)
    return {
        name: Evaluated(
            {metric: np.concatenate(parts) for metric, parts in values[name].items()}, np.concatenate(codes[name])
        )
        for name in ways
    }


def describe_protocol(tokenizer: Tokenizer, data: Data, *, seed: int) -> dict[str, Any]:
    """All that a result depends on except the way to encode; it is written with the result."""
    return {
        "model": tokenizer.config.name,
        "weights_sha256": tokenizer.config.weights_sha256,
        "bits_per_item": tokenizer.bits_per_item,
        "data": data.description,
        "items": len(data),
        "fit": data.fit,
        "input_shape": list(tokenizer.input_shape),
        "seed": seed,
        "batch": BATCH,
        "backend": tokenizer.backend,
        "device": tokenizer.device,
        "machine": describe_machine(),
    }
