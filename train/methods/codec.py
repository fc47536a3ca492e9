"""A motion tokenizer that begins as a transform codec (``train/transform_codec.py``) and is then trained.

The codec is fitted when the run begins. Its code books are in both models, so that greedy codes are the codec's. Then
either the generative model is trained by maximum likelihood on those codes; or, with ``train_encoder``, transform, code
books and the networks around them are trained together as a VQ-VAE with a code book for each position is: by the
gradient of log p, passed straight through the quantiser (van den Oord et al., 2017). The autoregressive network
stays as it is in both cases.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import SpectralGenerator
from daps_tokenizer.motion.features import feature_table
from daps_tokenizer.motion.robots import robot_of
from train.items import Items
from train.methods.base import Batch, Losses, Method
from train.motion import MotionWindows
from train.transform_codec import CodecSettings, fit_codec, nearest_codes


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
        if settings.train_encoder:
            books = model.autoregressive.code_books
            books.requires_grad_(True)
            for parameter in (books.table, books.log_sharpness):  # the table follows the generative model's
                parameter.requires_grad_(False)
        table = feature_table(robot_of(model.config))
        if table.mirror_columns is None or table.mirror_signs is None:
            raise ConfigError("codec needs a robot whose left and right are alike, as it learns from mirror images too")
        self.register_buffer("mirror_columns", torch.from_numpy(table.mirror_columns), persistent=False)
        self.register_buffer("mirror_signs", torch.from_numpy(table.mirror_signs), persistent=False)
        self.register_buffer("fitted", torch.full((3,), math.nan))

    def prepare(self, items: Items, seed: int) -> None:
        if not isinstance(items, MotionWindows):
            raise ConfigError("codec is fitted to dataset motion")
        self.fitted.copy_(torch.tensor(fit_codec(self.model, items, self.settings, seed=seed)))

    def forward(self, batch: Batch, generator: torch.Generator, progress: float) -> Losses:
        """Half of the clips, at random, are seen in a mirror."""
        x = self.model.standardise(batch.inputs)
        flipped = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(flipped[:, None, None], x[..., self.mirror_columns] * self.mirror_signs, x)
        log_p, distance = self._straight_through(x) if self.settings.train_encoder else self._of_codec(x)
        names = ("fitted_left_out", "fitted_quantised", "fitted_corrected")
        metrics = dict(zip(names, self.fitted.unbind(), strict=True))
        return Losses(distance - log_p, {"log_p": log_p.detach(), **metrics})

    def _of_codec(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p of the codes that the code books choose."""
        code_books = self.model.autoregressive.code_books
        assert code_books is not None  # checked in __init__
        with torch.no_grad():
            codes = code_books(x).argmax(-1)
        log_p = self.model.likelihood.log_prob(self.model.generative(codes), x).flatten(1).sum(1).mean()
        return log_p, torch.zeros(())

    def _straight_through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p with the gradient of quantised coefficients given to coefficients and code books, and how far these two
        are apart."""
        code_books, generative = self.model.autoregressive.code_books, self.model.generative
        assert code_books is not None and isinstance(generative, SpectralGenerator)
        coefficients = code_books.coefficients(x).float()
        books = generative.embedding.weight.chunk(self.model.config.num_tokens, dim=1)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            codes = nearest_codes(coefficients, books)
        quantised = torch.cat([F.embedding(code, book) for code, book in zip(codes.unbind(1), books, strict=True)], 1)
        commitment = (coefficients - quantised.detach()).square().sum(1).mean()
        following = (quantised - coefficients.detach()).square().sum(1).mean()
        parameters = generative.decode_coefficients(quantised + coefficients - coefficients.detach()).float()
        log_p = self.model.likelihood.log_prob(parameters, x).flatten(1).sum(1).mean()
        return log_p, self.settings.commitment * (commitment + 0.5 * following)

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Give the recognition model the code books of the generative model."""
        code_books = self.model.autoregressive.code_books
        if self.settings.train_encoder and code_books is not None:
            code_books.table.copy_(self.model.generative.embedding.weight)
