"""The best of several samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from daps_tokenizer.backends.protocol import Backend
from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.search.base import Found, Score, draw_uniform, score_of


@dataclass(frozen=True)
class BestOf:
    """The best of ``num_samples`` candidates by log p(x|z): the greedy codes, and samples at ``temperature``.

    As the greedy codes are among them, the result never explains an input worse than ``encode`` without search does.
    Time grows in proportion to ``num_samples``. Of a tiled photograph each tile keeps its own best.

    Args:
        num_samples: candidates, the greedy codes included.
        temperature: of the samples.
        seed: of the samples; a list has a seed for each input.
        score: what to judge candidates by in place of log p(x|z): a function of (inputs, decoded, codes) that returns
            one number for each item (B,), higher is better; see :func:`score_of`.

    Raises:
        InputError: an option that is out of range.

    >>> tok.encode("examples/cat.png", search=BestOf(8)).shape
    (1, 64)
    """

    num_samples: int
    temperature: float = 0.5
    seed: int | Sequence[int] = 0
    score: Score | None = None

    def __post_init__(self) -> None:
        check_integer("BestOf: num_samples", self.num_samples, least=1)
        check_number("BestOf: temperature", self.temperature)
        for seed in self.seed if isinstance(self.seed, list | tuple) else [self.seed]:
            check_integer("BestOf: seed", seed, least=0)
        if self.score is not None and not callable(self.score):
            raise InputError(f"BestOf: score must be a function of (inputs, decoded, codes), not {self.score!r}")

    def find(
        self,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        *,
        on_progress: Callable[[float], None] | None = None,
    ) -> Found:
        """See :meth:`~daps_tokenizer.search.base.Search.find`.

        Raises:
            InputError: more candidates than memory holds, or ``score`` does not return one number for each input.
            UnsupportedError: a quantiser, which has nothing to draw from.
        """
        config.require_probabilities()
        tiles = backend.tiles_per_item
        numbers = draw_uniform((len(inputs) // tiles, tiles, self.num_samples, config.num_tokens), self.seed)
        uniform = numbers.reshape(len(inputs), self.num_samples, config.num_tokens)
        greedy = backend.encode(inputs, uniform[:, 0], 0.0).codes
        started = time.perf_counter()
        greedy_value = self._values(backend, inputs, greedy)
        best, best_value, decodes = greedy, greedy_value, self.num_samples
        for k in range(1, self.num_samples):
            candidate = backend.encode(inputs, uniform[:, k], float(self.temperature)).codes
            value = self._values(backend, inputs, candidate)
            better = value > best_value
            best = np.where(better[:, None], candidate, best)
            best_value = np.where(better, value, best_value)
            if on_progress:
                on_progress(k / (self.num_samples - 1))
        gain = best_value - greedy_value
        if tiles > 1:
            # A tile's neighbours may have chosen other samples than the one that it was judged next to.
            gain = self._values(backend, inputs, best) - greedy_value
            rises = np.repeat(gain.reshape(-1, tiles).sum(1) > 0, tiles)
            best, gain = np.where(rises[:, None], best, greedy), np.where(rises, gain, 0.0)
            decodes += 1
        return Found(greedy, best, gain, int(decodes), time.perf_counter() - started)

    def _values(self, backend: Backend, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """What candidates (B, N) are judged by, (B,)."""
        if self.score is not None:
            return score_of(self.score, backend, inputs, codes)
        # In float32, sums of 80,000 nats would be known to 0.008 only, and ties and worse ones be taken for better.
        likelihood: np.ndarray = backend.likelihood(inputs, codes).log_likelihood.sum(1, dtype=np.float64)
        return likelihood
