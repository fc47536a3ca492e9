"""Backends on an NVIDIA GPU, against ONNX Runtime on the CPU; skipped where there is none."""

import warnings

import numpy as np
import pytest
import torch

from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.choice import runtimes
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.evaluation.timing import synthetic_inputs
from daps_tokenizer.hub import open_model
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.modalities import open_modality

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
ON_GPU = ["torch", "tensorrt", "onnx"]
MODELS = ["daps-photo-256", "daps-cifar10", "daps-mnist", "daps-h1-motion", "daps-g1-motion"]


def open_on_gpu(backend: str, model: str, dtype: str = "float32") -> Backend:
    missing = {runtime.backend: runtime.missing for runtime in runtimes() if runtime.device == "cuda"}[backend]
    if missing:
        pytest.skip(missing)
    return open_backend(open_model(model), backend=backend, device="cuda", dtype=dtype)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("backend", ON_GPU)
def test_codes_are_those_of_the_cpu_but_for_near_ties(backend: str, model: str, temperature: float) -> None:
    folder = open_model(model)
    inputs = synthetic_inputs(5, folder.config)  # no power of two
    inputs = open_modality(folder.config).prepare(inputs, InputOptions()).pieces
    uniform = np.random.default_rng(0).random((5, folder.config.num_tokens), dtype=np.float32)
    expected = open_backend(folder, backend="onnx", device="cpu", dtype="float32").encode(inputs, uniform, temperature)
    encoded = open_on_gpu(backend, model).encode(inputs, uniform, temperature)
    assert encoded.codes.shape == expected.codes.shape and encoded.codes.dtype == np.int32
    assert (encoded.codes == expected.codes).mean() > 0.99


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_fused_kernel_is_trusted_on_this_gpu(dtype: str) -> None:
    pytest.importorskip("triton")
    opened = open_on_gpu("torch", "daps-cifar10", dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened.encode(synthetic_inputs(1, open_model("daps-cifar10").config), np.zeros((1, 64), np.float32), 0.0)
    assert "then by a fused kernel" in opened.info
