"""A motion tokenizer that begins as a transform codec (``train/transform_codec.py``), and then trains its decoder.

The codec is fitted when the run begins. Its code books are in both models, so that greedy codes are the codec's; the
recognition model stays as it is, and the generative model is trained by maximum likelihood on those codes, where the
transform back and the tables need not be the inverse of the encoder's any more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.motion.features import MIRROR_COLUMNS, MIRROR_SIGNS
from train.items import Items
from train.methods.base import Batch, Losses, Method
from train.motion import MotionWindows
from train.transform_codec import CodecSettings, fit_codec


class Codec(Method):
    """−log p(x|z) of the codes that the code books choose."""

    settings_type = CodecSettings
    settings: CodecSettings
    mirror_columns: Tensor
    mirror_signs: Tensor
    fitted: Tensor

    def __init__(self, model: Autoencoder, settings: CodecSettings) -> None:
        super().__init__(model, settings)
        if model.autoregressive.code_books is None:
            raise ConfigError("codec trains models with a transform, of generative.kind spectral")
        model.recognition.requires_grad_(False)
        self.register_buffer("mirror_columns", torch.from_numpy(MIRROR_COLUMNS), persistent=False)
        self.register_buffer("mirror_signs", torch.from_numpy(MIRROR_SIGNS), persistent=False)
        self.register_buffer("fitted", torch.full((3,), math.nan))

    def prepare(self, items: Items, seed: int) -> None:
        """Fit the codec to the training clips."""
        if not isinstance(items, MotionWindows):
            raise ConfigError("codec is fitted to dataset motion")
        self.fitted.copy_(torch.tensor(fit_codec(self.model, items, self.settings, seed=seed)))

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """Half of the clips, at random, are seen in a mirror."""
        x = self.model.standardise(batch.inputs)
        flipped = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(flipped[:, None, None], x[..., self.mirror_columns] * self.mirror_signs, x)
        with torch.no_grad():
            code_books = self.model.autoregressive.code_books
            assert code_books is not None  # checked in __init__
            codes = code_books(x).argmax(-1)
        log_p = self.model.likelihood.log_prob(self.model.generative(codes), x).flatten(1).sum(1).mean()
        names = ("fitted_left_out", "fitted_quantised", "fitted_corrected")
        metrics = dict(zip(names, self.fitted.unbind(), strict=True))
        return Losses(-log_p, {"log_p": log_p.detach(), **metrics})
