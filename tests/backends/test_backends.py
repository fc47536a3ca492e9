"""The two runtimes, on the same model with random weights: what one does the other does."""

import dataclasses
import hashlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.batching import encode_chunk, parallel_chunk, physical_cores, shared_threads, slices
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.errors import BackendError, ModelFileError
from daps_tokenizer.hub import ModelFolder, open_model
from tests.settings import CIFAR10, IMAGENET256, MNIST

V, N = MNIST.vocab_size, MNIST.num_tokens
BACKENDS = ("onnx", "torch")


def open_in(backend: str, folder: ModelFolder, **options: object) -> Backend:
    return open_backend(folder, **({"backend": backend, "device": None, "dtype": "float32"} | options))


@pytest.fixture(scope="module")
def folder(random_mnist_folder: Path) -> ModelFolder:
    return open_model(random_mnist_folder)


@pytest.fixture(scope="module")
def onnx(folder: ModelFolder) -> Backend:
    return open_in("onnx", folder)


@pytest.fixture(scope="module")
def torch_(folder: ModelFolder) -> Backend:
    return open_in("torch", folder, num_threads=1)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *MNIST.input_shape), dtype=np.uint8)


def codes(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, V, (count, N), dtype=np.int32)


def uniform(count: int) -> np.ndarray:
    return np.random.default_rng(2).random((count, N), dtype=np.float32)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 8, 70])
def test_codes_and_log_probs_are_the_same_in_batches_of_any_size(
    onnx: Backend, torch_: Backend, count: int, temperature: float
) -> None:
    ours, theirs = (backend.encode(images(count), uniform(count), temperature) for backend in (torch_, onnx))
    assert theirs.codes.dtype == np.int32 and theirs.log_probs.dtype == np.float32
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampled_codes_differ_between_items_and_positions(folder: ModelFolder, backend: str) -> None:
    sampled = open_in(backend, folder).encode(images(50), uniform(50), 1.0).codes
    assert len(np.unique(sampled, axis=0)) == 50 and all(len(np.unique(column)) > 25 for column in sampled.T)


@pytest.mark.parametrize("backend", BACKENDS)
def test_encoding_tells_the_log_prob_that_scoring_tells(folder: ModelFolder, backend: str) -> None:
    opened = open_in(backend, folder)
    encoded = opened.encode(images(5), uniform(5), 2.0)
    scored = opened.score(images(5), encoded.codes, 1)
    np.testing.assert_allclose(
        encoded.log_probs, scored.log_probs, atol=1e-5
    )  # at temperature 1, whatever was drawn at


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_codes_are_the_most_probable_at_every_position(folder: ModelFolder, backend: str) -> None:
    opened = open_in(backend, folder)
    greedy = opened.encode(images(5), uniform(5), 0.0).codes
    top = opened.score(images(5), greedy, 3).top_codes
    assert top.shape == (5, N, 3) and top.dtype == np.int32
    np.testing.assert_array_equal(top[..., 0], greedy)


