"""The generative model of policy search, compiled by ``torch.compile``.

Half of a counterfactual step on a CPU is small operations on whole images, one after the other: activations,
normalisation, log p of each pixel. Compiled, they are a few loops. The recognition model is not: inductor's attention
with a mask gives NaN in bfloat16 on a CPU (torch 2.13). Nor is evaluation, whose batches have shapes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from daps_tokenizer.errors import ConfigError
from train.methods.policy import PolicyMethod


def compile_generative_model(method: nn.Module) -> None:
    """Compile what a policy-search method asks of p(x|z); the first steps take some seconds for it.

    Raises:
        ConfigError: a method of another kind.
    """
    if not isinstance(method, PolicyMethod):
        raise ConfigError("--compile is for methods of policy search: daps, ppo and reinforce")
    model = method.model
    for name in ("log_prob", "cell_log_likelihood"):
        setattr(model, name, _while_training(model, getattr(model, name)))


def _while_training(model: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(function, dynamic=False)

    def call(*args: Any) -> Any:
        return (compiled if model.training else function)(*args)

    return call
