"""Search over codes within a training step: few decodes, everything on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import Recognition
from daps_tokenizer.model.sampling import sample_codes
from daps_tokenizer.model.sweep import Swept, most_probable_others, objective_of, on_device, sweep
from daps_tokenizer.neighbourhoods import Objective, groups_of_codes


@dataclass(frozen=True)
class CodeSearch:
    """How codes are searched while training: part of one sweep of local search.

    Args:
        objective: what the search improves, ``log_likelihood`` or ``squared_error``.
        proposals: codes that are tried at a position; the most probable others of q.
        groups: how many groups of positions a step visits, drawn anew each step; None is all of them (nine lattices
            where the generative model is convolutional, else N single positions). A step decodes
            ``groups`` · ``proposals`` + 2 times.
    """

    objective: Objective = "log_likelihood"
    proposals: int = 1
    groups: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ConfigError(f"objective must be {' or '.join(get_args(Objective))}, not {self.objective!r}")
        if self.proposals < 1:
            raise ConfigError(f"proposals must be at least 1, not {self.proposals}")
        if self.groups is not None and self.groups < 1:
            raise ConfigError(f"groups must be at least 1, or left out for all of them, not {self.groups}")

    def run(self, model: Autoencoder, x: Tensor, codes: Tensor, logits: Tensor, generator: torch.Generator) -> Swept:
        """Better codes for standardised x (B, *input_shape); BatchNorm uses its running statistics.

        Args:
            model: its generative model decides.
            x: what is to be explained.
            codes: (B, N) int64 to begin with.
            logits: q's (B, N, V), teacher-forced on ``codes``: what is proposed.
            generator: chooses the groups.
        """
        groups = on_device(groups_of_codes(model.config), x.device)
        count = min(self.groups or len(groups), len(groups))
        order = torch.randperm(len(groups), generator=generator, device=generator.device)[:count].tolist()
        proposals = most_probable_others(logits, codes, min(self.proposals, model.config.vocab_size - 1))
        was_training = model.generative.training
        model.generative.eval()
        found = sweep(objective_of(model, x, self.objective), codes, proposals, [groups[i] for i in order])
        model.generative.train(was_training)
        return found


@torch.no_grad()
def greedy_in_passes(recognition: Recognition, context: Any, batch: int) -> tuple[Tensor, Tensor]:
    """Greedy codes (B, N) int64, and the logits (B, N, V) given them."""
    unused = torch.zeros(batch, recognition.num_tokens, device=recognition.positions.device)
    codes = sample_codes(recognition, context, unused, 0.0).codes
    return codes, recognition.logits(context, codes).float()
