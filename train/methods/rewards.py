"""Rewards added to log p(x|z): what codes are worth for a task, or whatever a function says they are worth.

Policy search only ranks the codes that were drawn, and never differentiates a reward. So a reward may count, compare,
look things up or ask a program; a quantiser or a relaxation could follow it only where it has a gradient.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from train.methods.base import Batch

RewardFunction = Callable[[Batch, Tensor], Tensor]

_ACCEPTED = "class_log_prob, class_correct, or a function of (batch, codes) as module:function"


class Rewarded(NamedTuple):
    """The weighted sum of rewards (B, K), without gradient; the loss of what is trained along; numbers to record."""

    values: Tensor
    loss: Tensor
    metrics: dict[str, Tensor]


class Reward(nn.Module, ABC):
    """One reward; its parameters, if any, are trained along by ``loss``."""

    @abstractmethod
    def forward(self, batch: Batch, codes: Tensor) -> Rewarded:
        """Rewards of codes (B, K, N), K for each item of the batch."""


class ClassReward(Reward):
    """How well a classifier tells an item's class from its codes; the classifier learns from the codes as they come.

    A small MLP on one-hot codes: a vector for each code at each position, their sum, ReLU, a linear layer that starts
    at zero, so that there is no reward before there is something to say.

    Args:
        correct: reward 1 where the most probable class is the label and 0 elsewhere, a step that has no gradient;
            else log p(label | codes).
    """

    def __init__(self, config: TokenizerConfig, num_classes: int, *, correct: bool, hidden_size: int = 128) -> None:
        super().__init__()
        self.correct, self.vocab_size = correct, config.vocab_size
        self.table = nn.EmbeddingBag(config.num_tokens * config.vocab_size, hidden_size, mode="sum")
        self.head = nn.Linear(hidden_size, num_classes)
        nn.init.normal_(self.table.weight, std=math.sqrt(2 / config.num_tokens))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, codes: Tensor) -> Tensor:
        """(n, N) -> (n, classes)."""
        positions = torch.arange(codes.shape[-1], device=codes.device) * self.vocab_size
        logits: Tensor = self.head(self.table(codes + positions).relu())
        return logits

    def forward(self, batch: Batch, codes: Tensor) -> Rewarded:
        """See :meth:`Reward.forward`.

        Raises:
            ConfigError: the dataset has no labels, or more classes than the classifier.
        """
        if batch.labels is None:
            raise ConfigError("a class reward needs a dataset with labels")
        largest, classes = int(batch.labels.max()), self.head.out_features
        if largest >= classes:
            raise ConfigError(f"num_classes is {classes}, but the dataset has the label {largest}")
        labels = batch.labels[:, None].expand(codes.shape[:2])
        logits = self.logits(codes.flatten(0, 1)).float().unflatten(0, codes.shape[:2])
        log_prob = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        hits = (logits.argmax(-1) == labels).float()
        metrics = {"class_log_prob": log_prob.detach().mean(), "class_accuracy": hits.mean()}
        return Rewarded(hits if self.correct else log_prob.detach(), -log_prob.mean(), metrics)


class FunctionReward(Reward):
    """Any function of a batch and codes (B, K, N) that returns (B, K); it is never differentiated."""

    def __init__(self, name: str, function: RewardFunction) -> None:
        super().__init__()
        self.name, self.function = name, function

    @torch.no_grad()
    def forward(self, batch: Batch, codes: Tensor) -> Rewarded:
        """See :meth:`Reward.forward`.

        Raises:
            ConfigError: the function returned another shape.
        """
        values = torch.as_tensor(self.function(batch, codes), dtype=torch.float32, device=codes.device)
        if values.shape != codes.shape[:2]:
            expected, found = list(codes.shape[:2]), list(values.shape)
            raise ConfigError(f"rewards: {self.name} returned shape {found}; expected {expected}, a number per sample")
        return Rewarded(values, values.new_zeros(()), {self.name: values.mean()})


class WeightedRewards(Reward):
    """A weighted sum of rewards by their names; of none, it is zero.

    Raises:
        ConfigError: a name that is no reward, or a weight that is not a finite number.
    """

    def __init__(self, weights: dict[str, float], config: TokenizerConfig, num_classes: int) -> None:
        super().__init__()
        check_weights(weights)
        self.weights = list(weights.values())
        self.rewards = nn.ModuleList(_build(name, config, num_classes) for name in weights)

    def forward(self, batch: Batch, codes: Tensor) -> Rewarded:
        values, loss = torch.zeros(codes.shape[:2], device=codes.device), torch.zeros((), device=codes.device)
        metrics: dict[str, Tensor] = {}
        for weight, reward in zip(self.weights, self.rewards, strict=True):
            found: Rewarded = reward(batch, codes)
            values, loss, metrics = values + weight * found.values, loss + found.loss, metrics | found.metrics
        return Rewarded(values, loss, metrics)


def check_weights(weights: dict[str, float]) -> None:
    """Refuse weights that are no finite numbers, and names that cannot be rewards.

    Raises:
        ConfigError: naming the reward, and what is accepted.
    """
    for name, weight in weights.items():
        if not isinstance(name, str) or (name not in ("class_log_prob", "class_correct") and ":" not in name):
            raise ConfigError(f"rewards: {name!r} is not known; accepted are {_ACCEPTED}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"rewards: the weight of {name} must be a finite number, not {weight!r}")


def _build(name: str, config: TokenizerConfig, num_classes: int) -> Reward:
    if ":" not in name:
        return ClassReward(config, num_classes, correct=name == "class_correct")
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"rewards: {name} cannot be imported ({error}); expected module:function") from error
    if not callable(function):
        raise ConfigError(f"rewards: {name} is not a function of (batch, codes)")
    return FunctionReward(name, function)
