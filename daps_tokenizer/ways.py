"""The ways to make codes: greedy, sampled, best of several, or searched; one function for everything that has a choice.

The command line, datasets, evaluation and benchmarks all encode by :func:`make_codes`, so that what one of them records
another can make again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.search.base import Search, SearchResult
from daps_tokenizer.search.best_of import BestOf
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sampled:
    """Codes drawn from q(z|x): ``num_samples`` of each item, on an axis of their own; or one without it, if None."""

    num_samples: int | None = None
    temperature: float = 1.0


Way = Sampled | Search | None  # None is greedy


class Made(NamedTuple):
    """Codes, and of a search what it found."""

    codes: Codes
    result: SearchResult | None = None


def make_codes(
    tokenizer: Tokenizer,
    inputs: object,
    way: Way = None,
    *,
    seed: int | Sequence[int] | None = None,
    **options: Any,
) -> Made:
    """Make codes of inputs in one of the ways.

    Args:
        tokenizer: the model.
        inputs: as for :meth:`~daps_tokenizer.Tokenizer.encode`.
        way: None for greedy codes, :class:`Sampled`, or a search such as ``BestOf(8)`` or ``LocalSearch()``.
        seed: of what is drawn. None draws samples anew, and leaves ``BestOf`` its own seed. A list has a seed for each
            input.
        **options: ``fit``, ``fps``, ``overlap`` and ``value_range`` of :meth:`~daps_tokenizer.Tokenizer.encode`.

    Raises:
        InputError, UnsupportedError: as the methods of the tokenizer.

    >>> make_codes(tok, "examples/cat.png", BestOf(2), seed=0).codes.shape
    (1, 64)
    """
    if way is None:
        return Made(tokenizer.encode(inputs, **options))
    if isinstance(way, Sampled):
        samples = tokenizer.sample(
            inputs, num_samples=way.num_samples or 1, temperature=way.temperature, seed=seed, **options
        )
        return Made(samples if way.num_samples is not None else samples[:, 0])
    if isinstance(way, BestOf) and seed is not None:
        way = replace(way, seed=seed)
    result = tokenizer.search(inputs, way, **options)
    return Made(result.codes, result)


def describe_way(way: Way) -> dict[str, Any]:
    """What a record says of a way, but for the seed: a JSON object from which it can be made again.

    A user's function is told by its ``repr``, so that two functions are never taken for the same; what holds one is
    the same in one process only.

    >>> describe_way(None), describe_way(Sampled(4))
    ({'codes': 'greedy'}, {'codes': 'sampled', 'samples': 4, 'temperature': 1.0})
    """
    if way is None:
        return {"codes": "greedy"}
    if isinstance(way, Sampled):
        return {"codes": "sampled", "samples": way.num_samples or 1, "temperature": way.temperature}
    if isinstance(way, BestOf):
        found = {"codes": "best of", "candidates": way.num_samples, "temperature": way.temperature}
        return found | _unless_none(score=way.score)
    if isinstance(way, LocalSearch):
        found = {"codes": "searched", "proposals": way.proposals, "sweeps": way.sweeps, "objective": way.objective}
        if way.log_q_weight:
            found["log_q_weight"] = way.log_q_weight
        if way.max_seconds is not None:
            found["max_seconds"] = way.max_seconds
        return found | _unless_none(score=way.score, propose=way.propose)
    return {"codes": "searched", "search": repr(way)}


def _unless_none(**functions: Callable[..., Any] | None) -> dict[str, str]:
    return {name: repr(function) for name, function in functions.items() if function is not None}
