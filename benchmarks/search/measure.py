"""What better codes cost: log p and PSNR against decodes and processor time, for every way to search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from daps_tokenizer import BestOf, LocalSearch
from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.evaluation.metrics import image_metrics
from daps_tokenizer.hub import open_model
from daps_tokenizer.neighbourhoods import Objective
from daps_tokenizer.search.local import Propose

BATCH = 50


@dataclass(frozen=True)
class Measured:
    """One way to encode: its name, what it is one of, and means over all items.

    ``decodes`` of each item, with that of its greedy codes; ``seconds`` of one processor an item, encoding included;
    ``log_p`` in nats, ``psnr`` in dB (None but for images).
    """

    family: str
    name: str
    decodes: float
    seconds: float
    log_p: float
    psnr: float | None


@dataclass(frozen=True)
class Grid:
    """What is measured: every number of proposals with every number of sweeps up to ``sweeps``."""

    proposals: Sequence[int] = (1, 2, 4, 8)
    sweeps: int = 3
    best_of: Sequence[int] = (2, 4, 8, 16, 32)


def measure_search(model: str, data: Data, grid: Grid, *, on_progress: Callable[[int], None]) -> list[Measured]:
    """Measure greedy codes, :class:`BestOf`, and :class:`LocalSearch` with proposals of q and of the code table.

    Args:
        model: built-in name or folder; it runs in ONNX Runtime, on one thread.
        data: items of the model's size.
        grid: which searches.
        on_progress: is told how many items are done.
    """
    folder = open_model(model)
    backend = open_backend(folder, backend="onnx", device=None, dtype="float32", num_threads=1)
    table = load_file(folder.file("model.safetensors"))["generative.embedding.weight"]
    parts: list[list[Measured]] = []
    sizes: list[int] = []
    for start in range(0, len(data), BATCH):
        inputs = data.read(np.arange(start, min(start + BATCH, len(data))))
        parts.append(_measure_batch(backend, inputs, folder.config, grid, nearest_codes(table)))
        sizes.append(len(inputs))
        on_progress(start + len(inputs))
    return [_mean(rows, sizes) for rows in zip(*parts, strict=True)]


def nearest_codes(table: np.ndarray) -> Propose:
    """Proposes the codes whose vectors in the generative model's table (V, H) are nearest, whatever the input."""
    squares = np.square(table).sum(1)
    distances = squares[:, None] + squares - 2 * table @ table.T
    np.fill_diagonal(distances, np.inf)  # a code is not a proposal for itself, nor is an equal one lost
    order = np.argsort(distances, axis=1, kind="stable").astype(np.int32)

    def propose(inputs: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
        return order[codes][..., :count]

    return propose


def _measure_batch(
    backend: Backend, inputs: np.ndarray, config: TokenizerConfig, grid: Grid, nearest: Propose
) -> list[Measured]:
    started = time.process_time()
    greedy = backend.encode(inputs, np.zeros((len(inputs), config.num_tokens), np.float32), 0.0).codes
    encoding = time.process_time() - started
    rows = [_describe(backend, inputs, config, "greedy", "greedy", greedy, 1, encoding)]
    for count in grid.best_of:
        started = time.process_time()
        codes = BestOf(count).find(backend, inputs, config).codes
        spent = time.process_time() - started
        rows.append(_describe(backend, inputs, config, "best of", f"best of {count}", codes, count, spent))
    families: dict[str, tuple[Objective, Propose | None]] = {
        "local search": ("log_likelihood", None),
        "squared error": ("squared_error", None),
        "nearest codes": ("log_likelihood", nearest),
    }
    for family, (objective, propose) in families.items():
        for count in grid.proposals:
            search = LocalSearch(proposals=count, objective=objective, propose=propose)
            codes, decodes, spent = greedy, 1, encoding
            for sweep in range(1, grid.sweeps + 1):
                started = time.process_time()
                found = search.find(backend, inputs, config, start=codes)
                spent += time.process_time() - started
                codes, decodes = found.codes, decodes + found.decodes - 1  # the first one is the last one's last
                name = f"{family}, {count} proposal{'s' * (count > 1)}, {sweep} sweep{'s' * (sweep > 1)}"
                rows.append(_describe(backend, inputs, config, family, name, codes, decodes, spent))
    return rows


def _describe(
    backend: Backend,
    inputs: np.ndarray,
    config: TokenizerConfig,
    family: str,
    name: str,
    codes: np.ndarray,
    decodes: int,
    seconds: float,
) -> Measured:
    log_p = backend.likelihood(inputs, codes).log_likelihood.sum(1, dtype=np.float64)
    psnr = None
    if config.modality == "image":
        seen = np.where(inputs > 127, 255, 0).astype(np.uint8) if config.likelihood.kind == "bernoulli" else inputs
        psnr = float(image_metrics(seen, backend.reconstruct(codes))["psnr"].mean())
    return Measured(family, name, decodes, seconds / len(inputs), float(log_p.mean()), psnr)


def _mean(rows: Sequence[Measured], sizes: Sequence[int]) -> Measured:
    def mean(values: list[Any]) -> float:
        return float(np.average(values, weights=sizes))

    first = rows[0]
    return Measured(
        first.family,
        first.name,
        mean([row.decodes for row in rows]),
        mean([row.seconds for row in rows]),
        mean([row.log_p for row in rows]),
        None if first.psnr is None else mean([row.psnr for row in rows]),
    )
