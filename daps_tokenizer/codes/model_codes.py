"""Codes of one model: made in its name, and refused where they are another model's or of other inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.codes.layouts import ClipLayout, TileLayout
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import CodesError
from daps_tokenizer.images.arrays import is_tensor
from daps_tokenizer.inputs import Batch

if TYPE_CHECKING:
    from torch import Tensor

    AnyCodes = Codes | np.ndarray | Tensor


@dataclass(frozen=True)
class ModelCodes:
    """Makes and checks the codes of the model with this config."""

    config: TokenizerConfig

    def make(self, values: np.ndarray, layout: TileLayout | ClipLayout | None) -> Codes:
        """Codes (..., N) that know which model made them."""
        config = self.config
        return Codes(values, config.vocab_size, config.name, self.config.weights_sha256, layout)

    def check(self, codes: AnyCodes) -> tuple[np.ndarray, TileLayout | ClipLayout | None]:
        """Values (..., N) int32 and layout of codes that are this model's, or of integers that can be.

        Args:
            codes: Codes, or integers (..., N), or (..., rows, columns) where the model's codes have such a grid.

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
            checked = self.make(self._without_grid(codes), None)
        if checked.num_tokens != config.num_tokens:
            raise CodesError(
                f"codes have shape {checked.shape}; those of {config.name} have (..., {config.num_tokens})"
            )
        if checked.vocab_size != config.vocab_size:
            raise CodesError(
                f"codes are 0 to {checked.vocab_size - 1}; those of {config.name} are 0 to {config.vocab_size - 1}"
            )
        return checked.numpy(), checked.layout

    def match(self, values: np.ndarray, layout: TileLayout | ClipLayout | None, batch: Batch) -> np.ndarray:
        """The inputs that codes are of, in the order of the codes.

        Args:
            values: (B, N) or (B, S, N); codes of tiles or windows have that axis before the last.
            layout: of the codes.
            batch: B items.

        Returns:
            A piece for each N codes, (n, *input_shape).

        Raises:
            CodesError: codes that are cut otherwise than the inputs, or not of as many items.
        """
        if not len(values) and not len(batch.pieces):
            return batch.pieces
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
        return batch.pieces[batch.repeated(samples[0])] if samples else batch.pieces

    def _without_grid(self, codes: np.ndarray | Tensor) -> np.ndarray:
        """A tensor as an array, and integers (..., rows, columns) as (..., N)."""
        values: np.ndarray = codes.detach().cpu().numpy() if is_tensor(codes) else codes  # type: ignore
        grid, num_tokens = self.config.token_grid, self.config.num_tokens
        if isinstance(values, np.ndarray) and values.shape[-2:] == grid and values.shape[-1] != num_tokens:
            return values.reshape(*values.shape[:-2], num_tokens)
        return values
