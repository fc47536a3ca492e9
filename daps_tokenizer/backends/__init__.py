"""One file per runtime, behind one small protocol; nothing heavy is imported until a backend is opened."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import ModelFolder

if TYPE_CHECKING:
    from torch import Tensor

BACKENDS = ("onnx", "torch", "tensorrt")
BackendName = Literal["auto", "onnx", "torch", "tensorrt"]


class Encoded(NamedTuple):
    """Codes (B, N) int32 and log q(z_t | z_<t, x) of each at temperature 1, in nats, (B, N) float32."""

    codes: np.ndarray
    log_probs: np.ndarray


class Decoded(NamedTuple):
    """The reconstruction in input units, mean and variance of p(x|z) in standardised units, each (B, *input_shape)."""

    reconstruction: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


class Scored(NamedTuple):
    """log q(z_t | z_<t, x) (B, N) float32 and the k most probable codes at each position (B, N, k) int32."""

    log_probs: np.ndarray
    top_codes: np.ndarray


class CellLikelihood(NamedTuple):
    """log p(x|z) in nats and squared error in standardised units, summed over each code's own cell, each (B, N)."""

    log_likelihood: np.ndarray
    squared_error: np.ndarray


class SweptCodes(NamedTuple):
    """Codes (B, N) int32 after a sweep of local search, and by how much each item's objective rose, (B,) float64."""

    codes: np.ndarray
    gain: np.ndarray


class Backend(Protocol):
    """A model that is loaded in some runtime. Every method is safe to call from several threads.

    ``inputs`` are uint8 images (B, height, width, channels) or float32 features (B, frames, features), of the model's
    size: normalisation is the backend's business, resizing is not.
    """

    name: str
    device: str

    @property
    def info(self) -> str:
        """A line for people: versions, hardware, precision."""

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        """Draw codes; ``uniform`` is (B, N) float32 in [0, 1), temperature 0 is greedy."""

    def decode(self, codes: np.ndarray) -> Decoded:
        """Reconstruct from codes (B, N) int32."""

    def score(self, inputs: np.ndarray, codes: np.ndarray, k: int) -> Scored:
        """Score given codes (B, N), teacher-forced, in one parallel pass; UnsupportedError from a quantiser."""

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        """How well codes (B, N) explain the inputs, cell by cell."""


@runtime_checkable
class KeepsCodes(Protocol):
    """A backend that can leave codes where it made them."""

    def encode_on_device(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Tensor | None:
        """Codes as of :meth:`Backend.encode`, (B, N) integers on the GPU; None where encoding is not done there."""


class Canvases(NamedTuple):
    """What a backend does with grids of codes (B, rows, columns) of any size; None in place of what it cannot do.

    ``decode``: codes to :class:`Decoded`, each (B, rows · cell, columns · cell, channels). ``likelihood``: images of
    that size and codes to :class:`CellLikelihood`, each (B, rows, columns).
    """

    decode: Callable[[np.ndarray], Decoded] | None
    likelihood: Callable[[np.ndarray, np.ndarray], CellLikelihood] | None


@runtime_checkable
class TakesCanvases(Protocol):
    """A backend that may decode more codes together than the model has, where its generative model is convolutional."""

    @property
    def canvases(self) -> Canvases:
        """What of it can be done with this model here."""


@runtime_checkable
class SweepsOnDevice(Protocol):
    """A backend that can do a whole sweep of local search where the model is, so that no decode waits for the host."""

    def sweep_on_device(
        self, inputs: np.ndarray, codes: np.ndarray, *, objective: str, proposals: int
    ) -> SweptCodes | None:
        """One sweep of :class:`~daps_tokenizer.LocalSearch` from codes (B, N); None where it is not done there."""


def open_backend(
    folder: ModelFolder, *, backend: str, device: str | None, dtype: str, num_threads: int | None = None
) -> Backend:
    """Load a model folder into a runtime.

    Args:
        folder: the model's files.
        backend: ``onnx``, ``torch``, ``tensorrt``, or ``auto``: the fastest that is installed and works here.
        device: ``cpu`` or ``cuda``; None takes the backend's default, and the fastest for ``auto``.
        dtype: ``float32``, or ``bfloat16`` and ``float16`` where the backend has them.
        num_threads: CPU threads one call may use; None takes the backend's default.

    Raises:
        BackendError: a backend that is not known or not installed, or an option it cannot use here.
        ModelFileError: a file that the backend needs at once is missing or damaged.
    """
    if backend == "auto":
        return _open_fastest(folder, device=device, dtype=dtype, num_threads=num_threads)
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; accepted are auto, {', '.join(BACKENDS)}")
    return _open(folder, backend=backend, device=device, dtype=dtype, num_threads=num_threads)


def _open(
    folder: ModelFolder, *, backend: str, device: str | None, dtype: str, num_threads: int | None = None
) -> Backend:
    if backend == "onnx":
        from daps_tokenizer.backends.onnx import OnnxBackend

        return OnnxBackend.open(folder, device=device, dtype=dtype, num_threads=num_threads)
    if backend == "tensorrt":
        from daps_tokenizer.backends.tensorrt import TensorRTBackend

        return TensorRTBackend.open(folder, device=device, dtype=dtype, num_threads=num_threads)
    try:
        from daps_tokenizer.backends.torch import TorchBackend
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendError(
            "backend 'torch' needs PyTorch, which is not installed; install daps-tokenizer[torch] or use backend='onnx'"
        ) from error
    except (ImportError, OSError) as error:  # where libraries of CUDA are missing, for instance
        reason = str(error).strip().partition("\n")[0]
        raise BackendError(f"backend 'torch' cannot be loaded: {reason}; use backend='onnx'") from error
    return TorchBackend.open(folder, device=device, dtype=dtype, num_threads=num_threads)


def _open_fastest(folder: ModelFolder, *, device: str | None, dtype: str, num_threads: int | None) -> Backend:
    """The first runtime that opens, for which a GPU has to work; on a machine without one that is ONNX Runtime."""
    from daps_tokenizer.backends.choice import runtimes

    wanted = [runtime for runtime in runtimes() if device in (None, runtime.device)]
    usable = [runtime for runtime in wanted if not runtime.missing]
    if not usable and wanted:
        reasons = "; ".join(f"{runtime.backend}: {runtime.missing}" for runtime in wanted)
        raise BackendError(f"device {device!r} cannot be used by any backend ({reasons}); use device='cpu'")
    failures = []
    for runtime in usable:
        if runtime.device == "cpu":
            break
        try:
            return _open(folder, backend=runtime.backend, device=runtime.device, dtype=dtype, num_threads=num_threads)
        except BackendError as error:  # installed, but not in working order
            failures.append(f"{runtime.backend}: {error}")
    if failures and device == "cuda":
        raise BackendError(f"device 'cuda' cannot be used by any backend ({'; '.join(failures)})")
    for failure in failures:
        warnings.warn(f"falling back to the CPU, as the GPU cannot be used ({failure})", RuntimeWarning, stacklevel=4)
    return _open(folder, backend="onnx", device=device, dtype=dtype, num_threads=num_threads)
