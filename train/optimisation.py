"""How weights are updated: learning rates, clipping, skipped updates and averaged weights; nothing is read on the host.

An update whose gradients are not finite is skipped on the device, by the optimiser itself (``found_inf`` of torch's
fused AdamW), so that a step never waits for the device to say whether it may be made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.errors import ConfigError
from train.methods.base import Learner

Schedule = Literal["constant", "cosine"]
Clip = Literal["norm", "adaptive"]

# The parts that may have a learning rate of their own, by what their parameters' names contain. The first match counts.
PARTS = {
    "code_embedding": "recognition.code_embedding.",
    "self_attention": ".self_attention.",
    "cross_attention": ".cross_attention.",
    "head": "recognition.head.",
    "recognition": "recognition.",
    "generative": "generative.",
}
_WHOLE = "model"  # one that has none of these parts

_LEAST_UNIT_NORM = 1e-3  # of weights, so that a unit that is zero can still move


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up.

    Args:
        learning_rate, weight_decay: of AdamW.
        learning_rates: factors on the learning rate of some parts of the model: ``code_embedding``,
            ``self_attention``, ``cross_attention`` and ``head`` of the recognition model (attention: of its decoder),
            ``recognition`` and ``generative`` for whatever else is in these two.
        warmup_steps: steps over which the learning rate rises linearly.
        schedule: ``cosine`` decays to ``final_fraction`` of the learning rate at the end of the run.
        clip: ``norm`` limits the norm of all gradients of the recognition model, and of the generative model, to
            ``clip_norm``; ``adaptive`` limits the gradient of each unit to ``clip_ratio`` times the norm of the unit's
            weights (Brock et al., 2021, section 4.1).
        ema: the decay of an exponential moving average of the weights, as 0.999; null for none. Early in a run the
            decay is smaller, (1 + step) / (10 + step), so that the initial weights are soon forgotten. The averaged
            weights are what the checkpoint's ``model.safetensors`` holds.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    final_fraction: float = 0.0
    clip_norm: float = 1.0
    learning_rates: dict[str, float] = field(default_factory=dict)
    clip: Clip = "norm"
    clip_ratio: float = 0.01
    ema: float | None = None

    def __post_init__(self) -> None:
        require_choice("schedule", self.schedule, Schedule)
        require_choice("clip", self.clip, Clip)
        for name in ("learning_rate", "clip_norm", "clip_ratio"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"final_fraction must be between 0 and 1, not {self.final_fraction}")
        if self.schedule == "constant" and self.final_fraction:
            raise ConfigError(f"final_fraction {self.final_fraction} is what a cosine decays to; schedule is constant")
        for part, factor in self.learning_rates.items():
            if part not in PARTS:
                raise ConfigError(f"learning_rates: part {part!r} is not known; parts are {', '.join(PARTS)}")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < 0:
                raise ConfigError(f"learning_rates: {part} must be a factor of at least 0, not {factor!r}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must be a decay between 0 and 1, as 0.999, or null, not {self.ema}")

    def factor(self, step: int, total_steps: int) -> float:
        """What the learning rates are multiplied by at a step, in [0, 1]."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))
        return warmup * (self.final_fraction + (1 - self.final_fraction) * cosine)


