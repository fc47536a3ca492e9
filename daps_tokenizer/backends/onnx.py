"""ONNX Runtime: the backend that is always there, on the CPU, and on GPUs by onnxruntime-gpu or a plugin.

Encoding takes a few passes over small arrays (model/sampling.py), so a batch is cut into chunks which run side by side,
one thread each; only where chunks are large and fewer than threads, they share the others. The other graphs are one
pass each: their chunks follow one another and each uses all threads. On a GPU autoregressive encoding takes captured
CUDA graphs (:mod:`daps_tokenizer.backends.onnx_captured`), any other is one pass too. A plugin
(:mod:`daps_tokenizer.backends.plugins`) runs every graph as it is.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from daps_tokenizer.backends.batching import (
    SHARED_CODES,
    as_grid,
    captured_size,
    concatenated,
    encode_chunk,
    fill,
    grid_chunk,
    join,
    parallel_chunk,
    physical_cores,
    shared_threads,
    slices,
)
from daps_tokenizer.backends.choice import ONNX_ON_GPU
from daps_tokenizer.backends.graphs import check_graph, check_results
from daps_tokenizer.backends.onnx_captured import CapturedEncoder
from daps_tokenizer.backends.plugins import PROVIDERS, find_plugin, missing_plugin, plugin_devices
from daps_tokenizer.backends.protocol import CellLikelihood, Decoded, Encoded, Scored
from daps_tokenizer.backends.workers import Workers
from daps_tokenizer.errors import BackendError, DapsError, ModelFileError, first_line
from daps_tokenizer.hub import ModelFolder

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CAPTURED = ("encoder_pass", "encoder_step")
_RECOGNITION_GRAPHS = ("encoder", "scorer")  # full of denormal floats (see workers.py)
_MAX_CAPTURED = 256  # items of one captured graph
_ERRORS_ONLY = 3  # ONNX Runtime's log level: its warnings are about graphs, which users cannot change


class OnnxBackend:
    """A model folder's graphs in ONNX Runtime; a graph is loaded when it is first used. Made by :meth:`open`."""

    name = "onnx"
    tiles_per_item = 1

    def __init__(
        self, folder: ModelFolder, *, device: str, num_threads: int, plugin_devices: list[Any] | None = None
    ) -> None:
        self.device = device
        self.num_threads = num_threads
        self._folder = folder
        self._plugin_devices = plugin_devices
        self._input_name = "images" if folder.config.modality == "image" else "features"
        self._provider = (_PROVIDERS | PROVIDERS).get(device, device)
        on_cuda = self._provider == _PROVIDERS["cuda"]
        self._kind_of_device = "cuda" if on_cuda else "cpu" if plugin_devices is None else "plugin"
        self.info = f"onnxruntime {onnxruntime.__version__} by {self._provider}, {num_threads} threads, float32"
        self._sessions: dict[tuple[str, int], Any] = {}
        self._encoders: dict[tuple[int, ...], CapturedEncoder] = {}
        self._numbers = itertools.count()  # of encoders; one that failed does not leave its own to another
        self._workers = Workers(num_threads)
        self._lock = threading.Lock()
        self._encoder_lock = threading.Lock()  # they have buffers of their own: one call at a time

    @classmethod
    def open(
        cls, folder: ModelFolder, *, device: str | None = None, dtype: str = "float32", num_threads: int | None = None
    ) -> OnnxBackend:
        """Prepare to run a model folder; a GPU is used once, to see that it can be.

        Args:
            folder: a model folder with the graphs that will be used.
            device: ``cpu`` (the default), ``cuda``, ``tensorrt-rtx``, ``webgpu``, or the name of an execution provider
                of the installed ONNX Runtime or of an installed plugin, such as ``OpenVINOExecutionProvider``.
            dtype: ``float32``, the precision of the graphs.
            num_threads: threads one call may use on the CPU; all physical cores if None.

        Raises:
            BackendError: a device, dtype or number of threads that cannot be used here.
            ModelFileError: on a GPU, the folder has no ``onnx/decoder.onnx``, or a damaged one.
        """
        device = device or "cpu"
        available = onnxruntime.get_available_providers()
        is_built_in = device in (*_PROVIDERS, *available)
        plugin = None if is_built_in else find_plugin(device)
        if not is_built_in and plugin is None:
            if device in PROVIDERS:
                raise missing_plugin(device)
            accepted = ", ".join((*_PROVIDERS, *PROVIDERS, *available))
            raise BackendError(f"backend 'onnx' knows no device {device!r}; accepted are {accepted}")
        if dtype != "float32":
            raise BackendError(f"backend 'onnx' has no dtype {dtype!r}; accepted is float32")
        if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
            raise BackendError(f"num_threads must be an integer of at least 1, not {num_threads!r}")
        if plugin is not None:
            opened = cls(
                folder,
                device=plugin.device,
                num_threads=num_threads or physical_cores(),
                plugin_devices=plugin_devices(plugin),
            )
            opened._try_device()
            return opened
        if _PROVIDERS.get(device, device) not in available:
            raise BackendError(
                "device 'cuda' needs onnxruntime-gpu in place of onnxruntime, and what is installed here has no CUDA; "
                f"{ONNX_ON_GPU}, or use device='cpu'"
            )
        opened = cls(folder, device=device, num_threads=num_threads or physical_cores())
        if opened._kind_of_device == "cuda":
            _load_cuda()
            opened._try_device()
        return opened

    def _try_device(self) -> None:
        """Load and run one graph: what a GPU or its libraries lack shows there, and not before."""
        self.decode(np.zeros((1, self._folder.config.num_tokens), np.int32))

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes; ``uniform`` is (B, N) float32 in [0, 1), temperature 0 is greedy.

        Raises:
            ModelFileError: the folder has no ``onnx/encoder.onnx``, or a damaged one.
            BackendError: the GPU cannot be used.
        """
        if self._kind_of_device != "cpu":
            return self._encode_on_gpu(inputs, uniform, temperature)
        share = -(-len(inputs) // self.num_threads)
        chunks = slices(len(inputs), min(share, encode_chunk(self._folder.config)))
        is_large = -(-len(inputs) // len(chunks)) * self._folder.config.num_tokens >= SHARED_CODES
        session = self._session("encoder", num_threads=shared_threads(self.num_threads, len(chunks)) if is_large else 1)

        def run(rows: slice) -> list[np.ndarray]:
            feed = {
                self._input_name: inputs[rows],
                "uniform": uniform[rows],
                "temperature": np.array(temperature, np.float32),
            }
            return self._results("encoder", session, ["codes", "log_probs"], feed)

        return join(Encoded, self._workers.map(run, chunks))

    def _encode_on_gpu(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        if self.device == "cuda" and self._folder.config.recognition.kind == "autoregressive":
            return self._encode_captured(inputs, uniform, temperature)
        feed = {self._input_name: inputs, "uniform": uniform}
        parts = self._in_chunks("encoder", ["codes", "log_probs"], feed, temperature=np.array(temperature, np.float32))
        return join(Encoded, parts)

    def _encode_captured(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        session = partial(self._session, num_threads=self.num_threads)
        parts = []
        with self._encoder_lock:
            for rows in slices(len(inputs), _MAX_CAPTURED):
                count = rows.stop - rows.start
                size = captured_size(count)
                shape = (size, *inputs.shape[1:])
                try:
                    if shape not in self._encoders:
                        self._encoders[shape] = CapturedEncoder(
                            session, self._folder.config, shape, device=self.device, number=next(self._numbers)
                        )
                    given = fill(inputs[rows], size), fill(uniform[rows], size)
                    encoded = self._encoders[shape].run(*given, temperature)
                except DapsError:
                    raise
                except Exception as error:  # ONNX Runtime's own types, and RuntimeError
                    self._encoders.pop(shape, None)  # gives its memory back to a smaller batch
                    raise self._device_failed(error) from error
                parts.append([array[:count] for array in encoded])
        return join(Encoded, parts)

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct from codes (B, N) or (B, rows, columns) int32; errors as of :meth:`encode`, for the decoder."""
        return join(Decoded, self._on_grids("decoder", Decoded._fields, {"codes": as_grid(self._folder.config, codes)}))

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """As the reconstruction of :meth:`decode`."""
        parts = self._on_grids("decoder", ["reconstruction"], {"codes": as_grid(self._folder.config, codes)})
        return concatenated([reconstruction for (reconstruction,) in parts])

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes (B, N), with the ``k`` ≤ V best; errors as of :meth:`encode`, for ``onnx/scorer.onnx``."""
        self._folder.config.require_probabilities()
        feed = {self._input_name: inputs, "codes": codes}
        return join(Scored, self._in_chunks("scorer", ["log_probs", "top_codes"], feed, k=np.array(k, np.int64)))

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """log p(x|z) of codes (B, N) or (B, rows, columns); errors as of :meth:`encode`, for the likelihood."""
        feed = {self._input_name: inputs, "codes": as_grid(self._folder.config, codes)}
        found = join(CellLikelihood, self._on_grids("likelihood", CellLikelihood._fields, feed))
        return CellLikelihood(*(values.reshape(codes.shape) for values in found))

    def _on_grids(self, graph: str, outputs: Sequence[str], feed: dict[str, np.ndarray]) -> list[list[np.ndarray]]:
        """Run a graph that takes grids of codes."""
        return self._run(graph, outputs, feed, grid_chunk(self._folder.config, feed["codes"], self._kind_of_device))

    def _in_chunks(
        self, graph: str, outputs: Sequence[str], batch: dict[str, np.ndarray], **constants: np.ndarray
    ) -> list[list[np.ndarray]]:
        """Run a graph of one parallel pass over items."""
        return self._run(graph, outputs, batch, parallel_chunk(self._folder.config, self._kind_of_device), **constants)

    def _run(
        self, graph: str, outputs: Sequence[str], batch: dict[str, np.ndarray], chunk: int, **constants: np.ndarray
    ) -> list[list[np.ndarray]]:
        session = self._session(graph, num_threads=self.num_threads)
        chunks = slices(len(next(iter(batch.values()))), chunk)

        def run() -> list[list[np.ndarray]]:
            feeds = ({name: array[rows] for name, array in batch.items()} | constants for rows in chunks)
            return [self._results(graph, session, outputs, feed) for feed in feeds]

        return self._workers.run(run) if graph in _RECOGNITION_GRAPHS else run()

    def _results(
        self, graph: str, session: Any, outputs: Sequence[str], feed: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        """The outputs of one run, of the shapes that config.json says."""
        try:
            results: list[np.ndarray] = session.run(list(outputs), feed)
        except Exception as error:  # ONNX Runtime's own types
            if self._kind_of_device == "cuda":
                raise self._device_failed(error) from error
            path = self._folder.path / "onnx" / f"{graph}.onnx"
            raise BackendError(
                f"{path}: ONNX Runtime cannot run it ({first_line(error)}); "
                "use a smaller batch, or export the model again"
            ) from error
        check_results(self._folder.config, graph, feed, dict(zip(outputs, results, strict=True)))
        return results

    def _device_failed(self, error: Exception) -> BackendError:
        return BackendError(
            f"device {self.device!r} cannot be used: ONNX Runtime failed there ({first_line(error)}); "
            "use device='cpu', or a smaller batch"
        )

    def _session(self, graph: str, *, num_threads: int) -> Any:
        """The graph's session, loaded once; running one session from several threads is safe."""
        with self._lock:
            key = graph, num_threads
            if key not in self._sessions:
                self._sessions[key] = self._load(graph, num_threads)
            return self._sessions[key]

    def _load(self, graph: str, num_threads: int) -> Any:
        path = self._folder.file(f"onnx/{graph}.onnx")
        self._folder.file("onnx/weights.bin")  # next to the graphs, which refer to it
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        provider: str | tuple[str, dict[str, str]] = self._provider
        if self._kind_of_device == "cuda":
            # TF32 is the default, and its 10 bits of mantissa change codes.
            provider = (self._provider, {"use_tf32": "0", "enable_cuda_graph": str(int(graph in _CAPTURED))})
        if graph in _RECOGNITION_GRAPHS:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in threads that it starts
        providers: list[Any] | None = [provider]
        if self._plugin_devices is not None:
            options.add_provider_for_devices(self._plugin_devices[:1], {})
            providers = None
        try:
            # Not in the caller's thread: with that option a process's first session changes the thread it is made in.
            # Without fallback: it would print that a provider failed, and do all further work on the CPU.
            session = self._workers.run(
                lambda: onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
            )
        except Exception as error:  # ONNX Runtime has its own exception types, all of them derived from this one
            if self._kind_of_device != "cpu":  # the file is as it was exported: the GPU is to blame, or its libraries
                raise BackendError(
                    f"device {self.device!r} cannot be used: ONNX Runtime cannot load {path} there "
                    f"({first_line(error)}); use device='cpu'"
                ) from error
            raise ModelFileError(
                f"{path}: ONNX Runtime cannot load it ({first_line(error)}); export the model again"
            ) from error
        check_graph(self._folder.config, graph, session, str(path))
        # Where CUDA's libraries are missing, ONNX Runtime only logs that and carries on, slowly, on the CPU.
        if self._provider not in session.get_providers():
            raise BackendError(
                f"device {self.device!r} cannot be used: ONNX Runtime found no working libraries for "
                f"{self._provider} (for CUDA, those of CUDA and cuDNN: {ONNX_ON_GPU})"
            )
        return session


def _load_cuda() -> None:
    """Load the libraries of CUDA that pip installed: the linker does not look where they are.

    What cannot be loaded may lie elsewhere, and is an error of the first session otherwise; so nothing is printed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
