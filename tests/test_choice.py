"""What ``backend="auto"`` takes, and what ``daps-tokenize info`` says of it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from daps_tokenizer.backends import open_backend
from daps_tokenizer.backends.choice import advice, runtimes
from daps_tokenizer.backends.gpus import Gpu, find_gpu
from daps_tokenizer.cli import main
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model

without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="this machine has an NVIDIA GPU")


def test_an_architecture_is_written_as_compilers_write_it() -> None:
    assert Gpu("NVIDIA H200", (9, 0), (13, 0)).architecture == "sm_90"


def test_every_backend_is_listed_on_every_device_it_knows() -> None:
    listed = [(runtime.backend, runtime.device) for runtime in runtimes()]
    assert listed == [("torch", "cuda"), ("tensorrt", "cuda"), ("onnx", "cuda"), ("onnx", "cpu"), ("torch", "cpu")]


@without_gpu
def test_without_a_gpu_onnx_runtime_is_taken_and_nothing_would_be_faster(random_mnist_folder: Path) -> None:
    usable = [runtime for runtime in runtimes() if not runtime.missing]
    assert (usable[0].backend, usable[0].device) == ("onnx", "cpu") and advice() == []
    opened = open_backend(open_model(random_mnist_folder), backend="auto", device=None, dtype="float32")
    assert (opened.name, opened.device) == ("onnx", "cpu")


@without_gpu
def test_asking_for_a_gpu_that_is_not_there_says_what_each_backend_lacks(random_mnist_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"device 'cuda' cannot be used by any backend \(torch: .*; onnx: .*\)"):
        open_backend(open_model(random_mnist_folder), backend="auto", device="cuda", dtype="float32")


@without_gpu
def test_info_names_the_default_and_what_would_be_faster() -> None:
    shown = json.loads(CliRunner().invoke(main, ["info", "--json"]).output)
    assert shown["backends"][0].startswith("onnx on cpu (onnxruntime ") and shown["backends"][0].endswith("the default")
    assert shown["faster_here"] == ["nothing: there is no NVIDIA GPU here"]
