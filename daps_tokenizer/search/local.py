"""Local search: the recognition model's first guess, improved code by code with the generative model in the loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from daps_tokenizer.backends.batching import parallel_chunk, slices
from daps_tokenizer.backends.protocol import Backend, SweepsOnDevice
from daps_tokenizer.checks import check_integer, check_number
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.neighbourhoods import Objective, groups_of_codes, one_at_a_time
from daps_tokenizer.search.base import Found, Score, score_of

Propose = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class LocalSearch:
    """Change codes to others that q(z|x) finds probable, and keep what makes the objective better.

    A sweep visits every position once. It tries the ``proposals`` most probable other codes, given the codes before it
    at the start of the sweep. Where the generative model is convolutional (CIFAR-10, photographs), every third position
    in both directions is changed at once, which takes 9 × ``proposals`` decodes, and one more to know the exact value
    of the result; other models change one position at a time, N × ``proposals`` decodes. An item that a sweep made
    worse goes back, so the result is never worse in the objective than what ``encode`` without search gives, and more
    sweeps are never worse than fewer. A sweep that changes nothing is the last.

    Args:
        sweeps: how often every position is visited.
        proposals: codes that are tried at a position each time; at most V − 1 are.
        objective: what to improve: ``log_likelihood``, log p(x|z), or ``squared_error``, which raises PSNR.
        score: what to improve in place of these: a function of (inputs, decoded, codes) that returns one number for
            each item (B,), higher is better; see :func:`~daps_tokenizer.search.base.score_of`. Positions are changed
            one at a time.
        log_q_weight: λ. With λ above 0, λ · log q(z|x) counts too, which keeps codes predictable for a model that is
            trained on them; every decode then takes a pass of the recognition model as well.
        propose: what to try in place of the codes that q finds probable: a function of (inputs, codes, count), called
            once a sweep, that returns ``count`` other codes for each position, (B, N, count) integers, best first.
        max_seconds: stop after this time beyond greedy encoding, with the best codes so far; what was begun and one
            more decode are finished.

    Raises:
        InputError: an option that is out of range.

    >>> tok.encode("examples/cat.png", search=LocalSearch(objective="squared_error")).shape
    (1, 64)
    """

    sweeps: int = 1
    proposals: int = 2
    objective: Objective = "log_likelihood"
    score: Score | None = None
    log_q_weight: float = 0.0
    propose: Propose | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        check_integer("LocalSearch: sweeps", self.sweeps, least=1)
        check_integer("LocalSearch: proposals", self.proposals, least=1)
        if self.objective not in get_args(Objective):
            choices = " or ".join(get_args(Objective))
            raise InputError(f"LocalSearch: objective must be {choices}, not {self.objective!r}; others go in score=")
        if self.score is not None and not callable(self.score):
            raise InputError(f"LocalSearch: score must be a function of (inputs, decoded, codes), not {self.score!r}")
        if self.propose is not None and not callable(self.propose):
            raise InputError(f"LocalSearch: propose must be a function of (inputs, codes, count), not {self.propose!r}")
        if self.score is not None and self.objective != "log_likelihood":
            raise InputError(f"LocalSearch: score takes the place of objective {self.objective!r}; pass one of them")
        check_number("LocalSearch: log_q_weight", self.log_q_weight)
        if self.max_seconds is not None:
            check_number("LocalSearch: max_seconds", self.max_seconds)

    def find(
        self,
        backend: Backend,
        inputs: np.ndarray,
        config: TokenizerConfig,
        *,
        start: np.ndarray | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Found:
        """See :meth:`~daps_tokenizer.search.base.Search.find`.

        Args:
            backend: the model.
            inputs: (B, *input_shape).
            config: of the model.
            start: codes (B, N) int32 to begin with in place of the greedy ones; the result is never worse than these.
            on_progress: called whenever codes were tried, with the share of the search that is done, in [0, 1].

        Raises:
            InputError: ``score`` does not return one number for each input, or ``propose`` no codes of the model.
        """
        unused = np.zeros((len(inputs), config.num_tokens), np.float32)
        greedy = backend.encode(inputs, unused, 0.0).codes if start is None else start
        if (found := self._find_on_device(backend, inputs, greedy, config, on_progress)) is not None:
            return found
        evaluation = _Evaluation(self, backend, inputs)
        groups = groups_of_codes(config) if self.score is None else one_at_a_time(config.num_tokens, 1)
        num_proposals = min(int(self.proposals), config.vocab_size - 1)
        tried_at_once = slices(num_proposals, self._tried_at_once(backend, config, len(inputs)))
        steps = list(itertools.product(groups, tried_at_once))
        best, best_values = greedy, evaluation.values(greedy)
        greedy_total = best_values.sum(1)
        for sweep in range(self.sweeps):
            if evaluation.is_late():
                break
            proposals = self._proposals(backend, inputs, best, num_proposals, config.vocab_size)
            codes, values = best.copy(), best_values
            for step, ((positions, windows), tried) in enumerate(steps):
                if evaluation.is_late():
                    break
                # All of them differ from the codes at the same positions, so none depends on whether another is kept.
                candidates = codes[None].repeat(tried.stop - tried.start, axis=0)
                candidates[..., positions] = np.moveaxis(proposals[:, positions, tried], -1, 0)
                for candidate, candidate_values in zip(candidates, evaluation.values_of_each(candidates), strict=True):
                    better = (candidate_values - values) @ windows > 0
                    codes[:, positions] = np.where(better, candidate[:, positions], codes[:, positions])
                    # What the kept changes are worth, up to what neighbouring ones do to each other.
                    values = np.where(better @ windows.T > 0, candidate_values, values)
                if on_progress:
                    on_progress((sweep + (step + 1) / len(steps)) / self.sweeps)
            exact_values = evaluation.values(codes)
            # Tiles of a photograph depend on each other, so they stay or go back together.
            rise = (exact_values.sum(1) - best_values.sum(1)).reshape(-1, backend.tiles_per_item).sum(1)
            rises = np.repeat(rise > 0, backend.tiles_per_item)[:, None]
            if not rises.any():
                break
            best, best_values = np.where(rises, codes, best), np.where(rises, exact_values, best_values)
        gain = best_values.sum(1) - greedy_total
        return Found(greedy, best, gain, evaluation.decodes, evaluation.seconds())

    def _tried_at_once(self, backend: Backend, config: TokenizerConfig, batch: int) -> int:
        """How many proposals of each item one pass of the backend takes; a score is told of each item once."""
        if self.score is not None:
            return 1
        return max(1, parallel_chunk(config, "cuda" if backend.device == "cuda" else "cpu") // batch)

    def _find_on_device(
        self,
        backend: Backend,
        inputs: np.ndarray,
        greedy: np.ndarray,
        config: TokenizerConfig,
        on_progress: Callable[[float], None] | None,
    ) -> Found | None:
        """The same by a backend that sweeps on its device; None where it does not, or has to ask the host."""
        asks_the_host = self.score or self.propose or self.log_q_weight or self.max_seconds is not None
        if asks_the_host or not isinstance(backend, SweepsOnDevice):
            return None
        started = time.perf_counter()
        proposals = min(int(self.proposals), config.vocab_size - 1)
        codes, gain, decodes = greedy, np.zeros(len(inputs)), 0
        for sweep in range(self.sweeps):
            swept = backend.sweep_on_device(inputs, codes, objective=self.objective, proposals=proposals)
            if swept is None:
                return None
            codes, gain = swept.codes, gain + swept.gain
            decodes += len(groups_of_codes(config)) * proposals + 2
            if on_progress:
                on_progress((sweep + 1) / self.sweeps)
            if not swept.gain.any():
                break
        return Found(greedy, codes, gain, decodes, time.perf_counter() - started)

    def _proposals(
        self, backend: Backend, inputs: np.ndarray, codes: np.ndarray, count: int, vocab_size: int
    ) -> np.ndarray:
        """What a sweep tries, (B, N, count)."""
        if self.propose is None:
            return _most_probable_others(backend, inputs, codes, count)
        found = self.propose(inputs, codes, count)
        try:
            proposals = np.asarray(found)
        except ValueError as error:  # lists of unequal lengths
            raise InputError(
                f"LocalSearch: propose must return integers of shape {(*codes.shape, count)} ({error})"
            ) from error
        if proposals.shape != (*codes.shape, count) or proposals.dtype.kind not in "iu":
            raise InputError(
                f"LocalSearch: propose must return integers of shape {(*codes.shape, count)}, "
                f"not {proposals.dtype} of shape {proposals.shape}"
            )
        if proposals.min() < 0 or proposals.max() >= vocab_size:
            raise InputError(f"LocalSearch: propose must return codes from 0 to {vocab_size - 1}")
        return proposals


class _Evaluation:
    """The objective of codes for inputs, and what has been spent on it."""

    def __init__(self, search: LocalSearch, backend: Backend, inputs: np.ndarray) -> None:
        self.decodes = 0
        self._search, self._backend, self._inputs = search, backend, inputs
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def is_late(self) -> bool:
        return self._search.max_seconds is not None and self.seconds() >= self._search.max_seconds

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What is maximised once summed over the last axis: float64 (B, N), or (B, 1) where there is a ``score``."""
        return self.values_of_each(codes[None])[0]

    def values_of_each(self, candidates: np.ndarray) -> np.ndarray:
        """The values of each of K candidates (K, B, N), from one call of the backend."""
        count, batch, num_tokens = candidates.shape
        self.decodes += count
        inputs, codes = np.concatenate([self._inputs] * count), candidates.reshape(-1, num_tokens)
        if self._search.score is None:
            values = self._likelihood(inputs, codes)
        else:
            values = score_of(self._search.score, self._backend, inputs, codes)[:, None]
        if self._search.log_q_weight != 0:
            log_q = self._backend.score(inputs, codes, 1).log_probs.astype(np.float64)
            values = values + self._search.log_q_weight * log_q.reshape(*values.shape, -1).sum(-1)
        return values.reshape(count, batch, -1)

    def _likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
        likelihood = self._backend.likelihood(inputs, codes)
        if self._search.objective == "squared_error":
            return -likelihood.squared_error.astype(np.float64)
        return likelihood.log_likelihood.astype(np.float64)


def _most_probable_others(backend: Backend, inputs: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` ≤ V − 1 most probable codes at each position, given those before it, other than the one that is
    there: (B, N, count) int32, from one teacher-forced pass."""
    top = backend.score(inputs, codes, count + 1).top_codes
    others_first = np.argsort(top == codes[..., None], axis=-1, kind="stable")
    return np.take_along_axis(top, others_first[..., :count], axis=-1)