def build_optimiser(method: Learner, settings: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over what the method trains: the recognition model, the generative model, and the method's own.

    Raises:
        ConfigError: a part with a learning rate of its own that the model does not have.
    """
    groups = [*_model_groups(method, settings), *method.extra_parameters()]
    for group in groups:
        group["base_lr"] = group.setdefault("lr", settings.learning_rate)
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _model_groups(method: Learner, settings: OptimiserConfig) -> list[dict[str, Any]]:
    """One group for the rest of the recognition and of the generative model each, and one for every part named."""
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in method.model.named_parameters():
        if parameter.requires_grad:
            found = (part for part, pattern in PARTS.items() if pattern in f"{name}." and _is_group(part, settings))
            part = next(found, _WHOLE)
            rate = settings.learning_rate * settings.learning_rates.get(part, 1.0)
            groups.setdefault(part, {"params": [], "lr": rate})["params"].append(parameter)
    missing = [part for part in settings.learning_rates if part not in groups]
    if missing:
        raise ConfigError(f"learning_rates: {method.model.config.name} has no {missing[0]} that is trained")
    return list(groups.values())


def _is_group(part: str, settings: OptimiserConfig) -> bool:
    return part in ("recognition", "generative") or part in settings.learning_rates


def apply_schedule(optimiser: torch.optim.Optimizer, settings: OptimiserConfig, step: int, total_steps: int) -> None:
    """Set each group's learning rate for a step; it depends on the step alone."""
    factor = settings.factor(step, total_steps)
    for group in optimiser.param_groups:
        rate = group["base_lr"] * factor
        if isinstance(group["lr"], Tensor):  # where a CUDA graph reads it (train/captured.py)
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


@torch.no_grad()
def clip_gradients(method: Learner, settings: OptimiserConfig) -> Tensor:
    """Clip the gradients of each of :attr:`Learner.parts`; whether all of them are finite.

    Returns:
        A scalar bool on the device of the gradients; nothing is read on the host.
    """
    norms = []
    for part in method.parts:
        trained = [parameter for parameter in part.parameters() if parameter.grad is not None]
        if trained and settings.clip == "norm":
            norms.append(nn.utils.clip_grad_norm_(trained, settings.clip_norm))
        else:
            transposed = {m.weight for m in part.modules() if isinstance(m, nn.ConvTranspose1d | nn.ConvTranspose2d)}
            norms += [_clip_units(p, settings.clip_ratio, transposed=p in transposed) for p in trained]
    return torch.stack(norms).isfinite().all()


def _clip_units(parameter: nn.Parameter, ratio: float, *, transposed: bool) -> Tensor:
    """Clip the gradient of each unit to ``ratio`` times the norm of its weights; returns the gradient's largest norm.

    A unit is a row of a matrix or of a table, or an output channel of a convolution; a vector is one unit.
    """
    gradient = parameter.grad
    assert gradient is not None  # chosen for it
    output_axis = 1 if transposed else 0
    axes = tuple(axis for axis in range(parameter.ndim) if axis != output_axis) if parameter.ndim > 1 else None
    norms = torch.linalg.vector_norm(gradient, dim=axes, keepdim=True)
    largest = ratio * torch.linalg.vector_norm(parameter, dim=axes, keepdim=True).clamp_min(_LEAST_UNIT_NORM)
    gradient.mul_((largest / norms.clamp_min(1e-12)).clamp_max(1.0))
    return norms.max()


class Updates:
    """Makes the updates of a run and counts the last ones that were skipped in a row, on the device.

    A training batch enters BatchNorm's running statistics as it is read; those of a skipped update are taken back.

    Args:
        method: what is trained, on its device.
    """

    def __init__(self, method: Learner) -> None:
        self._skipped = torch.zeros((), dtype=torch.int32, device=next(method.parameters()).device)
        self._statistics = [
            statistic
            for module in method.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]
        self._kept = [statistic.clone() for statistic in self._statistics]

    @torch.no_grad()
    def make(self, optimiser: Any, finite: Tensor) -> None:
        """Step, or leave weights, moments and BatchNorm's statistics as they were where gradients are not finite.

        Args:
            optimiser: AdamW of :func:`build_optimiser`, or Accelerate's wrapper of it.
            finite: a scalar bool, as :func:`clip_gradients` returns it.
        """
        adamw = getattr(optimiser, "optimizer", optimiser)
        adamw.found_inf = (~finite).float()
        optimiser.step()
        self._skipped.add_(1).mul_(~finite)  # in place, as a CUDA graph needs it
        for statistic, kept in zip(self._statistics, self._kept, strict=True):
            kept.copy_(torch.where(finite, statistic, kept))
            statistic.copy_(kept)

    def skipped_in_a_row(self) -> int:
        """How many of the last updates were skipped; waits for the device."""
        return int(self._skipped)


def averaged_weights(method: Learner, decay: float | None) -> AveragedWeights | None:
    """The average that a run keeps, from the weights as they are; None without ``decay``.

    Raises:
        ConfigError: the method has layers that are not in its model.
    """
    if decay is None:
        return None
    if not method.can_be_averaged:
        raise ConfigError(
            f"optimiser.ema averages the weights of the model, and {type(method).__name__} trains layers outside of it"
        )
    return AveragedWeights(method.model, decay)


class AveragedWeights:
    """The exponential moving average of a model's weights and BatchNorm statistics.

    ``values`` are tensors of their own, by their names in the model's ``state_dict``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model's weights, after the update of step ``step``, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averaged, current = [], []
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.values[name])
                current.append(value)
            else:
                self.values[name].copy_(value)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self._model.state_dict().items():
            kept = value.clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)


@contextmanager
def served_weights(method: Learner, averaged: AveragedWeights | None) -> Iterator[None]:
    """The model has the weights that its checkpoint serves inside the block: the average, where there is one.

    What the method derives from other weights (:meth:`Learner.before_checkpoint`) it derives from these.
    """
    with averaged.in_place() if averaged is not None else nullcontext():
        method.before_checkpoint()
        yield


def parameters_of(optimiser: torch.optim.Optimizer) -> Iterable[tuple[str, nn.Parameter]]:
    """All parameters of an optimiser, each with a name of its own: its group and its place in it."""
    for number, group in enumerate(optimiser.param_groups):
        for index, parameter in enumerate(group["params"]):
            yield f"{number}.{index}", parameter
