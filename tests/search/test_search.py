"""Search never makes codes worse in its objective, and more candidates never hurt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import BestOf, DapsError, LocalSearch, Search, Tokenizer
from daps_tokenizer.backends.protocol import CellLikelihood, Encoded
from daps_tokenizer.errors import InputError
from daps_tokenizer.search.base import Found
from tests.paths import EXAMPLES
from tests.settings import MNIST
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


def test_the_best_of_one_is_greedy(tok: Tokenizer) -> None:
    np.testing.assert_array_equal(tok.encode(digits(4), search=BestOf(1)).numpy(), tok.encode(digits(4)).numpy())


def test_the_best_of_more_explains_every_image_at_least_as_well(tok: Tokenizer) -> None:
    images = digits(6)
    values = [
        tok.likelihood(images, tok.encode(images, search=BestOf(n, temperature=1.0))).log_likelihood for n in (1, 2, 8)
    ]
    assert (values[1] >= values[0]).all() and (values[2] >= values[0]).all()
    assert (values[2] > values[0]).any()


class TwoCodes:
    """A backend whose sample explains an input better than its greedy codes, but by little of a large sum."""

    tiles_per_item = 1

    def encode(self, inputs: np.ndarray, uniform: np.ndarray, temperature: float) -> Encoded:
        codes = np.full(uniform.shape, temperature > 0, np.int32)
        return Encoded(codes, np.zeros(codes.shape, np.float32))

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        cells = np.zeros(codes.shape, np.float32)
        cells[:, 0], cells[:, 1] = -80_000.0, np.where(codes[:, 0] == 1, -0.001, -0.003)
        return CellLikelihood(cells, cells)


def test_sums_are_finer_than_float32() -> None:
    found = BestOf(2).find(TwoCodes(), digits(3), MNIST)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.codes, np.ones((3, MNIST.num_tokens)))


def test_numbers_may_be_numpys(tok: Tokenizer) -> None:
    search = BestOf(np.int64(2), temperature=np.float32(0.5), seed=np.uint8(3))  # type: ignore[arg-type]
    expected = tok.encode(digits(2), search=BestOf(2, temperature=0.5, seed=3)).numpy()
    np.testing.assert_array_equal(tok.encode(digits(2), search=search).numpy(), expected)


def test_the_same_search_finds_the_same_codes(tok: Tokenizer) -> None:
    search = BestOf(4, temperature=1.0, seed=3)
    np.testing.assert_array_equal(
        tok.encode(digits(3), search=search).numpy(), tok.encode(digits(3), search=search).numpy()
    )


@pytest.mark.parametrize("search", [BestOf(4, temperature=1.0), LocalSearch()], ids=str)
@pytest.mark.parametrize("tiles", [1, 2])
def test_the_result_says_what_was_gained_and_what_it_cost(tok: Tokenizer, search: Search, tiles: int) -> None:
    images = digits(4).reshape(-1, 28 * tiles, 28, 1)
    options: dict[str, Any] = {"fit": "tile"} if tiles > 1 else {}
    found = tok.search(images, search, **options)
    assert found.codes == tok.encode(images, search=search, **options) and found.greedy == tok.encode(images, **options)
    before, after = (tok.likelihood(images, z, **options).log_likelihood for z in (found.greedy, found.codes))
    np.testing.assert_allclose(found.gain, after - before, atol=1e-3)
    assert found.gain.shape == (len(images),) and (found.gain >= 0).all() and found.gain.any()
    assert found.decodes == (4 if isinstance(search, BestOf) else 1 + 8 * 2 + 1) and found.seconds > 0


@pytest.mark.parametrize("search", [BestOf(3, temperature=1.0), LocalSearch()], ids=str)
def test_tiles_that_see_each_other_gain_together(random_grid_folder: Path, search: Search) -> None:
    tok = Tokenizer.from_pretrained(random_grid_folder)
    image = np.asarray(Image.open(EXAMPLES / "cat.png").convert("RGB").resize((48, 32)))
    found = tok.search(image, search, fit="tile")
    before, after = (tok.likelihood(image, z, fit="tile").log_likelihood for z in (found.greedy, found.codes))
    assert found.codes.shape == (1, 6, 16) and found.gain.shape == (1,)
    np.testing.assert_allclose(found.gain, after - before, rtol=1e-5)
    assert found.decodes == (4 if isinstance(search, BestOf) else 1 + 9 * 2 + 1)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros((2, 8), int), "find of a search must return a Found, not ndarray"),
        (Found(np.zeros((2, 8)), np.zeros((2, 7)), np.zeros(2), 1, 0.0), r"codes of shape \(2, 8\), not \(2, 7\)"),
        (Found(np.zeros((2, 8)), np.zeros((2, 8)), np.zeros(()), 1, 0.0), r"gain of shape \(2,\), not \(\)"),
        (Found(np.zeros((2, 8)), np.zeros((2, 8)), np.zeros(2), 1, 0.0), "codes must be integers, not float64"),
    ],
)
def test_a_search_of_ones_own_that_finds_something_else_is_refused(tok: Tokenizer, found: Any, message: str) -> None:
    class Own:
        def find(self, *arguments: Any, **options: Any) -> Any:
            return found

    with pytest.raises(DapsError, match=message):
        tok.encode(digits(2), search=Own())


def test_without_a_search_that_is_named_it_is_local_search(tok: Tokenizer) -> None:
    shares: list[float] = []
    assert tok.search(digits(2), on_progress=shares.append).codes == tok.encode(digits(2), search=LocalSearch())
    assert shares[-1] == 1.0


def test_every_tile_gets_a_search_of_its_own(tok: Tokenizer) -> None:
    image = np.concatenate([*digits(2)], axis=1)
    assert tok.encode(image, fit="tile", search=BestOf(2)).shape == (1, 2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "at least 1, not 0"),
        ({"num_samples": 2.5}, "not 2.5"),
        ({"num_samples": True}, "not True"),
        ({"num_samples": np.float64(2.0)}, r"not np.float64\(2.0\)"),
        ({"num_samples": 2, "temperature": -1}, "temperature must be"),
        ({"num_samples": 2, "temperature": True}, "temperature must be"),
        ({"num_samples": 2, "temperature": np.float32("nan")}, "temperature must be"),
        ({"num_samples": 2, "seed": -1}, "seed must be"),
        ({"num_samples": 2, "seed": np.True_}, "seed must be"),
    ],
)
def test_an_impossible_search_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BestOf(**options)  # type: ignore[arg-type]


def test_more_candidates_than_memory_holds_are_refused() -> None:
    tok = Tokenizer.from_pretrained("daps-mnist")
    with pytest.raises(InputError, match="100,000,000 samples of 8 codes take 3 GiB of random numbers; use fewer"):
        tok.encode(digits(1), search=BestOf(100_000_000))
