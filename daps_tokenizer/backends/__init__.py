"""One file per runtime, behind one small protocol; nothing heavy is imported until a backend is opened."""

from __future__ import annotations

import warnings
from typing import Literal

from daps_tokenizer.backends.choice import check_onnxruntime
from daps_tokenizer.backends.gpus import NO_GPU, find_gpu
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.errors import BackendError, first_line
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.install import install_command

BACKENDS = ("onnx", "torch", "tensorrt")
BackendName = Literal["auto", "onnx", "torch", "tensorrt"]


def open_backend(
    folder: ModelFolder, *, backend: str, device: str | None, dtype: str, num_threads: int | None = None
) -> Backend:
    """Load a model folder into a runtime.

    Args:
        folder: the model's files.
        backend: ``onnx``, ``torch``, ``tensorrt``, or ``auto``: the fastest that is installed and works here.
        device: ``cpu`` or ``cuda``, which is the first GPU that the process sees; of ``onnx`` also ``tensorrt-rtx`` or
            ``webgpu``, where its plugin is installed. None takes the backend's default, and the fastest for ``auto``.
        dtype: ``float32``, or ``bfloat16`` and ``float16`` where the backend has them.
        num_threads: CPU threads one call may use; None takes the backend's default.

    Raises:
        BackendError: a backend that is not known or not installed, or an option it cannot use here.
        ModelFileError: a file that the backend needs at once is missing or damaged.
    """
    device = _checked_device(device)
    if backend == "auto":
        return _open_fastest(folder, device=device, dtype=dtype, num_threads=num_threads)
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; accepted are auto, {', '.join(BACKENDS)}")
    return _open(folder, backend=backend, device=device, dtype=dtype, num_threads=num_threads)


def _checked_device(device: str | None) -> str | None:
    """The device, where there is a GPU if it is to be one; the names of other devices are the backends' business.

    Raises:
        BackendError: no GPU, or another one than the first.
    """
    name, _, number = (device or "").partition(":")
    if name != "cuda":
        return device
    if find_gpu() is None:
        raise BackendError(f"device {device!r} cannot be used: {NO_GPU}; use device='cpu'")
    if number not in ("", "0"):
        raise BackendError(
            f"device {device!r} cannot be chosen, as a process uses the first GPU that it sees; set "
            f"CUDA_VISIBLE_DEVICES={number} before it starts, and use device='cuda'"
        )
    return name


def _open(
    folder: ModelFolder, *, backend: str, device: str | None, dtype: str, num_threads: int | None = None
) -> Backend:
    if backend == "onnx":
        check_onnxruntime()
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
            f"backend 'torch' needs PyTorch, which is not installed; install it with {install_command('torch')} "
            "or use backend='onnx'"
        ) from error
    except (ImportError, OSError) as error:  # where libraries of CUDA are missing, for instance
        raise BackendError(f"backend 'torch' cannot be loaded: {first_line(error)}; use backend='onnx'") from error
    return TorchBackend.open(folder, device=device, dtype=dtype, num_threads=num_threads)


def _open_fastest(folder: ModelFolder, *, device: str | None, dtype: str, num_threads: int | None) -> Backend:
    """The first runtime that opens, for which a GPU has to work; on a machine without one that is ONNX Runtime."""
    from daps_tokenizer.backends.choice import runtimes

    # Another device was named for its plugin of ONNX Runtime, whether that finds a GPU there or software for one.
    asked = runtimes() if device in (None, "cpu", "cuda") else []
    wanted = [runtime for runtime in asked if device in (None, runtime.device)]
    usable = [runtime for runtime in wanted if not runtime.missing]
    if not usable and wanted:
        reasons = "; ".join(f"{runtime.backend}: {runtime.missing}" for runtime in wanted)
        if device is None:
            raise BackendError(f"no backend works here ({reasons}); see `daps-tokenize doctor`")
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
