"""Tokenizer: images to codes and back, with real graphs of a small model whose weights are random."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import BestOf, Codes, LocalSearch, Tokenizer
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.errors import CodesError, InputError, ModelFileError, OutputExistsError
from tests.paths import EXAMPLES


def digits(count: int, seed: int = 0) -> np.ndarray:
    """Something with strokes, (count, 28, 28, 1) uint8."""
    blurred = np.random.default_rng(seed).normal(size=(count, 7, 7, 1)).repeat(4, 1).repeat(4, 2)
    return np.where(blurred > 0.3, 255, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


@pytest.fixture(scope="module")
def grid(random_grid_folder: Path) -> Tokenizer:
    """A model of 16×16 pixels in colour whose codes lie on a grid."""
    return Tokenizer.from_pretrained(random_grid_folder)


def test_it_says_what_it_is(tok: Tokenizer) -> None:
    assert (tok.num_tokens, tok.vocab_size, tok.bits_per_item) == (8, 256, 64.0)
    assert tok.token_grid is None
    assert (tok.modality, tok.input_shape, tok.backend, tok.device) == ("image", (28, 28, 1), "onnx", "cpu")
    assert repr(tok) == f"Tokenizer({tok.config.name!r}, backend='onnx', device='cpu')"


def test_encode_gives_codes_of_every_image_and_decode_gives_images(tok: Tokenizer) -> None:
    codes = tok.encode(digits(3))
    assert isinstance(codes, Codes) and codes.shape == (3, 8) and codes.numpy().dtype == np.int32
    assert codes.model == tok.config.name and len(codes.weights_sha256) == 64
    reconstruction = tok.decode(codes)
    assert reconstruction.shape == (3, 28, 28, 1) and reconstruction.dtype == np.uint8
    np.testing.assert_array_equal(reconstruction, tok.reconstruct(digits(3)))


def test_an_image_has_the_same_codes_alone_and_in_a_batch(tok: Tokenizer) -> None:
    together = tok.encode(digits(5)).numpy()
    alone = np.concatenate([tok.encode(image).numpy() for image in digits(5)])
    np.testing.assert_array_equal(together, alone)


def test_paths_pil_images_tensors_and_lists_of_them_are_the_same_images(tok: Tokenizer, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    array = digits(1)[0]
    picture = Image.fromarray(array[..., 0])
    picture.save(tmp_path / "digit.png")
    expected = tok.encode(array).numpy()
    for same in (tmp_path / "digit.png", str(tmp_path / "digit.png"), picture, torch.from_numpy(array), [array]):
        np.testing.assert_array_equal(tok.encode(same).numpy(), expected)
    assert tok.encode([tmp_path / "digit.png", picture, array]).shape == (3, 8)


def test_samples_always_have_a_samples_axis(tok: Tokenizer) -> None:
    assert tok.sample(digits(2)).shape == (2, 1, 8)
    assert tok.sample(digits(2), num_samples=4).shape == (2, 4, 8)
    assert tok.decode(tok.sample(digits(2), num_samples=4)).shape == (2, 4, 28, 28, 1)


def test_the_seed_decides_the_samples(tok: Tokenizer) -> None:
    first, again, other = (tok.sample(digits(2), num_samples=3, seed=seed).numpy() for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[:, 0] != first[:, 1]).any()


def test_without_a_seed_samples_are_drawn_anew(tok: Tokenizer) -> None:
    assert (tok.sample(digits(4)).numpy() != tok.sample(digits(4)).numpy()).any()


def test_temperature_zero_is_greedy(tok: Tokenizer) -> None:
    greedy = tok.encode(digits(2)).numpy()
    np.testing.assert_array_equal(
        tok.sample(digits(2), num_samples=2, temperature=0.0).numpy(), greedy[:, None].repeat(2, 1)
    )


def test_log_prob_has_the_shape_of_the_codes_and_is_largest_where_sampling_is_likely(tok: Tokenizer) -> None:
    samples = tok.sample(digits(2), num_samples=3)
    log_q = tok.log_prob(digits(2), samples)
    assert log_q.shape == (2, 3) and (log_q < 0).all()
    np.testing.assert_allclose(tok.log_prob(digits(2), samples[:, 1]), log_q[:, 1], atol=1e-3)


def test_log_prob_is_the_sum_of_that_of_each_code(tok: Tokenizer) -> None:
    samples = tok.sample(digits(2), num_samples=3)
    per_code = tok.token_log_probs(digits(2), samples)
    assert per_code.shape == samples.shape == (2, 3, 8) and per_code.dtype == np.float32
    np.testing.assert_allclose(per_code.sum(-1), tok.log_prob(digits(2), samples), rtol=1e-6)
    greedy = tok.encode(digits(2))
    encoded = tok._backend.encode(digits(2), np.zeros((2, 8), np.float32), 0.0)
    np.testing.assert_allclose(tok.token_log_probs(digits(2), greedy), encoded.log_probs, atol=1e-4)


def test_log_likelihood_and_squared_error_agree_with_the_decoded_distribution(tok: Tokenizer) -> None:
    images = digits(3)
    codes = tok.encode(images)
    mean, variance = tok.decode_distribution(codes)
    assert mean.shape == variance.shape == (3, 28, 28, 1)
    x = images > 127
    expected = np.log(np.where(x, mean, 1 - mean)).sum((1, 2, 3))
    np.testing.assert_allclose(tok.likelihood(images, codes).log_likelihood, expected, rtol=1e-4)
    np.testing.assert_allclose(
        tok.likelihood(images, codes).squared_error, np.square(x - mean).sum((1, 2, 3)), rtol=1e-4
    )


def test_any_leading_shape_of_plain_integers_decodes(tok: Tokenizer) -> None:
    codes = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    assert tok.decode(codes).shape == (2, 3, 28, 28, 1)
    assert tok.decode(codes[0, 0]).shape == (28, 28, 1)
    assert len(tok.decode_to_pil(codes)) == 6


def test_tensors_and_grids_of_integers_decode_as_flat_arrays_do(grid: Tokenizer) -> None:
    torch = pytest.importorskip("torch")
    assert grid.token_grid == (4, 4)
    made = np.random.default_rng(0).integers(0, 16, (2, 3, 16))
    expected = grid.decode(made)
    assert expected.shape == (2, 3, 16, 16, 3)
    for same in (torch.from_numpy(made), made.reshape(2, 3, 4, 4), torch.from_numpy(made).reshape(2, 3, 4, 4)):
        np.testing.assert_array_equal(grid.decode(same), expected)
    for same in (made.astype(np.uint16), grid.codes(made), Codes(made, 16, "random-grid", "")):
        np.testing.assert_array_equal(grid.decode(same), expected)
    with pytest.raises(CodesError, match=r"codes have shape \(2, 8\); those of random-grid have \(\.\.\., 16\)"):
        grid.decode(np.zeros((2, 8), int))


def test_generated_integers_become_codes_of_the_model(grid: Tokenizer, tmp_path: Path) -> None:
    codes = grid.codes(np.zeros((2, 4, 4), np.int64))
    assert codes.shape == (2, 16) and codes.weights_sha256 == grid.config.weights_sha256
    codes.save(tmp_path / "made.daps")
    assert Codes.load(tmp_path / "made.daps") == codes == grid.codes(codes)
    layout = TileLayout(height=32, width=48, rows=2, columns=3)
    assert grid.decode(grid.codes(np.zeros((6, 16), int), layout=layout)).shape == (32, 48, 3)
    with pytest.raises(
        CodesError, match=r"code 16 at index \(0, 3\) is out of range: codes of 'random-grid' are 0 to 15"
    ):
        grid.codes(np.array([[0, 0, 0, 16] * 4]))
    with pytest.raises(CodesError, match="codes must be integers, not float64"):
        grid.codes(np.zeros((1, 16)))
    with pytest.raises(CodesError, match="codes must be integers, not a path"):
        grid.decode("made.daps")  # type: ignore[arg-type]


def test_floating_point_images_have_the_codes_of_their_bytes(grid: Tokenizer) -> None:
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected = grid.encode(images)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert grid.encode(floats, value_range=(0, 1)) == expected
    assert grid.encode(2 * floats.numpy() - 1, value_range=(-1, 1)) == expected
    np.testing.assert_array_equal(grid.targets(floats, value_range=(0, 1)), images)
    log_q = grid.log_prob(floats, expected, value_range=(0, 1))
    np.testing.assert_array_equal(log_q, grid.log_prob(images, expected))
    with pytest.raises(InputError, match=r"write tok\.encode\(images, value_range=\(0, 1\)\)$"):
        grid.encode(floats)


def test_an_array_of_the_models_size_is_read_and_never_written_to_or_kept(grid: Tokenizer) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *grid.input_shape), dtype=np.uint8)
    images.flags.writeable = False
    mirrored = images[:, :, ::-1]  # of another order in memory
    for array in (images, mirrored):
        codes = grid.encode(array)
        np.testing.assert_array_equal(codes.numpy(), grid.encode(list(array)).numpy())
        np.testing.assert_array_equal(grid.targets(array), array)
        assert not np.shares_memory(grid.targets(array), array) and grid.decode(codes).flags.writeable

    class Careless(LocalSearch):
        def find(self, backend: Any, inputs: np.ndarray, *arguments: Any, **options: Any) -> Any:
            inputs[...] = 0
            return super().find(backend, inputs, *arguments, **options)

    before = images.copy()
    grid.encode(images, search=Careless())
    np.testing.assert_array_equal(images, before)


def test_the_bytes_of_a_file_are_the_image_in_it(grid: Tokenizer) -> None:
    content = (EXAMPLES / "cat.png").read_bytes()
    assert grid.encode(content) == grid.encode([content]) == grid.encode(EXAMPLES / "cat.png")


def test_no_inputs_have_no_codes(tok: Tokenizer) -> None:
    nothing = tok.encode([])
    assert nothing.shape == (0, 8) and nothing == tok.encode(digits(1)[:0]) == tok.encode([], search=BestOf(2))
    assert tok.sample([], num_samples=3).shape == (0, 3, 8)
    assert tok.decode(nothing).shape == tok.reconstruct([]).shape == tok.targets([]).shape == (0, 28, 28, 1)
    assert tok.decode(tok.sample([], num_samples=3)).shape == (0, 3, 28, 28, 1) and tok.decode_to_pil(nothing) == []
    assert tok.log_prob([], nothing).shape == tok.likelihood([], nothing).squared_error.shape == (0,)
    assert tok.token_log_probs([], tok.sample([], num_samples=3)).shape == (0, 3, 8)
    assert tok.decode_distribution(nothing).mean.shape == (0, 28, 28, 1)
    assert tok.decode(tok.encode(digits(1).repeat(2, 1), fit="tile")[:0]).shape == (0, 56, 28, 1)
    assert tok.search([]).gain.shape == (0,)
    with pytest.raises(CodesError, match=r"codes of shape \(0, 8\) are not of 2 images"):
        tok.log_prob(digits(2), nothing)


def test_images_of_any_sizes_are_encoded_one_after_the_other(tok: Tokenizer) -> None:
    images = [np.zeros((28, 28), np.uint8), np.zeros((30, 60), np.uint8), np.zeros((28, 28), np.uint8)]
    codes = tok.encode_each(iter(images), fit="tile")
    assert [each.shape for each in codes] == [(1, 1, 8), (1, 6, 8), (1, 1, 8)]
    searched = next(tok.encode_each(digits(2), search=BestOf(2)))
    assert searched == tok.encode(digits(1), search=BestOf(2))
    broken = tok.encode_each([images[0], np.zeros((5, 4, 7), np.uint8)])
    assert next(broken).shape == (1, 8)
    with pytest.raises(InputError, match=r"^input 2: the image: shape \(5, 4, 7\) is not that of images"):
        next(broken)
    for single in ("cat.png", b"bytes", Path("cat.png"), Image.new("L", (28, 28))):
        with pytest.raises(
            InputError, match=r"encode_each takes a list or another iterable of inputs, not \w+; encode"
        ):
            tok.encode_each(single)  # type: ignore[arg-type]


def test_tiles_make_an_image_of_any_size_and_come_back_to_that_size(tok: Tokenizer) -> None:
    image = np.tile(digits(1)[0, ..., 0], (3, 2))[:70, :45]
    codes = tok.encode(image, fit="tile")
    assert codes.shape == (1, 6, 8) and codes.layout is not None
    assert tok.decode(codes).shape == (1, 70, 45, 1)
    np.testing.assert_array_equal(tok.targets(image, fit="tile")[0, ..., 0], image)
    np.testing.assert_array_equal(tok.encode(image[:28, :28]).numpy()[0], codes.numpy()[0, 0])
    assert tok.log_prob(image, codes, fit="tile").shape == (1,)
    samples = tok.sample(image, num_samples=2, fit="tile")
    assert samples.shape == (1, 2, 6, 8) and tok.decode(samples).shape == (1, 2, 70, 45, 1)
    assert tok.likelihood(image, samples, fit="tile").log_likelihood.shape == (1, 2)


def test_reconstructions_are_compared_with_black_and_white_where_the_model_knows_no_greys(tok: Tokenizer) -> None:
    greys = np.tile(np.array([0, 127, 128, 255], np.uint8), (28, 7))
    assert tok.targets(greys)[0, 0, :4, 0].tolist() == [0, 0, 255, 255]


def test_tiles_need_images_of_one_size(tok: Tokenizer) -> None:
    expected = r'images of one size, not 28×28 and 30×40; tok\.encode_each\(images, fit="tile"\) takes any sizes'
    with pytest.raises(InputError, match=expected):
        tok.encode([np.zeros((30, 40), np.uint8), np.zeros((28, 28), np.uint8)], fit="tile")


def test_eight_threads_give_the_codes_of_one(tok: Tokenizer) -> None:
    batches = [digits(4, seed) for seed in range(8)]
    expected = [tok.encode(batch).numpy() for batch in batches]
    found: dict[int, list[np.ndarray]] = {i: [] for i in range(8)}

    def work(i: int) -> None:
        for _ in range(5):
            found[i].append(tok.encode(batches[i]).numpy())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert len(found[i]) == 5
        for codes in found[i]:
            np.testing.assert_array_equal(codes, expected[i])


def test_codes_of_another_model_are_refused(tok: Tokenizer) -> None:
    codes = Codes(tok.encode(digits(1)).numpy(), vocab_size=256, model="another", weights_sha256="0" * 64)
    with pytest.raises(CodesError, match=r"made by another \(weights 000000000000\), not by .*use the model that made"):
        tok.decode(codes)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((1, 8), 256), "256"),
        (np.full((1, 8), -1), "-1"),
        (np.zeros((1, 7), int), r"codes have shape \(1, 7\); those of .* have \(\.\.\., 8\)"),
        (np.zeros((1, 8)), "integer"),
    ],
)
def test_codes_that_do_not_fit_the_model_are_refused(tok: Tokenizer, codes: np.ndarray, message: str) -> None:
    with pytest.raises(CodesError, match=message):
        tok.decode(codes)


def test_codes_of_another_number_of_images_are_refused(tok: Tokenizer) -> None:
    with pytest.raises(
        CodesError, match=r"codes of shape \(3, 8\) are not of 2 images; expected \(2, 8\) or \(2, S, 8\)"
    ):
        tok.log_prob(digits(2), tok.encode(digits(3)))
    with pytest.raises(CodesError, match="the codes have other tiles than the inputs"):
        tok.log_prob(digits(2), tok.encode(digits(2)), fit="tile")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be an integer of at least 1, not 0"),
        ({"num_samples": True}, "num_samples must be an integer of at least 1, not True"),
        ({"temperature": True}, "temperature must be a finite number of at least 0, not True"),
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number of at least 0, not nan"),
        ({"temperature": 1e300}, r"temperature must be a finite number of at least 0 and at most 3.40282e\+38, not 1e"),
        ({"seed": -3}, "seed must be an integer of at least 0, not -3"),
        ({"fit": "squeeze"}, "fit must be one of crop, pad, stretch, tile, not 'squeeze'"),
    ],
)
def test_impossible_options_are_refused(tok: Tokenizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tok.sample(digits(1), **options)  # type: ignore[arg-type]


def test_options_may_be_numpys_numbers(tok: Tokenizer) -> None:
    options = {"num_samples": np.int64(2), "temperature": np.float16(0.5), "seed": np.uint32(7)}
    expected = tok.sample(digits(2), num_samples=2, temperature=0.5, seed=7).numpy()
    np.testing.assert_array_equal(tok.sample(digits(2), **options).numpy(), expected)  # type: ignore[arg-type]


def test_tiles_that_do_not_fit_their_layout_are_refused(tok: Tokenizer) -> None:
    codes = tok.encode(np.zeros((28, 56, 1), np.uint8), fit="tile")
    layout = TileLayout(height=500, width=56, rows=1, columns=2)
    with pytest.raises(CodesError, match="2 tiles of 28×28 do not make an image of 500×56; expected 1×2 tiles"):
        tok.decode(dataclasses.replace(codes, layout=layout))


@pytest.mark.parametrize(
    ("search", "named"), [(LocalSearch, "the class LocalSearch"), (2, "2"), ("best", "'best'")], ids=str
)
def test_a_search_that_is_none_is_refused(tok: Tokenizer, search: Any, named: str) -> None:
    for method in (tok.encode, tok.search):
        with pytest.raises(InputError, match=rf"a search, such as LocalSearch\(\) or BestOf\(8\), not {named}$"):
            method(digits(1), search=search)


def test_a_saved_model_is_the_same_model(tok: Tokenizer, tmp_path: Path) -> None:
    saved = tok.save_pretrained(tmp_path / "copy")
    again = Tokenizer.from_pretrained(saved)
    assert again.config == tok.config
    np.testing.assert_array_equal(again.encode(digits(2)).numpy(), tok.encode(digits(2)).numpy())
    with pytest.raises(OutputExistsError, match="copy: already exists"):
        tok.save_pretrained(saved)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_graph_is_named(tok: Tokenizer, tmp_path: Path) -> None:
    saved = tok.save_pretrained(tmp_path / "copy")
    graph = saved / "onnx" / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"decoder\.onnx"):
        Tokenizer.from_pretrained(saved).decode(np.zeros((1, 8), int))
