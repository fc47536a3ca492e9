"""Tiles of one photograph are decoded as one grid of codes: no seams where they meet."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daps_tokenizer import BestOf, Codes, LocalSearch, Search, Tokenizer, TokenizerConfig
from daps_tokenizer.backends import BackendName
from daps_tokenizer.backends.onnx import OnnxBackend
from daps_tokenizer.backends.tiled import LONGEST_SIDE, TiledBackend, _block_shape, _spans, can_be_one_grid
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.config import NormalisationConfig
from daps_tokenizer.errors import CodesError, InputError
from daps_tokenizer.hub import ModelFolder, built_in_models, open_model
from daps_tokenizer.images.tiles import cut_tiles
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.paths import ROOT
from tests.settings import TINY_GRID, TINY_MLP, TINY_SURROUNDINGS

# A grid of 12×12 codes, large enough for windows that keep only what is exact: kernels reach 3 codes far.
GRID = replace(TINY_GRID, name="grid", input_shape=(48, 48, 3), num_tokens=144)
LAYOUT = TileLayout(height=90, width=96, rows=2, columns=2)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    return random_model(GRID)


def random_model(config: TokenizerConfig) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(config)
    for module in model.generative.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def backend(model: Autoencoder) -> TorchBackend:
    return TorchBackend(model, device="cpu", dtype=torch.float32)


@pytest.fixture(params=[16_384, 300], ids=["whole", "in blocks"])
def tiled(backend: TorchBackend, request: pytest.FixtureRequest) -> TiledBackend:
    """The same 24×24 codes at once and in blocks."""
    return TiledBackend(backend, GRID, LAYOUT, codes_at_once=request.param)


def random_codes(count: int, config=GRID) -> np.ndarray:
    return np.random.default_rng(0).integers(0, config.vocab_size, (count, config.num_tokens)).astype(np.int32)


def as_grid(tiles: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows · columns, a, b, ...) to (rows · a, columns · b, ...), the long way."""
    return np.concatenate(
        [np.concatenate(list(tiles[row * columns : (row + 1) * columns]), axis=1) for row in range(rows)]
    )


@given(side=st.integers(4, 40), extra=st.integers(0, 90), margin=st.integers(0, 10))
def test_blocks_keep_every_cell_once_and_none_near_an_inner_edge(side: int, extra: int, margin: int) -> None:
    margin, size = min(margin, side // 4), side + extra
    spans = _spans(size, side, margin)
    assert [cell for span in spans for cell in range(span.first, span.stop)] == list(range(size))
    for span in spans:
        assert span.start >= 0 and span.end == span.start + side <= size
        assert span.start == 0 or span.first >= span.start + margin
        assert span.start + side == size or span.stop <= span.start + side - margin


@given(rows=st.integers(1, 2000), columns=st.integers(1, 2000), reach=st.integers(3, 40))
def test_blocks_are_no_larger_than_memory_allows_and_one_where_that_is_enough(
    rows: int, columns: int, reach: int
) -> None:
    shape = _block_shape((rows, columns), reach)
    assert shape[0] <= rows and shape[1] <= columns and shape[0] * shape[1] <= 16_384 and max(shape) <= LONGEST_SIDE
    if rows * columns <= 16_384 and max(rows, columns) <= LONGEST_SIDE:
        assert shape == (rows, columns)


def test_blocks_of_12_megapixels_overlap_little() -> None:
    grid = (375, 500)
    shape = _block_shape(grid, 6)
    blocks = math.prod(len(_spans(size, side, 6)) for size, side in zip(grid, shape, strict=True))
    assert blocks * math.prod(shape) < 1.2 * math.prod(grid)


def test_tiles_are_decoded_as_the_network_decodes_the_whole_grid(
    model: Autoencoder, backend: TorchBackend, tiled: TiledBackend
) -> None:
    codes = random_codes(8)  # two images
    decoded, images = tiled.decode(codes), tiled.images(codes)
    np.testing.assert_array_equal(tiled.reconstruct(codes), decoded.reconstruction)
    for image in range(2):
        rows = slice(4 * image, 4 * image + 4)
        grid = as_grid(codes[rows].reshape(4, 12, 12), 2, 2)
        moments = model.likelihood.moments(model.generative(torch.tensor(grid.reshape(1, -1))))
        for ours, expected in ((decoded.mean, moments.mean), (decoded.variance, moments.variance)):
            np.testing.assert_allclose(as_grid(ours[rows], 2, 2), expected[0].numpy(), atol=1e-5)
        expected_pixels = model.to_input_units(moments.mean)[0].numpy()
        np.testing.assert_allclose(as_grid(decoded.reconstruction[rows], 2, 2), expected_pixels, atol=1)
        whole = as_grid(decoded.reconstruction[rows], 2, 2).astype(int)
        np.testing.assert_allclose(images[image], whole[:90], atol=1)
    apart = backend.decode(codes).mean
    assert np.abs(apart - decoded.mean).max() > 0.1  # which is what a seam is


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 53), (49, 97), (60, 30)])
def test_codes_beyond_the_image_are_decoded_only_as_far_as_they_reach_into_it(
    backend: TorchBackend, height: int, width: int
) -> None:
    rows, columns = math.ceil(height / 48), math.ceil(width / 48)
    layout, codes = TileLayout(height, width, rows, columns), random_codes(rows * columns)
    tiled = TiledBackend(backend, GRID, layout)
    whole = as_grid(tiled.decode(codes).reconstruction, rows, columns).astype(int)
    np.testing.assert_allclose(tiled.images(codes)[0], whole[:height, :width], atol=1)


