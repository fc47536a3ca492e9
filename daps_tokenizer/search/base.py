"""Better codes for the same bits: spend more time on encoding, and keep what explains the input best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from daps_tokenizer.backends.protocol import Backend, Decoded
from daps_tokenizer.checks import check_integer
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError

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
