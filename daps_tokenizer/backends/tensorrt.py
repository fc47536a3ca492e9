"""TensorRT on an NVIDIA GPU: a whole encoding is one CUDA graph of the context and of one step for every position.

Nothing is computed outside of the engines. A step reads its position, its uniforms and the codes before it from
addresses that were set when it was recorded, and writes the codes where the next step reads them, so that a batch of
images costs one launch. Caches go to and fro between two sets of buffers. Engines are built when a model is opened for
the first time on a machine (:mod:`daps_tokenizer.backends.tensorrt_engines`).

Not measured: no GPU was at hand when this was written. See docs/gpu.md.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from daps_tokenizer.backends import Canvases, CellLikelihood, Decoded, Encoded, Scored
from daps_tokenizer.backends.batching import captured_size, fill, join, slices
from daps_tokenizer.backends.cuda import ALIGNMENT, Buffer, Cuda, Graph, padded
from daps_tokenizer.backends.gpus import find_gpu
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.tensorrt_build import make_logger
from daps_tokenizer.backends.tensorrt_engines import (
    GRAPHS,
    MAX_BATCH,
    PROFILES,
    Engine,
    load_tensorrt,
    prepare_engines,
)
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.windows import Windows

_FLOAT_BYTES = 4


class TensorRTBackend:
    """A model's engines on the first GPU; scoring and likelihoods run in ONNX Runtime. Made by :meth:`open`."""

    name = "tensorrt"
    device = "cuda"

    def __init__(self, folder: ModelFolder, others: OnnxBackend, cuda: Cuda, *, dtype: str, info: str) -> None:
        self.dtype = dtype
        self.info = info
        self._folder = folder
        self._others = others
        self._cuda = cuda
        self._runner: _Runner | None = None
        self._lock = threading.Lock()  # one stream, one set of buffers: one call at a time

    @classmethod
    def open(
        cls, folder: ModelFolder, *, device: str | None = None, dtype: str = "float32", num_threads: int | None = None
    ) -> TensorRTBackend:
        """Prepare to run a model folder; its engines are found or built when they are first used.

        Args:
            folder: a model folder with all its graphs.
            device: ``cuda`` or None.
            dtype: ``float32``, ``float16`` or ``bfloat16``; LayerNorm, softmax and logits are float32 always.
            num_threads: CPU threads of what runs in ONNX Runtime.

        Raises:
            BackendError: TensorRT or cuda-bindings are not installed, there is no NVIDIA GPU or CUDA cannot use it, an
                option that cannot be used, or a model that encodes in one pass and has no step to record.
        """
        if device not in (None, "cuda"):
            raise BackendError(f"backend 'tensorrt' knows no device {device!r}; accepted is cuda")
        kind = folder.config.recognition.kind
        if kind != "autoregressive":
            raise BackendError(
                f"backend 'tensorrt' encodes step by step, and {folder.config.name} in one pass (recognition.kind "
                f"{kind}); use backend='torch' or backend='onnx'"
            )
        trt = load_tensorrt()
        gpu = find_gpu()
        if gpu is None:
            raise BackendError(
                "backend 'tensorrt' needs an NVIDIA GPU and its driver, and finds none here; use backend='onnx'"
            )
        cuda = Cuda()
        cuda.allocate(ALIGNMENT, zeros=True)
        cuda.wait()
        others = OnnxBackend.open(folder, num_threads=num_threads)
        info = f"{trt.__name__} {trt.__version__} on {gpu.name}, {dtype}; scores by {others.info}"
        return cls(folder, others, cuda, dtype=dtype, info=info)

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes; ``uniform`` is (B, N) float32 in [0, 1), temperature 0 is greedy.

        Raises:
            ModelFileError: the folder lacks a graph, or has a damaged one.
            BackendError: an engine cannot be built, or CUDA reports an error.
        """
        with self._lock:
            encoder = self._engines().encode
            parts = [encoder(inputs[rows], uniform[rows], temperature) for rows in slices(len(inputs), MAX_BATCH)]
        return join(Encoded, parts)

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct from codes (B, N) int32; errors as of :meth:`encode`."""
        with self._lock:
            decoder = self._engines().decode
            return join(Decoded, [decoder(codes[rows]) for rows in slices(len(codes), MAX_BATCH)])

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes in ONNX Runtime: one parallel pass, which is not what encoding waits for."""
        return self._others.score(inputs, codes, k)

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """log p(x|z) of codes, in ONNX Runtime as :meth:`score`."""
        return self._others.likelihood(inputs, codes)

    @property
    def canvases(self) -> Canvases:
        """Likelihoods, which are ONNX Runtime's work anyway; the decoder's engine has one size, and is faster still."""
        return self._others.canvases._replace(decode=None)

    def _engines(self) -> _Runner:
        if self._runner is None:
            self._runner = _Runner(self._folder.config, self._cuda, prepare_engines(self._folder, self.dtype))
        return self._runner


class _Runner:
    """Engines loaded into one stream, and what was recorded of them for each size of batch."""

    def __init__(self, config: TokenizerConfig, cuda: Cuda, engines: list[Engine]) -> None:
        trt = load_tensorrt()
        self.config, self.windows, self.cuda = config, Windows.of(config), cuda
        self._log = make_logger(trt)
        self._runtime = trt.Runtime(self._log)  # must live as long as what it makes
        self._engines = dict(zip(GRAPHS, (self._load(engine) for engine in engines), strict=True))
        self._input_mode = trt.TensorIOMode.INPUT
        self._encoders: dict[int, _RecordedEncoder] = {}
        self._decoders: dict[int, _RecordedDecoder] = {}

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> list[np.ndarray]:
        """Codes and log-probabilities (B, N) of at most :data:`MAX_BATCH` items."""
        size = captured_size(len(inputs))
        if size not in self._encoders:
            self._encoders[size] = _RecordedEncoder(self, size)
        results = self._encoders[size].run(fill(inputs, size), fill(uniform, size), temperature)
        return [array[: len(inputs)] for array in results]

    def decode(self, codes: np.ndarray) -> list[np.ndarray]:
        """Reconstruction, mean and variance of at most :data:`MAX_BATCH` items."""
        size = captured_size(len(codes))
        if size not in self._decoders:
            self._decoders[size] = _RecordedDecoder(self, size)
        return [array[: len(codes)] for array in self._decoders[size].run(fill(codes, size))]

    def execution(self, graph: str, batch: int, *, profile: int) -> _Execution:
        """An engine with the shapes of one batch."""
        return _Execution(self._engines[graph], self.cuda, batch, profile, self._input_mode, self._log)

    def _load(self, engine: Engine) -> Any:
        loaded = self._runtime.deserialize_cuda_engine(engine.path.read_bytes())
        if loaded is None:
            raise BackendError(
                f"TensorRT cannot load {engine.path} ({self._log.last_error}); delete it to have it built anew"
            )
        return loaded


class _Execution:
    """An engine's execution context for one size of batch; addresses are set anew for each time it is enqueued."""

    def __init__(self, engine: Any, cuda: Cuda, batch: int, profile: int, input_mode: Any, log: Any) -> None:
        self._cuda, self._log = cuda, log
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT has no memory left on the GPU for a batch of {batch} ({log.last_error})")
        self._context.set_optimization_profile_async(profile, cuda.stream)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            shape = tuple(engine.get_tensor_shape(name))
            if engine.get_tensor_mode(name) == input_mode and -1 in shape:  # the one axis of unknown size is the batch
                self._context.set_input_shape(name, tuple(batch if size == -1 else size for size in shape))
        self.num_bytes = {
            name: math.prod(self._context.get_tensor_shape(name)) * engine.get_tensor_dtype(name).itemsize
            for name in names
        }

    def enqueue(self, addresses: dict[str, int]) -> None:
        """Put the engine on the stream, to read from and write to these addresses."""
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise BackendError(f"TensorRT failed: {self._log.last_error}")