def test_the_likelihood_of_tiles_is_that_of_the_whole_grid(model: Autoencoder, tiled: TiledBackend) -> None:
    codes = random_codes(4)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
    found = tiled.likelihood(pixels, codes)
    parameters = model.generative(torch.tensor(as_grid(codes.reshape(4, 12, 12), 2, 2).reshape(1, -1)))
    x = model.standardise(torch.tensor(as_grid(pixels, 2, 2)[None]))
    log_p = model.likelihood.log_prob(parameters, x)[0].numpy()
    error = (x - model.likelihood.moments(parameters).mean).square()[0].numpy()
    for ours, expected in ((found.log_likelihood, log_p), (found.squared_error, error)):
        cells = expected.reshape(24, 4, 24, 4, 3).sum((1, 3, 4))
        np.testing.assert_allclose(as_grid(ours.reshape(4, 12, 12), 2, 2), cells, rtol=1e-4, atol=1e-3)


def test_one_tile_is_decoded_as_ever(backend: TorchBackend) -> None:
    codes = random_codes(3)
    tiled = TiledBackend(backend, GRID, TileLayout(height=48, width=48, rows=1, columns=1))
    np.testing.assert_array_equal(tiled.decode(codes).mean, backend.decode(codes).mean)
    np.testing.assert_array_equal(tiled.images(codes), backend.decode(codes).reconstruction)


def test_which_tiles_make_one_grid(backend: TorchBackend) -> None:
    assert can_be_one_grid(GRID) and not can_be_one_grid(TINY_MLP)
    assert TiledBackend(backend, GRID, LAYOUT).tiles_per_item == 4 and backend.tiles_per_item == 1


def test_a_layout_that_contradicts_itself_is_refused(tok: Tokenizer) -> None:
    layout = TileLayout(height=500, width=90, rows=2, columns=2)
    codes = Codes(random_codes(4)[None], GRID.vocab_size, "grid", "", layout)
    with pytest.raises(CodesError, match="4 tiles of 48×48 do not make an image of 500×90"):
        tok.decode(codes)


