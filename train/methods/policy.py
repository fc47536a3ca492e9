"""What policy-search methods share: K codes per item, drawn without a gradient, and their log q with one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import Recognition, RecognitionModel
from daps_tokenizer.model.sampling import sample_codes
from train.code_search import CodeSearch
from train.methods.base import Method, expand_samples, require_kind
from train.processes import place, share_of_rows
from train.sampling import Drawn, draw_in_passes


class Rollout(NamedTuple):
    """K samples of q for each of B items, the K of an item next to each other.

    ``codes`` (B·K, N); ``logits`` (B·K, N, V) with gradient, ``log_q`` (B·K, N) of the codes with gradient;
    ``parameters`` of p(x|z) and ``log_p`` (B·K, *input_shape), log p(x|z) of each dimension, with gradient; ``passes``
    () how many the codes took to draw.
    """

    x: Tensor
    codes: Tensor
    logits: Tensor
    log_q: Tensor
    parameters: Tensor
    log_p: Tensor
    passes: Tensor


class PolicyMethod(Method):
    """A method whose recognition model is a policy; subclasses say what its samples teach it.

    ``fixed_passes`` is how many passes draw its samples where nothing may be read on the host (train/captured.py).
    """

    fixed_passes: int | None = None

    draws_for_all = True

    def __init__(self, model: Autoencoder, settings: Any) -> None:
        super().__init__(model, settings)
        require_kind(model, "a policy-search method", "autoregressive", "independent")

    def rollout(
        self,
        inputs: Tensor,
        generator: torch.Generator,
        behaviour: Recognition | None = None,
        search: CodeSearch | None = None,
    ) -> Rollout:
        """Draw codes for inputs (B, *input_shape) and evaluate them.

        Args:
            inputs, generator: of :meth:`forward`.
            behaviour: draws the codes in place of the recognition model that is trained.
            search: improves them before they are evaluated.
        """
        model, num_samples = self.model, self.settings.num_samples
        x = model.standardise(inputs)
        context = model.recognition.context(x)
        if behaviour is None:
            codes, logits, passes = self._draw(model.recognition, context, x, generator)
        else:
            with torch.no_grad():
                codes, _, passes = self._draw(behaviour, behaviour.context(x), x, generator)
            logits = model.recognition.logits(context, codes).float()
        if search is not None:
            codes = search.run(model, expand_samples(x, num_samples), codes, logits.detach(), generator).codes
            logits = model.recognition.logits(context, codes).float()
        log_q = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        parameters = model.generative(codes)
        log_p = model.likelihood.log_prob(parameters, expand_samples(x, num_samples))
        return Rollout(x, codes, logits, log_q, parameters, log_p, passes)

    def _draw(self, recognition: Recognition, context: Any, x: Tensor, generator: torch.Generator) -> Drawn:
        """K samples per item at temperature 1, (B·K, N), and their logits."""
        rows = x.shape[0] * place()[1] * self.settings.num_samples
        uniform = torch.rand(rows, recognition.num_tokens, generator=generator, device=x.device)
        uniform = share_of_rows(uniform, self.settings.num_samples)
        if isinstance(recognition, RecognitionModel):
            return draw_in_passes(recognition, context, uniform, fixed_passes=self.fixed_passes)
        codes = sample_codes(recognition, context, uniform).codes
        return Drawn(codes, recognition.logits(context, codes).float(), torch.ones((), device=x.device))

    def by_item(self, values: Tensor) -> Tensor:
        """(B·K, ...) -> (B, K, ...)."""
        return values.unflatten(0, (-1, self.settings.num_samples))

    def policy_metrics(self, rollout: Rollout, beta: float) -> dict[str, Tensor]:
        config = self.model.config
        log_p = rollout.log_p.detach().flatten(1).sum(1).mean()
        entropy = -rollout.log_q.detach().sum(1).mean()
        return {
            "log_p": log_p,
            "elbo": log_p - (config.num_tokens * math.log(config.vocab_size) - entropy),
            "entropy": entropy,
            "beta": log_p.new_full((), beta),
            "passes": rollout.passes,
            "codes_in_batch": log_p.new_zeros(config.vocab_size).index_fill_(0, rollout.codes.flatten(), 1.0).sum(),
        }
