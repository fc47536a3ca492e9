"""Counterfactual credit: what each code of one sample is worth, found by trying other codes in its place.

A whole sample says of its N codes only what they are worth together. The generative model is cheap and its codes act
locally, so one sample per item is enough: at each position a few alternatives replace the code, all codes near it
stay, and the change of the reward, log p(x|z), is the advantage of the alternative (a counterfactual baseline; Foerster
et al., 2018). The better policy q* of Eq. 5 is then known in closed form at each position, over the code and its
alternatives, with no weighting of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sweep import DeviceGroup, Evaluate, most_probable_others, on_device
from daps_tokenizer.neighbourhoods import groups_of_codes
from train.methods.base import Losses, entropy_of, reward_of_codes
from train.methods.policy import Rollout
from train.methods.trust_region import TrustRegion
from train.processes import mean_of_all


class Alternatives(NamedTuple):
    """The codes that are compared at each position, each (B, N, M + 1); the drawn code is the first.

    ``codes`` int64, ``log_q`` given the drawn codes before the position, ``advantages`` in nats over the drawn code.
    """

    codes: Tensor
    log_q: Tensor
    advantages: Tensor


@torch.no_grad()
def compare_alternatives(
    evaluate: Evaluate, codes: Tensor, log_q: Tensor, num_alternatives: int, groups: Sequence[DeviceGroup]
) -> Alternatives:
    """Try the M most probable other codes at every position, while the codes near it stay.

    The positions of a group are replaced together, and each is judged by the values in its window. A code reaches a
    little further than that (:mod:`daps_tokenizer.neighbourhoods`), so advantages are approximate in groups of several
    positions.

    Args:
        evaluate: the reward, log p(x|z) for example, as values (B, C) of codes (B, N).
        codes: (B, N) int64, drawn from q.
        log_q: (B, N, V) of all codes, teacher-forced on ``codes``.
        num_alternatives: M, at most V − 1; 0 compares nothing.
        groups: positions that are replaced in one evaluation, as their windows do not overlap.
    """
    others = most_probable_others(log_q, codes, num_alternatives)
    compared = torch.cat([codes[..., None], others], dim=-1)
    advantages = torch.zeros(compared.shape, dtype=torch.float64, device=codes.device)
    if num_alternatives:
        before = evaluate(codes)
        for positions, windows in groups:
            for m in range(1, num_alternatives + 1):
                changed = codes.clone()
                changed[:, positions] = compared[:, positions, m]
                advantages[:, positions, m] = (evaluate(changed) - before) @ windows
    return Alternatives(compared, log_q.gather(-1, compared), advantages.to(log_q.dtype))


def improved_log_policy(compared: Alternatives, eta: Tensor | float, beta: float) -> Tensor:
    """log q* of the compared codes (B, N, M + 1): Eq. 5 restricted to them, scaled to the mass that q gives them.

    q*(c) ∝ q(c)·exp((A(c) − β log q(c))/(η + β)); codes that were not compared keep their probability.
    """
    unnormalised = compared.log_q + (compared.advantages - beta * compared.log_q) / (eta + beta)
    mass = compared.log_q.logsumexp(-1, keepdim=True)
    return unnormalised - unnormalised.logsumexp(-1, keepdim=True) + mass


def divergence(compared: Alternatives, log_improved: Tensor) -> Tensor:
    """KL(q* ‖ q) per code in nats, averaged over the batch and its positions: a scalar."""
    return (log_improved.exp() * (log_improved - compared.log_q)).sum(-1).mean()


def cross_entropy_to(compared: Alternatives, log_improved: Tensor, logits: Tensor) -> Tensor:
    """The cross-entropy of q to q*, up to a constant, summed over positions and averaged over the batch.

    Its gradient with respect to the logits is q − q* at the compared codes and zero elsewhere, where q* = q; so only
    their logits are read. Values are not those of the cross-entropy.

    Args:
        compared, log_improved: without gradient.
        logits: (B, N, V) with gradient.
    """
    pull = log_improved.exp() - compared.log_q.exp()
    return -(pull * logits.gather(-1, compared.codes)).sum((1, 2)).mean()


class CounterfactualCredit:
    """L(θ) + L(η) of counterfactual credit: at each position q moves to the better policy over the codes tried."""

    def __init__(
        self,
        model: Autoencoder,
        num_alternatives: int,
        kl_target: float,
        squared_error_weight: float,
        trust_region: TrustRegion,
    ) -> None:
        """Try alternatives to the codes of a model's samples.

        Args:
            model: its generative model judges them.
            num_alternatives: M, codes that are tried in place of each drawn one.
            kl_target: KL(q* ‖ q) per code in nats.
            squared_error_weight: of the reward (:func:`base.reward_of`).
            trust_region: gives η, and its loss.

        Raises:
            ConfigError: there are no M other codes.
        """
        if num_alternatives >= model.config.vocab_size:
            raise ConfigError(
                f"daps: alternatives must be less than the {model.config.vocab_size} codes, not {num_alternatives}"
            )
        self._model, self._num_alternatives, self._kl_target = model, num_alternatives, kl_target
        self._squared_error_weight, self._trust_region = squared_error_weight, trust_region
        self._groups: list[DeviceGroup] | None = None

    def improve(self, rollout: Rollout, beta: float) -> Losses:
        """Move q to what is better at each position of a rollout with one sample of each item (paper, Eq. 5)."""
        log_q = rollout.logits.detach().log_softmax(-1)
        compared = self._compare(rollout, log_q)

        def kl_of(eta: Tensor) -> Tensor:
            return divergence(compared, improved_log_policy(compared, eta, beta))

        eta = self._trust_region.eta(kl_of, lambda kl: kl > self._kl_target, log_q)
        kl, log_improved = mean_of_all(kl_of(eta)), improved_log_policy(compared, eta.detach(), beta)
        loss_theta = cross_entropy_to(compared, log_improved, rollout.logits)
        loss_eta = self._trust_region.loss(kl, self._kl_target)
        entropy = entropy_of(rollout.logits.detach()).sum(1).mean()
        return Losses(loss_theta + loss_eta, {"kl": kl.detach(), "eta": eta.detach(), "entropy": entropy})

    def _compare(self, rollout: Rollout, log_q: Tensor) -> Alternatives:
        """The codes of a rollout with their alternatives, judged by running statistics, not by those of the batch."""
        if self._groups is None:
            self._groups = on_device(groups_of_codes(self._model.config), log_q.device)
        generative = self._model.generative
        was_training = generative.training
        generative.eval()
        evaluate = reward_of_codes(self._model, rollout.x, self._squared_error_weight)
        compared = compare_alternatives(evaluate, rollout.codes, log_q, self._num_alternatives, self._groups)
        generative.train(was_training)
        return compared