@pytest.fixture(scope="module")
def tok(backend: TorchBackend, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(ModelFolder(tmp_path_factory.mktemp("unused"), GRID), backend)


def smooth(height: int, width: int) -> np.ndarray:
    y, x, channel = np.ogrid[:height, :width, :3]
    return (127 + 100 * np.sin(y / 9 + channel) * np.cos(x / 13)).astype(np.uint8)


@pytest.mark.parametrize("size", [(48, 48), (1, 1), (20, 100), (97, 49), (130, 60)])
def test_images_of_any_size_come_back_in_their_size(tok: Tokenizer, size: tuple[int, int]) -> None:
    codes = tok.encode(smooth(*size), fit="tile")
    tiles = math.ceil(size[0] / 48) * math.ceil(size[1] / 48)
    assert codes.shape == (1, tiles, 144)
    assert tok.decode(codes).shape == (1, *size, 3)
    assert tok.sample(smooth(*size), num_samples=2, fit="tile").shape == (1, 2, tiles, 144)


@pytest.mark.parametrize("tiles_at_once", [3, 64])
def test_a_photograph_in_tiles_has_the_codes_that_it_has_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, tiles_at_once: int
) -> None:
    """Windows see the pixels around them across the borders of tiles."""
    monkeypatch.setattr("daps_tokenizer.backends.tiled._TILES_AT_ONCE", tiles_at_once)
    bytes_as_means = NormalisationConfig((0.2, 0.4, 0.6), (0.25,) * 3)  # 51, 102 and 153: zeros can be given exactly
    tile = replace(TINY_SURROUNDINGS, normalisation=bytes_as_means)
    whole = replace(tile, name="whole", input_shape=(32, 32, 3), num_tokens=64)
    tiles, model = (TorchBackend(random_model(config), device="cpu", dtype=torch.float32) for config in (tile, whole))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    layout = TileLayout(height=32, width=32, rows=2, columns=2)
    tiled = TiledBackend(tiles, tile, layout)
    cut = np.concatenate([cut_tiles(image, 16, 16)[0] for image in images])
    uniform = np.random.default_rng(1).random((2, 8, 8), np.float32)

    def by_tile(grids: np.ndarray) -> np.ndarray:
        return grids.reshape(2, 2, 4, 2, 4, *grids.shape[3:]).swapaxes(2, 3).reshape(8, 16, *grids.shape[3:])

    for temperature in (0.0, 1.0):
        codes, log_probs = tiled.encode(cut, by_tile(uniform), temperature)
        expected = model.encode(images, uniform.reshape(2, 64), temperature)
        np.testing.assert_array_equal(codes, by_tile(expected.codes.reshape(2, 8, 8)))
        np.testing.assert_allclose(log_probs, by_tile(expected.log_probs.reshape(2, 8, 8)), atol=1e-5)
        scored, top = tiled.score(cut, codes, 2), model.score(images, expected.codes, 2).top_codes
        np.testing.assert_allclose(scored.log_probs, log_probs, atol=1e-5)
        np.testing.assert_array_equal(scored.top_codes, by_tile(top.reshape(2, 8, 8, 2)))
        assert (codes != tiles.encode(cut, by_tile(uniform), temperature).codes).any()  # each by itself


def test_tiles_of_a_part_of_an_image_are_refused(random_grid_folder: Path) -> None:
    config = Tokenizer.from_pretrained(random_grid_folder).config
    layout = TileLayout(height=32, width=32, rows=2, columns=2)
    tiled = TiledBackend(OnnxBackend.open(open_model(random_grid_folder)), config, layout)
    with pytest.raises(InputError, match="expected whole images of 4 tiles, not 3 tiles"):
        tiled.encode(np.zeros((3, 16, 16, 3), np.uint8), np.zeros((3, 16), np.float32), 0.0)


def test_a_photograph_of_one_tile_is_encoded_as_it_is_without_tiles(random_grid_folder: Path) -> None:
    tok, image = Tokenizer.from_pretrained(random_grid_folder), smooth(16, 16)
    assert (tok.encode(image, fit="tile").numpy()[:, 0] == tok.encode(image).numpy()).all()


@pytest.mark.parametrize("backend_name", ["onnx", "torch"])
def test_every_backend_sees_across_the_borders_of_tiles(random_grid_folder: Path, backend_name: BackendName) -> None:
    tok = Tokenizer.from_pretrained(random_grid_folder, backend=backend_name)
    image = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    codes = tok.encode(image, fit="tile")
    before = tok.token_log_probs(image, codes, fit="tile")
    image[15, :] = 255 - image[15, :]  # the last row of the first tiles
    changed = (tok.token_log_probs(image, codes, fit="tile") != before).reshape(3, 2, -1).any((1, 2))
    assert changed.tolist() == [True, True, False]


def test_samples_of_tiled_images_are_decoded_and_judged_one_by_one(tok: Tokenizer) -> None:
    images = np.stack([smooth(60, 60), smooth(60, 60)[::-1]])
    samples = tok.sample(images, num_samples=2, fit="tile")
    decoded, log_p = tok.decode(samples), tok.likelihood(images, samples, fit="tile").log_likelihood
    assert decoded.shape == (2, 2, 60, 60, 3) and log_p.shape == (2, 2)
    for image, sample in itertools.product(range(2), range(2)):
        one = samples[image : image + 1, sample]
        np.testing.assert_array_equal(decoded[image, sample], tok.decode(one)[0])
        alone = tok.likelihood(images[image], one, fit="tile").log_likelihood[0]
        assert math.isclose(log_p[image, sample], alone, rel_tol=1e-6)


