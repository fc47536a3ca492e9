"""Better codes for the same bits: spend more time on encoding, and keep what explains the input best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Protocol

import numpy as np

from daps_tokenizer.backends import Backend, Decoded
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.mosaic import tiles_per_image

_MOST_UNIFORM_BYTES = 2**31

Score = Callable[[np.ndarray, Decoded, np.ndarray], np.ndarray]


class Search(Protocol):
    """A way to choose codes for inputs."""

    def run(self, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> np.ndarray:
        """Codes (B, N) int32 for inputs (B, *input_shape)."""


def check_search(search: object) -> None:
    """Refuse what is neither None nor a search.

    Raises:
        InputError: naming it; a class where an instance is meant too.
    """
    if search is not None and (isinstance(search, type) or not callable(getattr(search, "run", None))):
        given = f"the class {search.__name__}" if isinstance(search, type) else repr(search)
        raise InputError(f"search must be None or a search, such as LocalSearch() or BestOf(8), not {given}")


def draw_uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The uniform numbers that sampling inverts the cumulative distribution at, float32 in [0, 1).

    Raises:
        InputError: a seed that is not an integer of at least 0.
    """
    check_integer("seed", seed, least=0)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def check_integer(name: str, value: object, *, least: int) -> None:
    """Refuse what is not an integer, Python's or numpy's, of at least ``least``.

    Raises:
        InputError: naming the option and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, not {value!r}")


def check_number(name: str, value: object) -> None:
    """Refuse what is not a finite real number, Python's or numpy's, of at least 0.

    Raises:
        InputError: naming the option and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value < 0 or not value < float("inf"):
        raise InputError(f"{name} must be a finite number of at least 0, not {value!r}")


def score_of(score: Score, backend: Backend, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What a user's function says of codes (B, N), (B,) float64; higher is better.

    The function is called with the ``inputs`` as the model sees them (pixels (B, height, width, channels) uint8, or
    features (B, frames, features) float32; tiles and windows are items of their own); with ``decoded``, which has their
    ``reconstruction`` in the same units, and ``mean`` and ``variance`` of p(x|z) in standardised units; and with the
    ``codes``. It returns one number for each item.

    Raises:
        InputError: it returns something else, or what is not a number.
    """
    found = score(inputs, backend.decode(codes), codes)
    try:
        totals = np.asarray(found)
    except ValueError as error:  # lists of unequal lengths
        raise InputError(f"score must return one number for each of {len(codes)} inputs ({error})") from error
    if totals.dtype.kind not in "fiub" or np.isnan(totals).any():
        raise InputError(f"score must return one number for each of {len(codes)} inputs, not {totals.dtype} or NaN")
    if totals.shape != (len(codes),):
        raise InputError(
            f"score must return one number for each of {len(codes)} inputs, not an array of shape {totals.shape}"
        )
    return totals.astype(np.float64)


@dataclass(frozen=True)
class BestOf:
    """The best of ``num_samples`` candidates by log p(x|z): the greedy codes, and samples at ``temperature``.

    As the greedy codes are among them, the result never explains an input worse than ``encode`` without search does.
    Time grows in proportion to ``num_samples``. Of a tiled photograph each tile keeps its own best.

    Args:
        num_samples: candidates, the greedy codes included.
        temperature: of the samples.
        seed: of the samples.
        score: what to judge candidates by in place of log p(x|z): a function of (inputs, decoded, codes) that returns
            one number for each item (B,), higher is better; see :func:`score_of`.

    Raises:
        InputError: an option that is out of range.

    >>> tok.encode(image, search=BestOf(8))  # doctest: +SKIP
    """

    num_samples: int
    temperature: float = 0.5
    seed: int = 0
    score: Score | None = None

    def __post_init__(self) -> None:
        check_integer("BestOf: num_samples", self.num_samples, least=1)
        check_number("BestOf: temperature", self.temperature)
        check_integer("BestOf: seed", self.seed, least=0)
        if self.score is not None and not callable(self.score):
            raise InputError(f"BestOf: score must be a function of (inputs, decoded, codes), not {self.score!r}")

    def run(self, backend: Backend, inputs: np.ndarray, config: TokenizerConfig) -> np.ndarray:
        """Codes (B, N) int32 for inputs (B, *input_shape)."""
        config.require_probabilities()
        size = 4 * len(inputs) * self.num_samples * config.num_tokens
        if size > _MOST_UNIFORM_BYTES:
            raise InputError(
                f"BestOf: {self.num_samples:,} candidates of {len(inputs)} inputs take {size / 2**30:.0f} GiB of "
                "random numbers; use fewer"
            )
        uniform = draw_uniform((len(inputs), self.num_samples, config.num_tokens), self.seed)
        greedy = backend.encode(inputs, uniform[:, 0], 0.0).codes
        greedy_value = self._values(backend, inputs, greedy)
        best, best_value = greedy, greedy_value
        for k in range(1, self.num_samples):
            candidate = backend.encode(inputs, uniform[:, k], float(self.temperature)).codes
            value = self._values(backend, inputs, candidate)
            better = value > best_value
            best = np.where(better[:, None], candidate, best)
            best_value = np.where(better, value, best_value)
        tiles = tiles_per_image(backend)
        if tiles == 1:
            return best
        # A tile's neighbours may have chosen other samples than the one that it was judged next to.
        gain = (self._values(backend, inputs, best) - greedy_value).reshape(-1, tiles).sum(1)
        return np.where(np.repeat(gain > 0, tiles)[:, None], best, greedy)

    def _values(self, backend: Backend, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What candidates (B, N) are judged by, (B,)."""
        if self.score is not None:
            return score_of(self.score, backend, inputs, codes)
        # In float32, sums of 80,000 nats would be known to 0.008 only, and ties and worse ones be taken for better.
        likelihood: np.ndarray = backend.likelihood(inputs, codes).log_likelihood.sum(1, dtype=np.float64)
        return likelihood