class _RecordedEncoder:
    """The encoding of a batch of ``size`` items, recorded once."""

    def __init__(self, runner: _Runner, size: int) -> None:
        self._cuda, self._windows, self._size = runner.cuda, runner.windows, size
        rows, count = size * self._windows.per_item, self._windows.num_codes
        profile = _profile_of(size)
        context = runner.execution("encoder_context", size, profile=profile)
        step = runner.execution("encoder_step", rows, profile=profile)
        input_name = "images" if runner.config.modality == "image" else "features"

        allocate = self._cuda.allocate
        self._pitch = padded(rows * _FLOAT_BYTES)  # codes are as wide as floats
        self._inputs = allocate(context.num_bytes[input_name])
        self._temperature = allocate(ALIGNMENT)
        self._uniform = allocate(count * self._pitch)
        self._codes = allocate((count + 1) * self._pitch, zeros=True)  # in front the zeros before the first code
        self._log_probs = allocate(count * self._pitch)
        positions = np.zeros((count, ALIGNMENT // 8), np.int64)
        positions[:, 0] = np.arange(count)
        self._positions = allocate(positions.nbytes)
        self._cuda.upload(positions, self._positions.address)
        memories = {name: allocate(context.num_bytes[name]) for name in context.num_bytes if name != input_name}
        past = [name for name in step.num_bytes if name.startswith("past_")]
        # Zeros, for what a step must not see is multiplied by zero, which does not remove a NaN.
        caches = [{name: allocate(step.num_bytes[name], zeros=True) for name in past} for _ in range(2)]
        self._kept: list[Any] = [context, step, memories, caches]  # recorded work has their addresses

        context_addresses = {input_name: self._inputs.address} | _addresses(memories)
        step_addresses = [
            {"temperature": self._temperature.address}
            | _addresses(memories)
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
        # Once without recording: TensorRT allocates and loads at first what must not be on the graph.
        context.enqueue(context_addresses)
        step.enqueue(step_addresses[0])
        self._cuda.wait()
        with self._cuda.record() as self._graph:
            context.enqueue(context_addresses)
            for addresses in step_addresses:
                step.enqueue(addresses)

    def run(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Iterator[np.ndarray]:
        """Codes and log-probabilities (size, N)."""
        rows = self._windows.split(uniform, self._size)
        by_position = np.zeros((rows.shape[1], self._pitch // _FLOAT_BYTES), np.float32)
        by_position[:, : len(rows)] = rows.T
        self._cuda.upload(np.ascontiguousarray(inputs), self._inputs.address)
        self._cuda.upload(by_position, self._uniform.address)
        self._cuda.upload(np.array(temperature, np.float32), self._temperature.address)
        self._graph.replay()
        for buffer, skipped, dtype in ((self._codes, self._pitch, np.int32), (self._log_probs, 0, np.float32)):
            result = np.empty(by_position.shape, dtype)
            self._cuda.download(result, buffer.address + skipped)
            yield np.ascontiguousarray(self._windows.join(result[:, : len(rows)].T, self._size))


class _RecordedDecoder:
    """The decoding of a batch of ``size`` items, recorded once."""

    def __init__(self, runner: _Runner, size: int) -> None:
        self._cuda = runner.cuda
        self._shape = (size, *runner.config.input_shape)
        self._reconstruction_type = np.uint8 if runner.config.modality == "image" else np.float32
        self._execution = runner.execution("decoder", size, profile=_profile_of(size))
        self._buffers = {name: self._cuda.allocate(count) for name, count in self._execution.num_bytes.items()}
        addresses = _addresses(self._buffers)
        self._execution.enqueue(addresses)
        self._cuda.wait()
        self._graph: Graph
        with self._cuda.record() as self._graph:
            self._execution.enqueue(addresses)

    def run(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Reconstruction, mean and variance, each (size, *input_shape)."""
        self._cuda.upload(np.ascontiguousarray(codes), self._buffers["codes"].address)
        self._graph.replay()
        types = {"reconstruction": self._reconstruction_type, "mean": np.float32, "variance": np.float32}
        for name, dtype in types.items():
            result = np.empty(self._shape, dtype)
            self._cuda.download(result, self._buffers[name].address)
            yield result


def _addresses(buffers: dict[str, Buffer]) -> dict[str, int]:
    return {name: buffer.address for name, buffer in buffers.items()}


def _profile_of(size: int) -> int:
    """The first of the engines' profiles that takes so many items."""
    return next(index for index, profile in enumerate(PROFILES) if size <= profile.most)
