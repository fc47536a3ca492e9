"""Decoding and judging take grids of codes: of any size, where the generative model is convolutional."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.backends.tensorrt import TensorRTBackend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.model.autoencoder import Autoencoder
from export.check import grid_failures
from tests.settings import TINY_MLP

FOLDER = open_model("daps-cifar10")


@pytest.fixture(scope="module")
def onnx_() -> OnnxBackend:
    return OnnxBackend.open(FOLDER, num_threads=1)


@pytest.fixture(scope="module")
def torch_() -> TorchBackend:
    return TorchBackend.open(FOLDER)


def random_codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, FOLDER.config.vocab_size, shape, dtype=np.int32)


def random_images(codes: np.ndarray) -> np.ndarray:
    size = (len(codes), 4 * codes.shape[1], 4 * codes.shape[2], 3)
    return np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 1, 1), (3, 5, 17), (1, 40, 3)])
def test_a_grid_of_any_size_is_what_the_network_makes_of_it(
    onnx_: OnnxBackend, torch_: TorchBackend, shape: tuple[int, int, int]
) -> None:
    codes = random_codes(*shape)
    images = random_images(codes)
    expected, found = torch_.decode(codes), onnx_.decode(codes)
    assert found.reconstruction.shape == images.shape and found.reconstruction.dtype == np.uint8
    np.testing.assert_allclose(found.reconstruction.astype(int), expected.reconstruction, atol=1)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-3)
    for one, other in zip(onnx_.likelihood(images, codes), torch_.likelihood(images, codes), strict=True):
        assert one.shape == other.shape == codes.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("backend", ["onnx_", "torch_"])
def test_codes_of_an_item_are_a_grid_of_the_models_own_size(backend: str, request: pytest.FixtureRequest) -> None:
    opened: Backend = request.getfixturevalue(backend)
    grid = random_codes(2, 8, 8)
    items, images = grid.reshape(2, 64), random_images(grid)
    for one, other in zip(opened.decode(grid), opened.decode(items), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(opened.likelihood(images, grid), opened.likelihood(images, items), strict=True):
        assert one.shape == (2, 8, 8) and other.shape == (2, 64)
        np.testing.assert_array_equal(one.reshape(2, 64), other)


@pytest.mark.parametrize("backend", [OnnxBackend, TorchBackend])
def test_codes_without_a_place_in_an_image_are_one_row(backend: type) -> None:
    folder = open_model("daps-mnist")
    opened, config = backend.open(folder), folder.config
    codes = np.random.default_rng(0).integers(0, config.vocab_size, (2, config.num_tokens), dtype=np.int32)
    np.testing.assert_array_equal(opened.decode(codes[:, None]).mean, opened.decode(codes).mean)
    np.testing.assert_array_equal(opened.reconstruct(codes[:, None]), opened.decode(codes).reconstruction)
    images = np.zeros((2, *config.input_shape), np.uint8)
    assert opened.likelihood(images, codes[:, None]).log_likelihood.shape == (2, 1, config.num_tokens)


def test_tensorrt_leaves_grids_that_are_longer_than_its_engine_takes_to_onnx_runtime(onnx_: OnnxBackend) -> None:
    cuda: Any = None  # not reached
    codes = random_codes(1, 2, 300)
    opened = TensorRTBackend(FOLDER, onnx_, cuda, dtype="float16", info="")
    np.testing.assert_array_equal(opened.decode(codes).mean, onnx_.decode(codes).mean)
    np.testing.assert_array_equal(opened.reconstruct(codes), onnx_.reconstruct(codes))


def test_a_folder_that_an_earlier_version_exported_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    codes, mean = (onnx.helper.make_tensor_value_info(name, 1, ["batch", 64]) for name in ("codes", "mean"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["codes"], ["mean"])], "decoder", [codes], [mean])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "onnx" / "decoder.onnx")
    (tmp_path / "onnx" / "weights.bin").write_bytes(b"")
    names = ("onnx/decoder.onnx", "onnx/weights.bin")
    files = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    earlier = ModelFolder(tmp_path, dataclasses.replace(FOLDER.config, files=files))
    with pytest.raises(ModelFileError, match=r"decoder\.onnx: (has no|input|output) .*; export the model again"):
        OnnxBackend.open(earlier).decode(random_codes(1, 8, 8))


def test_the_check_of_an_export_names_the_graphs_that_are_wrong_on_grids(
    onnx_: OnnxBackend, torch_: TorchBackend
) -> None:
    assert list(grid_failures(torch_, onnx_, FOLDER.config)) == []
    torch.manual_seed(0)
    model = Autoencoder(FOLDER.config).eval().requires_grad_(False)
    other = TorchBackend(model, device="cpu", dtype=torch.float32)
    decoding, judging = grid_failures(other, onnx_, FOLDER.config)
    assert decoding.startswith("decoder.onnx: a grid of 9×5 codes is decoded") and decoding.endswith("levels apart")
    assert judging.startswith("likelihood.onnx: log p of a grid of 9×5 codes differs by a share of")
    assert list(grid_failures(other, onnx_, TINY_MLP)) == []
