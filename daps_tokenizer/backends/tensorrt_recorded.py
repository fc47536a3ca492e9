"""What TensorRT does for batches of one size, recorded as CUDA graphs: nothing is computed outside of the engines.

An encoding is the context and a few passes over all codes, one launch; the host then looks which rows have settled
(model/sampling.py says why those have the codes of the sequential loop), and makes a few more passes while some have
not. What is unsettled in the end is drawn by another graph, of one step for every position. Every enqueued engine has
addresses of its own for what it reads and writes, so nothing is copied in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from daps_tokenizer.backends.cuda import ALIGNMENT, Buffer, Cuda, Graph, padded
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import FIRST_PASSES, MORE_PASSES, Windows, most_passes

_FLOAT_BYTES = 4  # codes are as wide as floats


class Execution(Protocol):
    """An engine with inputs of one size."""

    num_bytes: dict[str, int]

    def enqueue(self, addresses: dict[str, int]) -> None:
        """Put the engine on the stream, to read from and write to these addresses."""


class Engines(Protocol):
    """A model's engines, loaded."""

    config: TokenizerConfig
    cuda: Cuda

    def execution(self, graph: str, shape: tuple[int, ...]) -> Execution:
        """One of them, for inputs, rows of windows or grids of codes of this shape."""


class RecordedEncoder:
    """The encoding of batches of one shape."""

    def __init__(
        self,
        engines: Engines,
        shape: tuple[int, ...],
        *,
        passes: tuple[int, int, int] | None = None,
    ) -> None:
        """Record the context and the first passes, then a few more; both even, so that the last one writes where the
        first one reads. ``passes`` are those in the first graph, in each one after it, and in all; by default as many
        as are quicker than steps.
        """
        self._engines, self._size, self._windows = engines, shape[0], Windows.of(engines.config)
        self._cuda = engines.cuda
        context = engines.execution("encoder_context", shape)
        memories = {name: engines.cuda.allocate(count) for name, count in context.num_bytes.items()}
        self._inputs = memories.pop("images" if engines.config.modality == "image" else "features")
        self._temperature = engines.cuda.allocate(ALIGNMENT)
        # What every engine after the context reads besides its own.
        self._shared = _addresses(memories) | {"temperature": self._temperature.address}
        self._memories = memories
        self._passes = _Passes(self, context, passes or (FIRST_PASSES, MORE_PASSES, most_passes(*self.shape)))
        self._steps: _Steps | None = None  # until they are needed

    def run(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> list[np.ndarray]:
        """Codes int32 and log-probabilities float32 (size, N), of as many inputs and uniforms (size, N)."""
        rows = np.ascontiguousarray(self._windows.split(uniform, self._size))
        self._cuda.upload(np.ascontiguousarray(inputs), self._inputs.address)
        self._cuda.upload(np.array(temperature, np.float32), self._temperature.address)
        codes, log_probs, unsettled = self._passes.run(rows)
        if unsettled.any():
            if self._steps is None:
                self._steps = _Steps(self)
            for drawn, stepped in zip((codes, log_probs), self._steps.run(rows), strict=True):
                drawn[unsettled] = stepped[unsettled]
        return [np.ascontiguousarray(self._windows.join(values, self._size)) for values in (codes, log_probs)]

    def rows_of(self, graph: str) -> Execution:
        """An engine for all windows of the batch."""
        return self._engines.execution(graph, (self._size * self._windows.per_item,))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the codes of each."""
        return self._size * self._windows.per_item, self._windows.num_codes


class _Passes:
    """The context and some passes; codes go to and fro between two buffers."""

    def __init__(self, encoder: RecordedEncoder, context: Execution, passes: tuple[int, int, int]) -> None:
        first, self._more, self._most = passes
        self._first = first
        cuda, engine = encoder._cuda, encoder.rows_of("encoder_pass")
        self._cuda, self._shape = cuda, encoder.shape
        names = ("uniform", "codes", "new_codes", "log_probs")
        own = {name: cuda.allocate(engine.num_bytes[name], zeros=True) for name in names}  # codes are indices
        self._own, self._kept = own, (context, engine)  # recorded work has their addresses
        shared, there = encoder._shared, _addresses(own)
        back = there | {"codes": there["new_codes"], "new_codes": there["codes"]}
        context_addresses = {name: shared.get(name, encoder._inputs.address) for name in context.num_bytes}
        # Once without recording: TensorRT allocates and loads at first what must not be on the graph.
        context.enqueue(context_addresses)
        engine.enqueue(shared | there)
        cuda.wait()
        self._graph: Graph
        with cuda.record() as self._graph:
            context.enqueue(context_addresses)
            cuda.clear(own["codes"])  # any guess would do, but results must not depend on what was drawn before
            for number in range(first):
                engine.enqueue(shared | (back if number % 2 else there))
        self._further: Graph
        with cuda.record() as self._further:
            for number in range(self._more):
                engine.enqueue(shared | (back if number % 2 else there))

    def run(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes and log-probabilities (rows, n), and which rows the last pass changed, (rows,)."""
        self._cuda.upload(uniform, self._own["uniform"].address)
        self._graph.replay()
        unsettled = self._unsettled()
        made = self._first
        while made < self._most and unsettled.any():
            self._further.replay()
            unsettled = self._unsettled()
            made += self._more
        log_probs = np.empty(self._shape, np.float32)
        self._cuda.download(log_probs, self._own["log_probs"].address)
        return self._codes, log_probs, unsettled

    def _unsettled(self) -> np.ndarray:
        """Which rows the last pass changed, (rows,); its codes are in ``_codes`` then."""
        self._codes, before = np.empty(self._shape, np.int32), np.empty(self._shape, np.int32)
        for array, name in ((self._codes, "codes"), (before, "new_codes")):
            self._cuda.download(array, self._own[name].address)
        changed: np.ndarray = (self._codes != before).any(axis=1)
        return changed


class _Steps:
    """One step for every position, on the context that the passes have left; caches go to and fro between two sets."""

    def __init__(self, encoder: RecordedEncoder) -> None:
        cuda, step = encoder._cuda, encoder.rows_of("encoder_step")
        self._cuda = cuda
        self._rows, count = encoder.shape
        self._pitch = padded(self._rows * _FLOAT_BYTES)
        self._uniform, self._log_probs = (cuda.allocate(count * self._pitch) for _ in range(2))
        self._codes = cuda.allocate((count + 1) * self._pitch, zeros=True)  # in front the zeros before the first code
        positions = np.zeros((count, ALIGNMENT // 8), np.int64)
        positions[:, 0] = np.arange(count)
        self._positions = cuda.allocate(positions.nbytes)
        cuda.upload(positions, self._positions.address)
        past = [name for name in step.num_bytes if name.startswith("past_")]
        # Zeros, for what a step must not see is multiplied by zero, which does not remove a NaN.
        caches = [{name: cuda.allocate(step.num_bytes[name], zeros=True) for name in past} for _ in range(2)]
        self._kept = (step, caches)  # recorded work has their addresses
        all_addresses = [
            encoder._shared
            | _addresses(caches[t % 2])
            | {name.replace("past_", "present_"): buffer.address for name, buffer in caches[1 - t % 2].items()}
            | {
                "position": self._positions.address + t * ALIGNMENT,
                "previous": self._codes.address + t * self._pitch,
                "uniform": self._uniform.address + t * self._pitch,
                "codes": self._codes.address + (t + 1) * self._pitch,
                "log_probs": self._log_probs.address + t * self._pitch,
            }
            for t in range(count)
        ]
        step.enqueue(all_addresses[0])  # once without recording, as with passes
        cuda.wait()
        self._graph: Graph
        with cuda.record() as self._graph:
            for addresses in all_addresses:
                step.enqueue(addresses)

    def run(self, uniform: np.ndarray) -> Iterator[np.ndarray]:
        """Codes and log-probabilities (rows, n)."""
        by_position = np.zeros((uniform.shape[1], self._pitch // _FLOAT_BYTES), np.float32)
        by_position[:, : self._rows] = uniform.T
        self._cuda.upload(by_position, self._uniform.address)
        self._graph.replay()
        for buffer, skipped, kind in ((self._codes, self._pitch, np.int32), (self._log_probs, 0, np.float32)):
            result = np.empty(by_position.shape, kind)
            self._cuda.download(result, buffer.address + skipped)
            yield result[:, : self._rows].T


class RecordedDecoder:
    """The decoding of codes of one shape (B, rows, columns)."""

    def __init__(self, engines: Engines, shape: tuple[int, ...]) -> None:
        self._cuda, config = engines.cuda, engines.config
        self._shape = (shape[0], *config.input_shape)
        if (grid := config.token_grid) is not None:
            sizes = (config.input_shape[axis] // grid[axis] * shape[1 + axis] for axis in range(2))
            self._shape = (shape[0], *sizes, config.input_shape[2])
        self._reconstruction_type = np.uint8 if config.modality == "image" else np.float32
        self._decoder = engines.execution("decoder", shape)
        num_bytes = self._decoder.num_bytes
        self._buffers = {name: self._cuda.allocate(count, zeros=True) for name, count in num_bytes.items()}
        addresses = _addresses(self._buffers)
        self._decoder.enqueue(addresses)  # once without recording, of zeros, which are codes
        self._cuda.wait()
        self._graph: Graph
        with self._cuda.record() as self._graph:
            self._decoder.enqueue(addresses)

    def run(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Reconstruction, mean and variance of codes (B, rows, columns), each brought to the host when it is taken."""
        self._cuda.upload(np.ascontiguousarray(codes), self._buffers["codes"].address)
        self._graph.replay()
        types = {"reconstruction": self._reconstruction_type, "mean": np.float32, "variance": np.float32}
        for name, kind in types.items():
            result = np.empty(self._shape, kind)
            self._cuda.download(result, self._buffers[name].address)
            yield result


def _addresses(buffers: dict[str, Buffer]) -> dict[str, int]:
    return {name: buffer.address for name, buffer in buffers.items()}
