"""Sweeps of local search on a GPU in PyTorch; those of few items as CUDA graphs.

A sweep is thousands of small kernels. With few items a GPU runs them faster than the host launches them, and a graph is
one launch.
"""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.backends.batching import captured_size, fill
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.capturing import capture, on_a_side_stream
from daps_tokenizer.model.sweep import on_device, whole_sweep
from daps_tokenizer.neighbourhoods import Objective, groups_of_codes

# Numbers of the inputs of a batch that is captured, at most: eight photographs. With more, kernels take longer than
# their launches.
_MOST_CAPTURED = 8 * 256 * 256 * 3
_WARM_UPS = 2


class SweptItems(NamedTuple):
    """Codes (B, N) int32, and by how much the objective of each item rose, (B,) float64."""

    codes: Tensor
    gain: Tensor


class Sweeps:
    """Sweeps of one model; each power of two of few items is captured when it is first needed."""

    def __init__(self, model: Autoencoder, device: str) -> None:
        """Prepare to sweep on ``device``; on the CPU the same work is done without capturing it, for tests."""
        self._model, self._device = model, torch.device(device)
        self._groups = on_device(groups_of_codes(model.config), self._device)
        self._captured: dict[tuple[tuple[int, ...], Objective, int], _CapturedSweep] = {}
        self._lock = threading.Lock()  # buffers are shared: one call at a time

    def run(self, inputs: np.ndarray, codes: np.ndarray, objective: Objective, proposals: int) -> SweptItems:
        """One sweep from codes (B, N) of inputs (B, ...), with so many proposals at each position."""
        size = captured_size(len(inputs))
        shape = (size, *inputs.shape[1:])
        if math.prod(shape) > _MOST_CAPTURED:
            x, given = (torch.tensor(array, device=self._device) for array in (inputs, codes))
            return self.sweep(x, given.long(), objective, proposals)
        with self._lock:
            key = (shape, objective, proposals)
            if key not in self._captured:
                self._captured[key] = _CapturedSweep(self, shape, codes.shape[1], objective, proposals, self._device)
            swept = self._captured[key].run(fill(inputs, size), fill(codes, size))
            if self._device.type == "cuda":
                # A thread with another stream may write to the buffers as soon as it is let.
                torch.cuda.current_stream().synchronize()
        return SweptItems(*(values[: len(inputs)] for values in swept))

    def sweep(self, inputs: Tensor, codes: Tensor, objective: Objective, proposals: int) -> SweptItems:
        """The same of inputs and codes, int64, that are on the device."""
        x = self._model.standardise(inputs)
        swept = whole_sweep(self._model, x, codes, self._groups, objective=objective, proposals=proposals)
        return SweptItems(swept.codes.int(), (swept.values - swept.values_before).sum(1))


class _CapturedSweep:
    """Buffers for batches of one shape, and the sweep of them, captured."""

    def __init__(
        self,
        sweeps: Sweeps,
        shape: tuple[int, ...],
        num_tokens: int,
        objective: Objective,
        proposals: int,
        device: torch.device,
    ) -> None:
        kind = torch.uint8 if sweeps._model.config.modality == "image" else torch.float32
        self._inputs = torch.zeros(shape, dtype=kind, device=device)
        self._codes = torch.zeros(shape[0], num_tokens, dtype=torch.long, device=device)
        self._sweep = partial(sweeps.sweep, self._inputs, self._codes, objective, proposals)
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            with on_a_side_stream():
                for _ in range(_WARM_UPS):
                    self._sweep()
            self._graph = capture(self._keep)

    def run(self, inputs: np.ndarray, codes: np.ndarray) -> SweptItems:
        """New tensors of what a sweep finds; the next call writes to the same buffers."""
        for buffer, array in ((self._inputs, inputs), (self._codes, codes)):
            buffer.copy_(torch.tensor(array))  # a copy first, as PyTorch warns of read-only arrays
        if self._graph is None:
            return self._sweep()
        self._graph.replay()
        return SweptItems(*(values.clone() for values in self._swept))

    def _keep(self) -> None:
        self._swept = self._sweep()
