"""Better codes for the same bits: spend more time on encoding, and keep what explains the input best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from daps_tokenizer.backends.protocol import Backend, Decoded
from daps_tokenizer.checks import check_integer
from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError

_MOST_UNIFORM_BYTES = 2**31

Score = Callable[[np.ndarray, Decoded, np.ndarray], np.ndarray]


class Found(NamedTuple):
    """What a search found for items of a model's size, and what it cost.

    ``greedy`` and ``codes``, (B, N) int32: the codes that it began with (greedy ones, unless told otherwise), and the
    best. ``gain``, (B,) float64: by how much the objective rose, in nats of log p(x|z), or in squared error saved, or
    in units of ``score``. ``decodes``: how often each item was decoded, once with the codes that it began with
    included. ``seconds``: of the whole batch, beyond greedy encoding.
    """

    greedy: np.ndarray
    codes: np.ndarray
    gain: np.ndarray
    decodes: int
    seconds: float


class SearchResult(NamedTuple):
    """What :meth:`~daps_tokenizer.Tokenizer.search` found for inputs, and what it cost.

    ``codes``: the best, (B, N), or (B, T, N) of tiled images and of clips. ``greedy``: the codes that ``encode`` gives
    without search. ``gain``, (B,) float64: by how much what was searched for rose over the greedy codes, summed over
    the tiles or windows of an item; never negative. In nats of log p(x|z), or in squared error saved, or in units of
    ``score``. ``decodes``: how often each item was decoded. ``seconds``: of the whole batch, beyond greedy encoding.
    """

    codes: Codes
    greedy: Codes
    gain: np.ndarray
    decodes: int
    seconds: float


class Search(Protocol):
    """A way to find better codes than the greedy ones: :class:`BestOf`, :class:`LocalSearch`, or your own."""

    def find(
        self,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Found:
        """Find codes (B, N) int32 for inputs (B, *input_shape).

        Args:
            backend: the model, see :class:`~daps_tokenizer.backends.protocol.Backend`. ``backend.tiles_per_item``
                inputs in a row are the tiles of one image, and every method takes whole images.
            inputs: pixels (B, height, width, channels) uint8 or features (B, frames, features) float32.
            config: of the model.
            on_progress: is told what share of the search is done, in [0, 1].
        """


def check_search(search: object) -> None:
    """Refuse what is not a search.

    Raises:
        InputError: naming it; also for a class in place of an instance of it.
    """
    if isinstance(search, type | str | bytes) or not callable(getattr(search, "find", None)):  # strings have a find
        given = f"the class {search.__name__}" if isinstance(search, type) else repr(search)
        raise InputError(f"search must be a search, such as LocalSearch() or BestOf(8), not {given}")


def check_found(found: object, count: int, num_tokens: int) -> Found:
    """Refuse what a search of a user's own returns where it is not what was found for ``count`` items.

    Raises:
        InputError: saying what is expected.
    """
    expected = {"greedy": (count, num_tokens), "codes": (count, num_tokens), "gain": (count,)}
    if not isinstance(found, Found):
        raise InputError(f"find of a search must return a Found, not {type(found).__name__}")
    for name, shape in expected.items():
        if np.shape(getattr(found, name)) != shape:
            raise InputError(
                f"find of a search must return {name} of shape {shape}, not {np.shape(getattr(found, name))}"
            )
    return found


def draw_uniform(shape: tuple[int, ...], seed: int | Sequence[int] | None) -> np.ndarray:
    """The uniform numbers that sampling inverts the cumulative distribution at, float32 in [0, 1).

    The same seed gives the same numbers, None others every time; of several seeds, each is for one input.

    Raises:
        InputError: a seed that is neither None nor an integer of at least 0, not one seed for each input, or more
            numbers than memory holds.
    """
    if isinstance(seed, list | tuple):
        if len(seed) != shape[0]:
            raise InputError(f"seed: there are {len(seed)} for {shape[0]} inputs; expected one, or one for each input")
        return np.stack([draw_uniform(shape[1:], each) for each in seed]) if seed else np.empty(shape, np.float32)
    if seed is not None:
        check_integer("seed", seed, least=0)
    if 4 * math.prod(shape) > _MOST_UNIFORM_BYTES:
        raise InputError(
            f"{math.prod(shape[:-1]):,} samples of {shape[-1]:,} codes take {-(-4 * math.prod(shape) // 2**30):,} GiB "
            "of random numbers; use fewer samples or inputs"
        )
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
