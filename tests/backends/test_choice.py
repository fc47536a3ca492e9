"""What ``backend="auto"`` takes, and what ``daps-tokenize info`` says of it."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from daps_tokenizer import Tokenizer, backends
from daps_tokenizer.backends import BACKENDS, choice, onnx, open_backend, tensorrt
from daps_tokenizer.backends.choice import ONNX_ON_GPU, BackendOnDevice, runtimes
from daps_tokenizer.backends.gpus import Gpu, find_gpu
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model

without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="this machine has an NVIDIA GPU")


def test_an_architecture_is_written_as_compilers_write_it() -> None:
    assert Gpu("NVIDIA H200", (9, 0), (13, 0)).architecture == "sm_90"


def test_every_backend_is_listed_on_every_device_it_knows() -> None:
    listed = [(runtime.backend, runtime.device) for runtime in runtimes()]
    of_onnx = [("onnx", device) for device in ("cuda", "tensorrt-rtx", "webgpu", "cpu")]
    assert listed == [("torch", "cuda"), ("tensorrt", "cuda"), *of_onnx, ("torch", "cpu")]


@without_gpu
def test_without_a_gpu_onnx_runtime_is_taken(random_mnist_folder: Path) -> None:
    usable = [runtime for runtime in runtimes() if not runtime.missing]
    assert (usable[0].backend, usable[0].device) == ("onnx", "cpu")
    opened = open_backend(open_model(random_mnist_folder), backend="auto", device=None, dtype="float32")
    assert (opened.name, opened.device) == ("onnx", "cpu")


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_asking_for_a_gpu_that_is_not_there_says_so_and_speaks_of_no_package(
    backend: str, device: str, random_mnist_folder: Path
) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(open_model(random_mnist_folder), backend=backend, device=device, dtype="float32")
    assert str(caught.value) == f"device '{device}' cannot be used: there is no NVIDIA GPU here; use device='cpu'"
    assert {runtime.missing for runtime in runtimes() if runtime.device == "cuda"} == {"there is no NVIDIA GPU here"}


def test_another_gpu_than_the_first_is_chosen_by_the_environment(broken: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"'cuda:1' cannot be chosen.*; set CUDA_VISIBLE_DEVICES=1 before it starts"):
        open_mnist(device="cuda:1")
    with pytest.raises(BackendError, match=r"PyTorch failed there .*no kernel image"):
        open_mnist("torch", "cuda:0")


@without_gpu
def test_a_gpu_that_no_backend_has_packages_for_says_what_each_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_gpu", lambda: GPU)
    monkeypatch.setattr(choice, "find_gpu", lambda: GPU)
    with pytest.raises(BackendError, match=r"device 'cuda' cannot be used by any backend \(torch: .*; onnx: pip unin"):
        open_mnist(device="cuda")


# --- GPUs that are there and do not work


GPU = Gpu("NVIDIA H200", (9, 0), (13, 0))


def refuse(*arguments: object, **options: object) -> None:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nand more")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine whose driver shows a GPU, with a PyTorch and an ONNX Runtime for it that cannot use it."""
    on_gpu = [BackendOnDevice("torch", "cuda", "torch 2"), BackendOnDevice("onnx", "cuda", "onnxruntime 1")]
    monkeypatch.setattr(backends, "find_gpu", lambda: GPU)
    monkeypatch.setattr(choice, "runtimes", lambda: [*on_gpu, BackendOnDevice("onnx", "cpu", "onnxruntime 1")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    with_cuda = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: with_cuda)
    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse_cuda(onnxruntime.InferenceSession))
    return monkeypatch


def refuse_cuda(session: type) -> object:
    """ONNX Runtime where CUDA's libraries are missing: it carries on with the CPU."""

    def open_session(path: Path, options: object, *, providers: list[object], enable_fallback: int) -> object:
        return session(path, options, providers=["CPUExecutionProvider"])

    return open_session


def open_mnist(backend: str = "auto", device: str | None = None) -> Backend:
    return open_backend(open_model("daps-mnist"), backend=backend, device=device, dtype="float32")


