"""What training a generator is: a loss for a batch of codes and labels, and a measure of held-out codes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from daps_tokenizer.config.generator import GeneratorConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.conditions import Conditions
from daps_tokenizer.model.generators import CausalTransformer, FlowTransformer
from train.generators.codes import CodeItems
from train.generators.described import DescribedItems
from train.generators.kinds import KindItems
from train.methods.base import Batch, Learner, Losses

_EVALUATED_AT_ONCE = 250


@dataclass(frozen=True)
class GeneratorSettings:
    """``class_dropout``: the share of training items whose label is hidden, which is what guidance needs."""

    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.class_dropout <= 1:
            raise ConfigError(f"class_dropout must be between 0 and 1, not {self.class_dropout}")


def unpack(config: GeneratorConfig, rows: Tensor) -> tuple[Tensor, Conditions | None]:
    """Codes (B, N) and conditions, of rows of a batch.

    A row is the codes; where there are conditions it is float32: the codes, the numbers of each condition, and for each
    1 where it is known and 0 where it is not.
    """
    if not config.conditions:
        return rows, None
    codes, *values, known = rows.split(
        [config.num_tokens, *(c.size for c in config.conditions), len(config.conditions)], 1
    )
    told = [value.long() if each.codes else value for value, each in zip(values, config.conditions, strict=True)]
    return codes.long(), Conditions(told, known)


class GeneratorMethod(Learner):
    """A network together with the loss that trains it."""

    def __init__(self, model: FlowTransformer | CausalTransformer, settings: GeneratorSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    @abstractmethod
    def nats(
        self, codes: Tensor, labels: Tensor, generator: torch.Generator, conditions: Conditions | None = None
    ) -> Tensor:
        """The loss of each code in nats: codes (B, N), labels (B,) and conditions (B, ...) -> (B, N).

        ``generator`` is the only source of randomness, on the device of the codes.
        """

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """The loss of one batch of codes (B, N), or rows as of :func:`unpack`, and labels (B,), −1 for unknown."""
        assert batch.labels is not None  # CodeItems always have some
        labels = self._known(batch.labels)
        hidden = torch.rand(len(labels), generator=generator, device=labels.device) < self.settings.class_dropout
        labels = torch.where(hidden, self.model.config.no_label, labels)
        codes, conditions = unpack(self.model.config, batch.inputs)
        nats = self.nats(codes, labels, generator, conditions).mean()
        return Losses(nats, {"nats_per_code": nats.detach()})

    @torch.no_grad()
    def evaluate(self, items: CodeItems | DescribedItems | KindItems, *, limit: int | None = None) -> dict[str, float]:
        """``nats_per_code`` of held-out codes, all or ``limit`` of them spread evenly, given their labels."""
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        count = len(items) if limit is None else min(limit, len(items))
        chosen, total = [index * len(items) // count for index in range(count)], 0.0
        for start in range(0, count, _EVALUATED_AT_ONCE):
            part = chosen[start : start + _EVALUATED_AT_ONCE]
            codes, conditions = unpack(self.model.config, torch.from_numpy(items.read_first(part)).to(device))
            labels = self._known(torch.from_numpy(items.labels[part]).to(device))
            total += float(self.nats(codes, labels, generator, conditions).double().mean(1).sum())
        self.train(was_training)
        return {"nats_per_code": total / count, "items": float(count)} | self.also_measured(total / count)

    def also_measured(self, nats_per_code: float) -> dict[str, float]:
        """What else the kind can say of held-out codes."""
        return {}

    def _known(self, labels: Tensor) -> Tensor:
        """Labels, and the number that stands for any class where one is not known."""
        return torch.where(labels < 0, self.model.config.no_label, labels)
