"""Where two runtimes part on the same inputs, how near a tie it was: what rounding explains, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.parallel import LevelQuantiser, NearestQuantiser


@dataclass(frozen=True)
class FirstDifference:
    """Where the greedy codes of an item first differ, and the gap between torch's two largest logits there."""

    item: int
    position: int
    top2_gap: float


@dataclass(frozen=True)
class FirstSampledDifference:
    """Where the sampled codes of an item first differ, and how far the uniform number is from the edge between them."""

    item: int
    position: int
    edge_gap: float


def first_differences(
    model: Autoencoder, inputs: np.ndarray, ours: np.ndarray, others: np.ndarray
) -> tuple[FirstDifference, ...]:
    """Of greedy codes (B, N), one for each item whose codes differ."""
    found = []
    for item, position, one in _first_positions(inputs, ours, others):
        with torch.inference_mode():
            gap = choice_gap(model, one, torch.tensor(ours[item : item + 1]), position)
        found.append(FirstDifference(item, position, gap))
    return tuple(found)


def first_sampled_differences(
    model: Autoencoder, inputs: np.ndarray, ours: np.ndarray, others: np.ndarray, uniform: np.ndarray
) -> tuple[FirstSampledDifference, ...]:
    """Of codes (B, N) that were drawn at temperature 1 by the same uniform numbers (B, N)."""
    found = []
    for item, position, one in _first_positions(inputs, ours, others):
        with torch.inference_mode():
            context = model.recognition.context(model.standardise(one))
            logits = model.recognition.logits(context, torch.tensor(ours[item : item + 1]))[0, position]
        cumulative = logits.double().softmax(-1).cumsum(-1)
        # A code is drawn where the uniform number lies below its cumulative probability, and not below that of the
        # code before it: between two codes lie the edges of all but the larger one.
        low, high = sorted((int(ours[item, position]), int(others[item, position])))
        gap = float((cumulative[low:high] - float(uniform[item, position])).abs().max())
        found.append(FirstSampledDifference(item, position, gap))
    return tuple(found)


def choice_gap(model: Autoencoder, inputs: Tensor, codes: Tensor, position: int) -> float:
    """How far the choice of a code was from being another: between the two largest logits, or from a rounding edge."""
    recognition = model.recognition
    context = recognition.context(model.standardise(inputs))
    if isinstance(recognition, LevelQuantiser):
        numbers = context[0, position]
        return float((numbers - numbers.floor() - 0.5).abs().min())
    is_nearest = isinstance(recognition, NearestQuantiser)
    logits = recognition.head(context) if is_nearest else recognition.logits(context, codes)
    first, second = logits[0, position].topk(2).values.tolist()
    return first - second


def top_codes_gap(
    model: Autoencoder, inputs: np.ndarray, codes: np.ndarray, ours: np.ndarray, others: np.ndarray
) -> float:
    """How far the codes that two runtimes rank alike, (B, N, k) each, are apart in torch's log q at most, in nats.

    0 where both name the same codes in the same order, little where near-ties are swapped.
    """
    gaps = [0.0]
    with torch.inference_mode():
        for item in np.flatnonzero((ours != others).any((1, 2))):
            context = model.recognition.context(model.standardise(torch.tensor(inputs[item : item + 1])))
            log_q = model.recognition.logits(context, torch.tensor(codes[item : item + 1]))[0].log_softmax(-1)
            pair = [log_q.gather(-1, torch.tensor(ranked[item]).long()) for ranked in (ours, others)]
            gaps.append(largest(pair[0].numpy() - pair[1].numpy()))
    return largest(np.array(gaps))


def largest_logit(model: Autoencoder, inputs: np.ndarray, codes: np.ndarray) -> float:
    """The largest that a most probable code's logit gets in torch, in absolute value, over codes (B, N)."""
    found = [0.0]
    with torch.inference_mode():
        for item in range(len(codes)):
            context = model.recognition.context(model.standardise(torch.tensor(inputs[item : item + 1])))
            logits = model.recognition.logits(context, torch.tensor(codes[item : item + 1]))
            found.append(largest(logits.amax(-1).numpy()))
    return max(found)


def largest(differences: np.ndarray) -> float:
    """The largest absolute value; NaN if there is one."""
    return float(np.abs(differences).max(initial=0.0))


def _first_positions(inputs: np.ndarray, ours: np.ndarray, others: np.ndarray) -> list[tuple[int, int, Tensor]]:
    """For each item whose codes differ: its number, the first position where they do, and its input (1, ...)."""
    items = np.flatnonzero((ours != others).any(1))
    return [(int(i), int((ours[i] != others[i]).argmax()), torch.tensor(inputs[i : i + 1])) for i in items]