@without_gpu
def test_a_gpu_that_no_backend_can_use_is_a_warning_for_each_and_the_cpu_is_taken(broken: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match="falling back to the CPU") as caught:
        tok = Tokenizer.from_pretrained("daps-mnist")
    assert (tok.backend, tok.device) == ("onnx", "cpu")
    assert [str(warning.message).partition("(")[2] for warning in caught] == [
        "torch: device 'cuda' cannot be used: PyTorch failed there (CUDA error: no kernel image is available for "
        "execution on the device); use device='cpu')",
        "onnx: device 'cuda' cannot be used: ONNX Runtime found no working libraries for CUDAExecutionProvider (for "
        f"CUDA, those of CUDA and cuDNN: {ONNX_ON_GPU}))",
    ]
    assert all(warning.filename == __file__ for warning in caught)
    assert tok.encode(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 8)


@without_gpu
def test_a_gpu_that_was_asked_for_and_does_not_work_is_an_error(broken: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"'cuda' cannot be used by any backend \(torch: .*kernel.*; onnx: .*cuDNN"):
        open_mnist(device="cuda")
    with pytest.raises(BackendError, match=r"PyTorch failed there .*no kernel image"):
        open_mnist("torch", "cuda")
    with pytest.raises(BackendError, match="found no working libraries"):
        open_mnist("onnx", "cuda")


@without_gpu
@pytest.mark.parametrize(
    ("method", "told"), [("__init__", "cannot load .*decoder.onnx there"), ("run", "failed there")]
)
def test_onnx_runtime_that_fails_on_the_gpu_itself_is_not_taken(
    broken: pytest.MonkeyPatch, method: str, told: str
) -> None:
    broken.undo()
    broken.setattr(backends, "find_gpu", lambda: GPU)
    broken.setitem(onnx._PROVIDERS, "cuda", "CPUExecutionProvider")
    broken.setattr(onnxruntime.InferenceSession, method, refuse)
    with pytest.raises(BackendError, match=rf"ONNX Runtime {told} \(CUDA error: no kernel image .*device\); use"):
        open_mnist("onnx", "cuda")


@without_gpu
def test_libraries_of_cuda_that_pip_installed_are_loaded_and_what_is_not_there_prints_nothing(
    broken: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_for = []

    def preload_dlls() -> None:
        looked_for.append("CUDA")
        print("Failed to load libcublasLt.so.13")

    broken.setattr(onnxruntime, "preload_dlls", preload_dlls)
    with pytest.raises(BackendError, match="found no working libraries"):
        open_mnist("onnx", "cuda")
    assert looked_for == ["CUDA"] and capsys.readouterr().out == ""


@without_gpu
def test_the_next_backend_is_taken_where_it_can_use_the_gpu(broken: pytest.MonkeyPatch) -> None:
    broken.setitem(onnx._PROVIDERS, "cuda", "CPUExecutionProvider")
    opened = open_mnist()
    assert (opened.name, opened.device) == ("onnx", "cuda")


def test_tensorrt_asks_cuda_for_memory_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = types.SimpleNamespace(
        cudaStreamNonBlocking=1,
        cudaError_t=types.SimpleNamespace(cudaSuccess=0),
        cudaStreamCreateWithFlags=lambda flags: (0, 7),
        cudaMalloc=lambda num_bytes: (2, None),
        cudaGetErrorString=lambda error: (0, b"out of memory"),
    )
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", types.SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda: types.SimpleNamespace(__name__="tensorrt", __version__="10"))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: GPU)
    with pytest.raises(BackendError, match=r"CUDA cannot be used: out of memory \(error 2\)"):
        open_mnist("tensorrt")


def test_a_pytorch_whose_libraries_are_missing_is_a_backend_error(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    program = """
from daps_tokenizer import Tokenizer
Tokenizer.from_pretrained("daps-mnist", backend="torch")
"""
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert "BackendError: backend 'torch' cannot be loaded: libcudart.so.13: cannot open shared" in result.stderr
