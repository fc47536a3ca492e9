"""Which runtimes this machine has, the fastest first, and what would be faster still.

Nothing heavy is imported to find out: on a machine without a GPU, PyTorch would take seconds to say so.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from daps_tokenizer.backends.gpus import NO_GPU, Gpu, find_gpu
from daps_tokenizer.backends.plugins import find_plugin, is_hardware, plugin_devices
from daps_tokenizer.errors import BackendError, first_line
from daps_tokenizer.install import install_command

_ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def reinstall_onnxruntime(*, for_cuda: bool, installed: Sequence[str] = ()) -> str:
    """The command that leaves one ONNX Runtime: the packages share their files, so that one breaks the other, and no
    extra of this package can take one away.

    Args:
        for_cuda: whether that one is for NVIDIA GPUs.
        installed: packages of it that are there.
    """
    names = " ".join(sorted({*_ONNX_RUNTIMES, *installed}))
    return f"pip uninstall -y {names} && pip install " + (
        "'onnxruntime-gpu[cuda,cudnn]'" if for_cuda else "onnxruntime"
    )


ONNX_ON_GPU = reinstall_onnxruntime(for_cuda=True)


@dataclass(frozen=True)
class BackendOnDevice:
    """A backend on a device: what is installed of it, or what stands in its way (``missing``, empty if nothing)."""

    backend: str
    device: str
    installed: str
    missing: str = ""


def runtimes() -> list[BackendOnDevice]:
    """Every backend on every device it knows, the fastest first where it can be used.

    The order on GPUs is by what is predicted in docs/notes/gpu.md, not by measurement.
    """
    gpu = find_gpu()
    return [
        _torch("cuda", gpu),
        _tensorrt(gpu),
        _onnx("cuda", gpu),
        _plugin("tensorrt-rtx", gpu),
        _plugin("webgpu", gpu),
        _onnx("cpu", gpu),
        _torch("cpu", gpu),
    ]


def _torch(device: str, gpu: Gpu | None) -> BackendOnDevice:
    version = _version("torch")
    installed = version and f"torch {version}"
    missing = _missing_on(device, gpu)
    if not missing and not version:
        missing = install_command("torch")
    if not missing and device == "cuda" and version.endswith("+cpu"):
        missing = f"it is built without CUDA; install it for CUDA with {reinstall_torch()}"
    return BackendOnDevice("torch", device, installed, missing)


def _tensorrt(gpu: Gpu | None) -> BackendOnDevice:
    missing = _missing_on("cuda", gpu)
    for package in ("tensorrt", "tensorrt_rtx"):
        if version := _version(package):
            return BackendOnDevice("tensorrt", "cuda", f"{package} {version}", missing)
    return BackendOnDevice("tensorrt", "cuda", "", missing or install_command("tensorrt"))


def reinstall_torch() -> str:
    """The command where PyTorch is there, but for the CPU: pip keeps it unless it is removed first."""
    return f"pip uninstall -y torch && {install_command('torch')}"


def check_onnxruntime() -> None:
    """See that ONNX Runtime is there: two packages that share its folder leave a part of it when one is removed.

    Raises:
        BackendError: naming the command that installs it again.
    """
    try:
        import onnxruntime

        onnxruntime.get_available_providers()
    except (ImportError, AttributeError, OSError) as error:
        command = reinstall_onnxruntime(for_cuda=find_gpu() is not None)
        raise BackendError(
            f"ONNX Runtime cannot be used ({first_line(error)}); install it again with {command}"
        ) from error


def _onnx(device: str, gpu: Gpu | None) -> BackendOnDevice:
    try:
        check_onnxruntime()
    except BackendError as error:
        return BackendOnDevice("onnx", device, "onnxruntime", str(error))
    import onnxruntime

    missing = _missing_on(device, gpu)
    if not missing and device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        missing = ONNX_ON_GPU
    return BackendOnDevice("onnx", device, f"onnxruntime {onnxruntime.__version__}", missing)


def _plugin(device: str, gpu: Gpu | None) -> BackendOnDevice:
    """A plugin of ONNX Runtime; WebGPU's is asked for its GPU, of any maker, and TensorRT's takes too long to load."""
    plugin = find_plugin(device)
    installed = f"{plugin.package} {plugin.version}" if plugin else ""
    if device == "tensorrt-rtx" and gpu is None:
        return BackendOnDevice("onnx", device, installed, NO_GPU)
    if plugin is None:
        return BackendOnDevice("onnx", device, installed, install_command(device))
    missing = ""
    if device == "webgpu":
        try:
            check_onnxruntime()
            if not any(is_hardware(found) for found in plugin_devices(plugin)):
                missing = "it finds no GPU here"
        except BackendError as error:
            missing = str(error)
    return BackendOnDevice("onnx", device, installed, missing)


def _missing_on(device: str, gpu: Gpu | None) -> str:
    """What comes before any package: a GPU."""
    return NO_GPU if device == "cuda" and gpu is None else ""


def _version(package: str) -> str:
    """The version of an installed package, or an empty string; it is not imported."""
    if find_spec(package) is None:
        return ""
    for name in (package, f"{package}_cu13", f"{package}_cu12"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
