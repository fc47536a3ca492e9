"""Search never makes codes worse in its objective, and more candidates never hurt."""

from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import BestOf, Tokenizer
from daps_tokenizer.errors import InputError
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


def test_the_best_of_one_is_greedy(tok: Tokenizer) -> None:
    np.testing.assert_array_equal(tok.encode(digits(4), search=BestOf(1)).numpy(), tok.encode(digits(4)).numpy())


def test_the_best_of_more_explains_every_image_at_least_as_well(tok: Tokenizer) -> None:
    images = digits(6)
    values = [tok.log_likelihood(images, tok.encode(images, search=BestOf(n, temperature=1.0))) for n in (1, 2, 8)]
    assert (values[1] >= values[0]).all() and (values[2] >= values[0]).all()
    assert (values[2] > values[0]).any()


def test_the_same_search_finds_the_same_codes(tok: Tokenizer) -> None:
    search = BestOf(4, temperature=1.0, seed=3)
    np.testing.assert_array_equal(
        tok.encode(digits(3), search=search).numpy(), tok.encode(digits(3), search=search).numpy()
    )


def test_every_tile_gets_a_search_of_its_own(tok: Tokenizer) -> None:
    image = np.concatenate([*digits(2)], axis=1)
    assert tok.encode(image, fit="tile", search=BestOf(2)).shape == (1, 2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "at least 1, not 0"),
        ({"num_samples": 2.5}, "not 2.5"),
        ({"num_samples": 2, "temperature": -1}, "temperature must be"),
        ({"num_samples": 2, "seed": -1}, "seed must be"),
    ],
)
def test_an_impossible_search_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BestOf(**options)  # type: ignore[arg-type]
