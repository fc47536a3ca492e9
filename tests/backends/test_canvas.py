"""Graphs for grids of codes of any size compute what the network does, and a model folder may lack them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from daps_tokenizer import Codes, Tokenizer
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.protocol import Canvases
from daps_tokenizer.backends.tensorrt import TensorRTBackend
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.canvas import canvas_parameters, canvas_values
from export.canvas import canvas_failures, export_canvas, export_canvas_likelihood
from export.upsampling import with_convolutions
from tests.settings import TINY_GRID, TINY_MLP

FOLDER = open_model("daps-cifar10")
TOLERANCES = {"levels": 1.0, "log_likelihood": 1e-4}


@pytest.fixture(scope="module")
def onnx() -> OnnxBackend:
    return OnnxBackend.open(FOLDER, num_threads=1)


@pytest.fixture(scope="module")
def torch_(one_thread: None) -> TorchBackend:
    return TorchBackend.open(FOLDER)


@pytest.fixture(scope="module")
def earlier() -> ModelFolder:
    """The folder as an earlier version exported it."""
    files = {name: sha256 for name, sha256 in FOLDER.config.files.items() if "canvas" not in name}
    return ModelFolder(FOLDER.path, replace(FOLDER.config, files=files))


def random_codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, FOLDER.config.vocab_size, shape, dtype=np.int32)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 1, 1), (3, 5, 17), (1, 40, 3)])
def test_a_canvas_of_any_size_is_what_the_network_makes_of_it(
    onnx: OnnxBackend, torch_: TorchBackend, shape: tuple[int, int, int]
) -> None:
    codes = random_codes(*shape)
    images = np.random.default_rng(1).integers(0, 256, (shape[0], 4 * shape[1], 4 * shape[2], 3), dtype=np.uint8)
    ours, theirs = torch_.canvases, onnx.canvases
    assert ours.decode and ours.likelihood and theirs.decode and theirs.likelihood
    expected, found = ours.decode(codes), theirs.decode(codes)
    assert found.reconstruction.shape == images.shape and found.reconstruction.dtype == np.uint8
    np.testing.assert_allclose(found.reconstruction.astype(int), expected.reconstruction, atol=1)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-3)
    for one, other in zip(theirs.likelihood(images, codes), ours.likelihood(images, codes), strict=True):
        assert one.shape == codes.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_a_canvas_of_the_models_own_size_is_an_item_like_any_other(onnx: OnnxBackend) -> None:
    codes = random_codes(2, 8, 8)
    assert onnx.canvases.decode is not None
    decoded = onnx.canvases.decode(codes)
    for one, other in zip(decoded, onnx.decode(codes.reshape(2, 64)), strict=True):
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1e-5)


def test_a_folder_of_an_earlier_version_is_decoded_in_windows(onnx: OnnxBackend, earlier: ModelFolder) -> None:
    without = OnnxBackend.open(earlier, num_threads=1)
    assert without.canvases == Canvases(decode=None, likelihood=None)
    layout = TileLayout(height=60, width=90, rows=2, columns=3, overlap=0)
    photo = (127 + 100 * np.sin(np.mgrid[:60, :90].sum(0) / 9)).astype(np.uint8)[..., None].repeat(3, 2)
    codes = Tokenizer(FOLDER, onnx).encode(photo, fit="tile")
    assert isinstance(codes, Codes) and codes.layout == layout
    whole, windows = (Tokenizer(FOLDER, backend).decode(codes).astype(int) for backend in (onnx, without))
    assert np.abs(whole - windows).mean() < 1  # windows of 8×8 codes overlap by less than codes reach
    whole, windows = (Tokenizer(FOLDER, b).likelihood(photo, codes, fit="tile").log_likelihood for b in (onnx, without))
    np.testing.assert_allclose(whole, windows, rtol=0.01)


def test_a_graph_that_is_listed_must_be_there(tmp_path: Path) -> None:
    canvases = OnnxBackend.open(ModelFolder(tmp_path, FOLDER.config)).canvases
    assert canvases.decode and canvases.likelihood
    with pytest.raises(ModelFileError, match=r"has no onnx/canvas\.onnx; export it with"):
        canvases.decode(random_codes(1, 2, 2))
    with pytest.raises(ModelFileError, match=r"has no onnx/canvas_likelihood\.onnx; export it with"):
        canvases.likelihood(np.zeros((1, 8, 8, 3), np.uint8), random_codes(1, 2, 2))


def test_tensorrt_leaves_likelihoods_to_onnx_runtime_and_decodes_in_windows(onnx: OnnxBackend) -> None:
    cuda: Any = None  # neither takes a GPU
    canvases = TensorRTBackend(FOLDER, onnx, cuda, dtype="float16", info="").canvases
    assert canvases == Canvases(decode=None, likelihood=onnx.canvases.likelihood)


def test_the_check_of_an_export_names_the_canvas_graphs_that_are_wrong(
    onnx: OnnxBackend, torch_: TorchBackend, earlier: ModelFolder
) -> None:
    config = FOLDER.config
    assert list(canvas_failures(torch_, onnx, config, **TOLERANCES)) == []
    torch.manual_seed(0)
    other = TorchBackend(Autoencoder(config).eval().requires_grad_(False), device="cpu", dtype=torch.float32)
    decoding, judging = canvas_failures(other, onnx, config, **TOLERANCES)
    assert decoding.startswith("canvas.onnx: equal codes are decoded") and decoding.endswith("levels apart")
    assert judging.startswith("canvas_likelihood.onnx: log p of equal codes differs by a share of")
    assert list(canvas_failures(other, OnnxBackend.open(earlier), config, **TOLERANCES)) == []
    assert list(canvas_failures(other, onnx, TINY_MLP, **TOLERANCES)) == []


@pytest.mark.slow
def test_exported_graphs_take_any_size(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval().requires_grad_(False)
    decoding = with_convolutions(model)
    codes = np.random.default_rng(0).integers(0, TINY_GRID.vocab_size, (2, 4, 9), dtype=np.int32)
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 36, 3), dtype=np.uint8)
    decode, judge = (
        onnxruntime.InferenceSession(graph.SerializeToString())
        for graph in (export_canvas(decoding), export_canvas_likelihood(decoding))
    )
    assert [axis.shape for axis in judge.get_inputs()][1] == ["batch", "rows", "columns"]
    moments = model.likelihood.moments(canvas_parameters(model, torch.tensor(codes)))
    mean, variance = decode.run(["mean", "variance"], {"codes": codes})
    np.testing.assert_allclose(mean, moments.mean, atol=1e-5)
    np.testing.assert_allclose(variance, moments.variance, rtol=1e-4)
    expected = canvas_values(model, model.standardise(torch.tensor(images)), torch.tensor(codes))
    found = judge.run(["log_likelihood", "squared_error"], {"images": images, "codes": codes})
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
