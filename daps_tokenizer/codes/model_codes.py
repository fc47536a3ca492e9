"""Codes of one model: made in its name, and refused where they are another model's or of other inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import CodesError
from daps_tokenizer.inputs import Batch


@dataclass(frozen=True)
class ModelCodes:
    """Makes and checks the codes of the model with this config."""

    config: TokenizerConfig

    def make(self, values: np.ndarray, layout: TileLayout | ClipLayout | None) -> Codes:
        """Codes (..., N) that know which model made them."""
        config = self.config
        return Codes(values, config.vocab_size, config.name, self.config.weights_sha256, layout)

    def check(self, codes: Codes | np.ndarray) -> tuple[np.ndarray, TileLayout | ClipLayout | None]:
        """Values (..., N) int32 and layout of codes that are this model's.

        Raises:
            CodesError: codes of another model, out of range, or of another length.
        """
        config = self.config
        if isinstance(codes, Codes):
            if codes.weights_sha256 not in ("", self.config.weights_sha256):
                raise CodesError(
                    f"codes were made by {codes.model} (weights {codes.weights_sha256[:12]}), not by "
                    f"{config.name} (weights {self.config.weights_sha256[:12]}); use the model that made them"
                )
            checked = codes
        else:
            checked = self.make(codes, None)
        if checked.vocab_size != config.vocab_size or checked.num_tokens != config.num_tokens:
            raise CodesError(
                f"codes have {checked.num_tokens} tokens out of {checked.vocab_size}; "
                f"{config.name} has {config.num_tokens} out of {config.vocab_size}"
            )
        return checked.numpy(), checked.layout

    def match(
        self, values: np.ndarray, layout: TileLayout | ClipLayout | None, batch: Batch
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """The inputs that codes are of, each beside its codes.

        Args:
            values: (B, N) or (B, S, N); codes of tiles or windows have that axis before the last.
            layout: of the codes.
            batch: B items.

        Returns:
            A piece for each N codes, (n, *input_shape), and the axes of items: (B,) or (B, S).

        Raises:
            CodesError: codes that are cut otherwise than the inputs, or not of as many items.
        """
        if (layout and layout.cut) != (batch.layout and batch.layout.cut):
            pieces = (layout or batch.layout).pieces  # type: ignore[union-attr]  # one of them is there
            raise CodesError(
                f"the codes have other {pieces} than the inputs; pass the inputs and options they were made with"
            )
        samples = values.shape[1 : values.ndim - len(batch.leading)]
        if values.ndim < 2 or len(values) != batch.leading[0] or len(samples) > 1:
            count, num_tokens = batch.leading[0], self.config.num_tokens
            raise CodesError(
                f"codes of shape {values.shape} are not of {count} {self.config.modality}s; "
                f"expected ({count}, {num_tokens}) or ({count}, S, {num_tokens})"
            )
        return batch.repeat(samples[0]) if samples else batch.pieces, values.shape[: 1 + len(samples)]
