"""Maximum likelihood of the autoregressive recognition model on the codes of a VQ-VAE.

The run starts from the VQ-VAE's checkpoint; the teacher is the parallel encoder in it, frozen. The generative model is
left alone. The student keeps the teacher's weights, whose greedy codes agree already, and fits the probabilities.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from train.methods.base import Batch, Losses, Method


@dataclass(frozen=True)
class DistillationSettings:
    """None."""


class Distillation(Method):
    """−log q(z|x) on the teacher's codes."""

    settings_type = DistillationSettings
    settings: DistillationSettings

    def __init__(self, model: Autoencoder, settings: DistillationSettings) -> None:
        super().__init__(model, settings)
        if model.config.transform is not None:
            raise ConfigError(
                "distil has nothing to do where code books choose the codes, as in models with a transform"
            )
        self.teacher = copy.deepcopy(model.autoregressive).requires_grad_(False)
        model.generative.requires_grad_(False)

    def start(self) -> None:
        """The weights that were loaded become the teacher's; prepare the student."""
        self.teacher.load_state_dict(self.model.recognition.state_dict())
        torch.nn.init.normal_(self.model.autoregressive.code_embedding.weight, std=0.02)

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """Mean over the batch of −log q(z|x) in nats; ``agreement`` is the share of the teacher's
        codes that are the most probable ones."""
        self.model.generative.eval()
        x = self.model.standardise(batch.inputs)
        with torch.no_grad():
            codes = self.teacher.head(self.teacher.hidden_without_codes(self.teacher.context(x))).argmax(-1)
        recognition = self.model.autoregressive
        logits = recognition.logits(recognition.context(x), codes).float()
        log_q = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0].sum(1)
        agreement = (logits.argmax(-1) == codes).float().mean()
        return Losses(-log_q.mean(), {"log_q": log_q.mean().detach(), "agreement": agreement.detach()})
