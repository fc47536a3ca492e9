"""The little of CUDA that running engines takes: memory, one stream, and graphs that replay what was put on it.

By ``cuda-bindings`` (8 MB), NVIDIA's own wrapper of its runtime, because the alternative, PyTorch, brings gigabytes and
is not needed for anything else there.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from daps_tokenizer.errors import BackendError
from daps_tokenizer.install import install_command

ALIGNMENT = 256  # bytes, of every address that TensorRT is given


class Cuda:
    """One stream on the first GPU. Not safe to use from several threads at once.

    Raises:
        BackendError: ``cuda-bindings`` is not installed, or CUDA reports an error.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ModuleNotFoundError as error:
            raise BackendError(
                "backend 'tensorrt' needs the package cuda-bindings, which is not installed; "
                f"install it with {install_command('tensorrt')}"
            ) from error
        self._runtime: Any = runtime
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """The stream's handle, for TensorRT."""
        return int(self._stream)

    def allocate(self, num_bytes: int, *, zeros: bool = False) -> Buffer:
        """Memory on the GPU, freed with the last reference to it; what it holds at first is anything, or zeros."""
        buffer = Buffer(self, num_bytes)
        if zeros:
            self.clear(buffer)
        return buffer

    def clear(self, buffer: Buffer) -> None:
        self._call("cudaMemsetAsync", buffer.address, 0, buffer.num_bytes, self._stream)

    def upload(self, array: np.ndarray, address: int) -> None:
        """Copy a C-contiguous array to the GPU; it may change as soon as this returns."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)
        self.wait()

    def download(self, array: np.ndarray, address: int) -> None:
        """Fill a C-contiguous array from the GPU, when all that is on the stream is done."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self.wait()

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    @contextlib.contextmanager
    def record(self) -> Iterator[Graph]:
        """Put what happens within on a graph instead of running it."""
        graph = Graph(self)
        # Other threads may allocate meanwhile; only what this one does is recorded.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        recorded = False
        try:
            yield graph
            recorded = True
        finally:
            # Ended even after an error, as the stream could not be used again otherwise.
            error, captured = self._runtime.cudaStreamEndCapture(self._stream)
            if recorded:
                self._check(error)
                graph.instantiate(captured)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime and return what it gives besides its status."""
        error, *values = getattr(self._runtime, name)(*arguments)
        self._check(error)
        return values[0] if values else None

    def _check(self, error: Any) -> None:
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"CUDA cannot be used: {text.decode()} (error {int(error)})")


class Buffer:
    """Memory on the GPU. Made by :meth:`Cuda.allocate`."""

    def __init__(self, cuda: Cuda, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.address: int = int(cuda._call("cudaMalloc", num_bytes))
        weakref.finalize(self, cuda._runtime.cudaFree, self.address)


class Graph:
    """What was recorded by :meth:`Cuda.record`."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._executable: Any = None

    def instantiate(self, captured: Any) -> None:
        """Make the recording ready to run."""
        self._executable = self._cuda._call("cudaGraphInstantiate", captured, 0)
        self._cuda._call("cudaGraphDestroy", captured)
        weakref.finalize(self, self._cuda._runtime.cudaGraphExecDestroy, self._executable)

    def replay(self) -> None:
        """Put the recorded work on the stream once more."""
        self._cuda._call("cudaGraphLaunch", self._executable, self._cuda._stream)


def padded(num_bytes: int) -> int:
    """The size rounded up so that what follows is aligned."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
