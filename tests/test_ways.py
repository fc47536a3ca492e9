"""Every way to make codes is the tokenizer's own method, and its record says which one it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daps_tokenizer import BestOf, InputError, LocalSearch, Tokenizer
from daps_tokenizer.ways import Sampled, Way, describe_way, make_codes
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def tok(random_mnist_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_mnist_folder)


def test_greedy_codes_and_searches_are_those_of_encode(tok: Tokenizer) -> None:
    images = digits(3)
    for way in (None, LocalSearch(proposals=1), BestOf(3, seed=5)):
        made = make_codes(tok, images, way)
        assert made.codes == tok.encode(images, search=way)
        assert (made.result is None) == (way is None)
    assert make_codes(tok, images, BestOf(3), seed=5).codes == tok.encode(images, search=BestOf(3, seed=5))


def test_samples_have_an_axis_where_their_number_was_given(tok: Tokenizer) -> None:
    images, samples = digits(2), tok.sample(digits(2), num_samples=2, temperature=0.5, seed=3)
    assert make_codes(tok, images, Sampled(2, 0.5), seed=3).codes == samples
    assert make_codes(tok, images, Sampled(), seed=3).codes == tok.sample(images, seed=3)[:, 0]
    assert make_codes(tok, images, Sampled(1), seed=3).codes.shape == (2, 1, 8)


def test_options_reach_the_tokenizer(tok: Tokenizer) -> None:
    made = make_codes(tok, digits(1)[0].repeat(2, 0), BestOf(3), fit="tile")
    assert made.codes.shape == (1, 2, 8)


@pytest.mark.parametrize(
    ("way", "record"),
    [
        (None, {"codes": "greedy"}),
        (Sampled(), {"codes": "sampled", "samples": 1, "temperature": 1.0}),
        (Sampled(4, 0.5), {"codes": "sampled", "samples": 4, "temperature": 0.5}),
        (BestOf(8), {"codes": "best of", "candidates": 8, "temperature": 0.5}),
        (LocalSearch(), {"codes": "searched", "proposals": 2, "sweeps": 1, "objective": "log_likelihood"}),
        (
            LocalSearch(objective="squared_error", max_seconds=2),
            {"codes": "searched", "proposals": 2, "sweeps": 1, "objective": "squared_error", "max_seconds": 2},
        ),
        (
            LocalSearch(log_q_weight=0.5),
            {"codes": "searched", "proposals": 2, "sweeps": 1, "objective": "log_likelihood", "log_q_weight": 0.5},
        ),
    ],
    ids=str,
)
def test_a_record_says_which_way_it_was(way: Way, record: dict[str, Any]) -> None:
    assert describe_way(way) == record


def test_two_functions_of_a_user_are_never_recorded_alike() -> None:
    functions = [lambda inputs, decoded, codes: codes.sum(1) for _ in range(2)]
    for search in (LocalSearch, lambda **options: BestOf(2, **options)):
        first, second = (describe_way(search(score=function)) for function in functions)
        assert first != second and first["score"] == repr(functions[0])
    assert describe_way(LocalSearch(propose=functions[0]))["propose"] == repr(functions[0])


def test_the_best_of_samples_may_have_a_seed_for_each_input(tok: Tokenizer) -> None:
    images = digits(3)
    made = make_codes(tok, images, BestOf(4, temperature=2.0), seed=[7, 8, 9]).codes
    alone = make_codes(tok, images[1:2], BestOf(4, temperature=2.0), seed=[8]).codes
    assert (made.numpy()[1] == alone.numpy()[0]).all()
    with pytest.raises(InputError, match="seed: there are 2 for 3 inputs"):
        make_codes(tok, images, BestOf(4), seed=[7, 8])
    with pytest.raises(InputError, match="BestOf: seed must be an integer of at least 0, not -1"):
        BestOf(4, seed=[0, -1])


def test_a_search_of_ones_own_is_a_way(tok: Tokenizer) -> None:
    class FromZeros:
        """Local search that begins with code 0 everywhere."""

        def find(self, backend: Any, inputs: np.ndarray, config: Any, *, on_progress: Any = None) -> Any:
            start = np.zeros((len(inputs), config.num_tokens), np.int32)
            return LocalSearch().find(backend, inputs, config, start=start, on_progress=on_progress)

    found = make_codes(tok, digits(2), FromZeros()).result
    assert found is not None and not found.greedy.numpy().any() and (found.gain > 0).all()
    assert "FromZeros" in describe_way(FromZeros())["search"]
