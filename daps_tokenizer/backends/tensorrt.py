"""TensorRT on an NVIDIA GPU: engines of the context, of a pass over all codes, of a step and of the decoder.

They are built when a model is used for the first time on a machine (:mod:`daps_tokenizer.backends.tensorrt_engines`),
and replayed as CUDA graphs (:mod:`daps_tokenizer.backends.tensorrt_recorded`).

Not run on a GPU yet; docs/notes/gpu.md says what was checked without one.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import numpy as np

from daps_tokenizer.backends.batching import as_grid, captured_size, concatenated, fill, join, own_grid, slices
from daps_tokenizer.backends.cuda import ALIGNMENT, Cuda
from daps_tokenizer.backends.gpus import find_gpu
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import CellLikelihood, Decoded, Encoded, Scored
from daps_tokenizer.backends.tensorrt_build import make_logger
from daps_tokenizer.backends.tensorrt_engines import (
    MAX_BATCH,
    Engine,
    load_tensorrt,
    prepare_engines,
    profile_for,
    with_sizes,
)
from daps_tokenizer.backends.tensorrt_recorded import RecordedDecoder, RecordedEncoder
from daps_tokenizer.backends.tiled import LONGEST_SIDE
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder


class TensorRTBackend:
    """A model's engines on the first GPU; scoring and likelihoods run in ONNX Runtime. Made by :meth:`open`."""

    name = "tensorrt"
    tiles_per_item = 1
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
        """Reconstruct from codes (B, N) or (B, rows, columns) int32; errors as of :meth:`encode`.

        Grids that are longer than any block of a photograph are decoded in ONNX Runtime.
        """
        if self._is_too_long(codes):
            return self._others.decode(codes)
        return join(Decoded, self._decode(codes, len(Decoded._fields)))

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """As the reconstruction of :meth:`decode`."""
        if self._is_too_long(codes):
            return self._others.reconstruct(codes)
        return concatenated([reconstruction for (reconstruction,) in self._decode(codes, 1)])

    def _is_too_long(self, codes: np.ndarray) -> bool:
        """Of a grid that is not an item's own."""
        is_grid = codes.ndim == 3 and codes.shape[1:] != own_grid(self._folder.config)
        return is_grid and max(codes.shape[1:]) > LONGEST_SIDE

    def _decode(self, codes: np.ndarray, count: int) -> list[list[np.ndarray]]:
        """The first ``count`` parts of :class:`Decoded`, of each batch."""
        if codes.shape[1:] == own_grid(self._folder.config):
            codes = codes.reshape(len(codes), -1)
        with self._lock:
            decode = self._engines().decode
            chunk = MAX_BATCH if codes.ndim == 2 else 1
            return [decode(codes[rows], count) for rows in slices(len(codes), chunk)]

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes in ONNX Runtime: one parallel pass, which is not what encoding waits for."""
        return self._others.score(inputs, codes, k)

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """log p(x|z) of codes, in ONNX Runtime as :meth:`score`."""
        return self._others.likelihood(inputs, codes)

    def _engines(self) -> _Runner:
        if self._runner is None:
            self._runner = _Runner(self._folder.config, self._cuda, prepare_engines(self._folder, self.dtype))
        return self._runner


class _Runner:
    """Engines loaded into one stream, and what was recorded of them for each size of batch."""

    def __init__(self, config: TokenizerConfig, cuda: Cuda, engines: list[Engine]) -> None:
        trt = load_tensorrt()
        self.config, self.cuda = config, cuda
        self._log = make_logger(trt)
        self._runtime = trt.Runtime(self._log)  # must live as long as what it makes
        self._engines = {engine.graph: self._load(engine) for engine in engines}
        self._input_mode = trt.TensorIOMode.INPUT
        self._encoders: dict[tuple[int, ...], RecordedEncoder] = {}
        self._decoders: dict[int, RecordedDecoder] = {}
        self._grid_decoder: tuple[tuple[int, ...], RecordedDecoder] | None = None

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> list[np.ndarray]:
        """Codes and log-probabilities (B, N) of at most :data:`MAX_BATCH` items."""
        size = captured_size(len(inputs))
        shape = (size, *inputs.shape[1:])
        if shape not in self._encoders:
            self._encoders[shape] = RecordedEncoder(self, shape)
        results = self._encoders[shape].run(fill(inputs, size), fill(uniform, size), temperature)
        return [array[: len(inputs)] for array in results]

    def decode(self, codes: np.ndarray, count: int) -> list[np.ndarray]:
        """The first ``count`` of reconstruction, mean and variance; at most :data:`MAX_BATCH` items, or one grid."""
        if codes.ndim == 3:
            return list(itertools.islice(self._decoder_of_grids(codes.shape).run(codes), count))
        size = captured_size(len(codes))
        grids = as_grid(self.config, fill(codes, size))
        if size not in self._decoders:
            self._decoders[size] = RecordedDecoder(self, grids.shape)
        return [array[: len(codes)] for array in itertools.islice(self._decoders[size].run(grids), count)]

    def _decoder_of_grids(self, shape: tuple[int, ...]) -> RecordedDecoder:
        """Only the last is kept: all blocks of a photograph have one shape, and another photograph has another."""
        if self._grid_decoder is None or self._grid_decoder[0] != shape:
            self._grid_decoder = None  # frees its memory before more is taken
            self._grid_decoder = shape, RecordedDecoder(self, shape)
        return self._grid_decoder[1]

    def execution(self, graph: str, shape: tuple[int, ...]) -> _Execution:
        """An engine for a first input of this shape, by the first profile that takes it."""
        profile, sizes = profile_for(self.config, graph, shape)
        return _Execution(self._engines[graph], self.cuda, sizes, profile, self._input_mode, self._log)

    def _load(self, engine: Engine) -> Any:
        loaded = self._runtime.deserialize_cuda_engine(engine.path.read_bytes())
        if loaded is None:
            raise BackendError(
                f"TensorRT cannot load {engine.path} ({self._log.last_error}); delete it to have it built anew"
            )
        return loaded


class _Execution:
    """An engine's execution context for inputs of one size; addresses are set anew for each time it is enqueued."""

    def __init__(
        self, engine: Any, cuda: Cuda, sizes: tuple[int, ...], profile: int, input_mode: Any, log: Any
    ) -> None:
        self._cuda, self._log = cuda, log
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT has no memory left on the GPU for a batch of {sizes[0]} ({log.last_error})")
        self._context.set_optimization_profile_async(profile, cuda.stream)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        for name in names:
            shape = tuple(engine.get_tensor_shape(name))
            if engine.get_tensor_mode(name) == input_mode and -1 in shape:
                self._context.set_input_shape(name, with_sizes(shape, sizes))
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