def test_what_is_decoded_is_what_is_judged(tok: Tokenizer) -> None:
    images = smooth(96, 96)
    codes = tok.encode(images, fit="tile")
    mean = tok.decode_distribution(codes).mean
    cut = np.stack([images[y : y + 48, x : x + 48] for y in (0, 48) for x in (0, 48)])
    standardised = (cut / 255 - np.array(GRID.normalisation.mean)) / np.array(GRID.normalisation.std)
    expected = np.square(standardised - mean).sum()
    assert math.isclose(tok.likelihood(images, codes, fit="tile").squared_error[0], expected, rel_tol=1e-4)


@pytest.mark.parametrize("objective", ["log_likelihood", "squared_error"])
def test_local_search_never_makes_a_tiled_image_worse(tok: Tokenizer, objective: str) -> None:
    images = smooth(90, 48)
    greedy = tok.encode(images, fit="tile")
    searched = tok.encode(images, fit="tile", search=LocalSearch(objective=objective))
    judge = {
        "log_likelihood": lambda *a, **k: tok.likelihood(*a, **k).log_likelihood,
        "squared_error": lambda *a, **k: -tok.likelihood(*a, **k).squared_error,
    }
    before, after = (judge[objective](images, codes, fit="tile")[0] for codes in (greedy, searched))
    assert after > before


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer with tiles of 4×4 codes, most of which change pixels of a neighbouring tile too."""
    backend = TorchBackend(random_model(TINY_GRID), device="cpu", dtype=torch.float32)
    return Tokenizer(ModelFolder(tmp_path_factory.mktemp("unused"), TINY_GRID), backend)


@pytest.mark.parametrize(
    "search",
    [
        LocalSearch(proposals=1),
        LocalSearch(proposals=1, objective="squared_error"),
        BestOf(3, temperature=0.5, seed=0),
        BestOf(3, temperature=1.0, seed=1),
    ],
    ids=["local, log p", "local, squared error", "best of 3, cool", "best of 3, warm"],
)
def test_none_of_many_tiled_images_becomes_worse(small: Tokenizer, search: Search) -> None:
    """What is best for each tile is worse for some of these images, which go back to their greedy codes."""
    areas = np.random.default_rng(0).integers(0, 256, (16, 4, 2, 3), dtype=np.uint8)
    images = areas.repeat(8, 1).repeat(8, 2)  # two tiles each
    codes = [small.encode(images, fit="tile", search=one) for one in (None, search)]
    likelihoods = [small.likelihood(images, each, fit="tile") for each in codes]
    before, after = (
        -each.squared_error if getattr(search, "objective", "") == "squared_error" else each.log_likelihood
        for each in likelihoods
    )
    assert (after >= before).all() and (after > before).any()


def test_a_list_has_a_seed_for_each_photograph_and_not_for_each_tile(small: Tokenizer) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 40, 3), dtype=np.uint8)
    together = small.encode(images, fit="tile", search=BestOf(3, seed=[5, 6, 5]))
    for image, codes, seed in zip(images, together, (5, 6, 5), strict=True):
        alone = small.encode(image, fit="tile", search=BestOf(3, seed=seed))
        np.testing.assert_array_equal(codes.numpy(), alone.numpy()[0])


_TWELVE_MEGAPIXELS = """
import sys
from pathlib import Path
import numpy as np
from daps_tokenizer import Tokenizer

tok = Tokenizer.from_pretrained(sys.argv[1], num_threads=1)
y, x, channel = np.ogrid[:3000, :4000, :3]
photo = ((y * 7 + x * 5 + channel * 40) % 256).astype(np.uint8)
codes = tok.encode(photo, fit="tile")
assert tok.decode(codes).shape == (1, 3000, 4000, 3)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])  # not getrusage, whose maximum is inherited from the process that started this one
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory that Linux tells")
@pytest.mark.skipif("daps-photo-256" not in built_in_models(), reason="needs the photo tokenizer")
def test_a_photograph_of_12_megapixels_takes_less_than_a_gigabyte() -> None:
    command = [sys.executable, "-c", _TWELVE_MEGAPIXELS, "daps-photo-256"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(found.stdout) * 1024 < 1e9