def test_reconstructions_scores_and_likelihoods_are_the_same(onnx: Backend, torch_: Backend) -> None:
    count = 1100  # more than are run at once
    ours, theirs = (backend.decode(codes(count)) for backend in (torch_, onnx))
    assert theirs.reconstruction.shape == (count, 28, 28, 1) and theirs.reconstruction.dtype == np.uint8
    assert np.abs(ours.reconstruction.astype(int) - theirs.reconstruction).max() <= 1
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-5)
    np.testing.assert_allclose(ours.variance, theirs.variance, atol=1e-5)
    for backend, decoded in ((torch_, ours), (onnx, theirs)):
        np.testing.assert_array_equal(backend.reconstruct(codes(count)), decoded.reconstruction)
    ours, theirs = (backend.score(images(count), codes(count), 4) for backend in (torch_, onnx))
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
    assert (ours.top_codes == theirs.top_codes).mean() > 0.999
    ours, theirs = (backend.likelihood(images(count), codes(count)) for backend in (torch_, onnx))
    assert theirs.log_likelihood.shape == theirs.squared_error.shape == (count, N)
    np.testing.assert_allclose(ours.log_likelihood, theirs.log_likelihood, rtol=1e-4)
    np.testing.assert_allclose(ours.squared_error, theirs.squared_error, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_that_share_a_backend_get_what_one_gets(folder: ModelFolder, backend: str) -> None:
    opened, alone = open_in(backend, folder), open_in(backend, folder).encode(images(9), uniform(9), 1.0)
    results: list[np.ndarray] = []
    work = lambda: results.append(opened.encode(images(9), uniform(9), 1.0).codes)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(np.array_equal(result, alone.codes) for result in results)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_number_of_threads_changes_no_code(onnx: Backend, folder: ModelFolder, num_threads: int) -> None:
    opened = open_in("onnx", folder, num_threads=num_threads)
    expected = onnx.encode(images(40), uniform(40), 1.0)
    np.testing.assert_array_equal(opened.encode(images(40), uniform(40), 1.0).codes, expected.codes)


def test_a_provider_can_be_named(folder: ModelFolder, onnx: Backend) -> None:
    named = open_in("onnx", folder, device="CPUExecutionProvider")
    expected = onnx.encode(images(3), uniform(3), 0.0).codes
    np.testing.assert_array_equal(named.encode(images(3), uniform(3), 0.0).codes, expected)
    assert "CPUExecutionProvider" in named.info and onnxruntime.__version__ in named.info


def test_every_backend_says_what_it_is(onnx: Backend, torch_: Backend) -> None:
    assert onnx.info.startswith("onnxruntime ") and "float32" in onnx.info
    assert torch_.info == f"torch {torch.__version__} on cpu, float32"


def test_torch_needs_no_more_than_config_and_weights(folder: ModelFolder, torch_: Backend, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder.path / name, tmp_path)
    opened = open_in("torch", open_model(tmp_path))
    expected = torch_.encode(images(3), uniform(3), 0.0)
    np.testing.assert_array_equal(opened.encode(images(3), uniform(3), 0.0).codes, expected.codes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_full_precision(folder: ModelFolder, torch_: Backend, dtype: str) -> None:
    half = open_in("torch", folder, dtype=dtype)
    ours, theirs = (backend.score(images(4), codes(4), 1).log_probs for backend in (torch_, half))
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=0.2)
    np.testing.assert_allclose(torch_.decode(codes(4)).mean, half.decode(codes(4)).mean, atol=0.05)
    cells = [backend.likelihood(images(4), codes(4)).log_likelihood for backend in (torch_, half)]
    np.testing.assert_allclose(*cells, rtol=0.05)
    assert half.encode(images(4), uniform(4), 1.0).codes.shape == (4, N)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_code_books_read_motion_as_it_is_in_half_precision_too(dtype: str) -> None:
    h1 = open_model("daps-h1-motion")
    clips = np.random.default_rng(0).standard_normal((4, *h1.config.input_shape), dtype=np.float32)
    scores = []
    for opened in (open_in("torch", h1), open_in("torch", h1, dtype=dtype)):
        model = opened.model  # type: ignore[attr-defined]
        scores.append(torch.cat(model.recognition.context(model.standardise(torch.from_numpy(clips)))[-1], -1))
    assert torch.equal(*scores)


@pytest.mark.parametrize("device", ["cuda", "CUDAExecutionProvider"])
def test_cuda_computes_in_float32_by_whichever_name_it_is_asked_for(
    folder: ModelFolder, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    on_cpu = onnxruntime.InferenceSession

    class Session(on_cpu):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: object, *, providers: list[object], enable_fallback: int) -> None:
            asked.extend(providers)
            super().__init__(path, options, providers=["CPUExecutionProvider"], enable_fallback=enable_fallback)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("libraries"), raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    OnnxBackend.open(folder, device=device)
    (loaded, (provider, options)) = asked
    assert loaded == "libraries" and provider == "CUDAExecutionProvider"
    assert options["use_tf32"] == "0"  # type: ignore[index]


def test_batches_are_cut_evenly() -> None:
    assert slices(10, 4) == [slice(0, 3), slice(3, 6), slice(6, 10)]
    assert slices(4, 4) == [slice(0, 4)] and slices(5, 1)[-1] == slice(4, 5)


def test_long_codes_are_encoded_alone_and_short_ones_together() -> None:
    assert [encode_chunk(config) for config in (MNIST, CIFAR10, IMAGENET256)] == [32, 16, 1]
    assert [parallel_chunk(config, "cpu") for config in (MNIST, CIFAR10, IMAGENET256)] == [1024, 64, 1]
    assert [parallel_chunk(config, "cuda") for config in (MNIST, CIFAR10, IMAGENET256)] == [32768, 2048, 16]


def test_large_chunks_share_idle_threads_and_never_have_more_than_there_are() -> None:
    assert [shared_threads(16, chunks) for chunks in (1, 2, 8, 9, 16)] == [16, 9, 9, 1, 1]
    assert [shared_threads(2, chunks) for chunks in (1, 2)] == [2, 1] and shared_threads(1, 1) == 1
    for num_threads in range(1, 20):
        for chunks in range(1, num_threads + 1):
            assert chunks + shared_threads(num_threads, chunks) - 1 <= num_threads


def test_a_few_photographs_are_encoded_by_more_threads_than_there_are_photographs() -> None:
    folder = open_model("daps-photo-256")
    opened, alone = (open_in("onnx", folder, num_threads=count) for count in (4, 1))
    two = np.random.default_rng(0).integers(0, 256, (2, *folder.config.input_shape), dtype=np.uint8)
    noise = np.random.default_rng(1).random((2, folder.config.num_tokens), dtype=np.float32)
    codes = opened.encode(two, noise, 1.0).codes
    assert list(opened._sessions) == [("encoder", 3)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(codes, alone.encode(two, noise, 1.0).codes)


def test_all_cores_of_this_machine_are_used_unless_told_otherwise(onnx: Backend) -> None:
    assert onnx.num_threads == physical_cores() >= 1  # type: ignore[attr-defined]


def test_an_unknown_backend_is_refused(folder: ModelFolder) -> None:
    with pytest.raises(BackendError, match="unknown backend 'jax'; accepted are auto, onnx, torch, tensorrt"):
        open_in("jax", folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_options_that_a_backend_does_not_have_are_refused(folder: ModelFolder, backend: str) -> None:
    with pytest.raises(BackendError, match=f"backend '{backend}' knows no device 'tpu'; accepted are cpu, cuda"):
        open_in(backend, folder, device="tpu")
    with pytest.raises(BackendError, match=f"backend '{backend}' has no dtype 'int8'; accepted (is|are) float32"):
        open_in(backend, folder, dtype="int8")
    with pytest.raises(BackendError, match="num_threads must be an integer of at least 1, not 0"):
        open_in(backend, folder, num_threads=0)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime can use CUDA"
)
def test_onnx_runtime_without_cuda_does_not_fall_back_to_the_cpu(folder: ModelFolder) -> None:
    with pytest.raises(BackendError, match="device 'cuda' needs onnxruntime-gpu"):
        OnnxBackend.open(folder, device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch can use CUDA")
def test_torch_without_cuda_does_not_fall_back_to_the_cpu(folder: ModelFolder) -> None:
    with pytest.raises(BackendError, match="device 'cuda' cannot be used: PyTorch finds no NVIDIA GPU"):
        TorchBackend.open(folder, device="cuda")


def test_a_gpu_with_too_little_memory_is_an_error(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend.open(folder)

    def no_memory(codes: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")

    monkeypatch.setattr(backend.model.generative, "forward", no_memory)
    for call in (backend.decode, backend.reconstruct):
        with pytest.raises(BackendError, match=r"too small \(CUDA out of memory.*2.00 GiB.\); use a smaller batch"):
            call(codes(4))


def test_a_missing_pytorch_is_an_error_that_says_what_to_install(folder: ModelFolder) -> None:
    program = f"""
import sys
sys.modules["torch"] = None  # importing it fails from now on, as if it were not installed
from pathlib import Path
from daps_tokenizer.backends import open_backend
from daps_tokenizer.hub import open_model
folder = open_model(Path({str(folder.path)!r}))
open_backend(folder, backend="auto", device=None, dtype="float32")
open_backend(folder, backend="torch", device=None, dtype="float32")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "BackendError: backend 'torch' needs PyTorch, which is not installed; install" in result.stderr


def test_a_model_in_the_hubs_cache_loads_though_its_files_are_links(folder: ModelFolder, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    for name, sha256 in folder.config.files.items():
        shutil.copy(folder.path / name, blobs / sha256)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / sha256)
    opened = open_in("onnx", ModelFolder(snapshot, folder.config))
    assert opened.encode(images(1), uniform(1), 0.0).codes.shape == (1, N)


@pytest.mark.parametrize("name", ["onnx/encoder.onnx", "onnx/weights.bin"])
def test_a_missing_graph_is_a_model_file_error(folder: ModelFolder, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder.path, tmp_path / "copy"))
    (copy / name).unlink()
    opened = open_in("onnx", open_model(copy))
    with pytest.raises(ModelFileError, match=f"has no {name}"):
        opened.encode(images(1), uniform(1), 0.0)


def test_a_graph_that_onnx_runtime_cannot_load_is_a_model_file_error(folder: ModelFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder.path, tmp_path / "copy"))
    (copy / "onnx" / "decoder.onnx").write_bytes(b"not a graph")
    sha256 = hashlib.sha256(b"not a graph").hexdigest()
    config = dataclasses.replace(folder.config, files=folder.config.files | {"onnx/decoder.onnx": sha256})
    with pytest.raises(ModelFileError, match=r"decoder.onnx: ONNX Runtime cannot load it \(.*\); export") as caught:
        open_in("onnx", ModelFolder(copy, config)).decode(codes(1))
    assert "\n" not in str(caught.value)
