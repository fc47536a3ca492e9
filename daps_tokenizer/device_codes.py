"""Codes that a backend left on its GPU: they come to the host when something asks for them there, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daps_tokenizer.codes import Codes
from daps_tokenizer.layouts import ClipLayout, TileLayout

if TYPE_CHECKING:
    from torch import Tensor


class DeviceCodes(Codes):
    """Like :class:`~daps_tokenizer.codes.Codes`, made of a tensor (..., N) of integers on any device.

    They are not checked before they are on the host, since that would wait for the device.
    """

    _tensor: Tensor | None

    def __init__(
        self,
        values: np.ndarray | Tensor,
        vocab_size: int,
        model: str,
        weights_sha256: str,
        layout: TileLayout | ClipLayout | None = None,
    ) -> None:
        fields = {"vocab_size": vocab_size, "model": model, "weights_sha256": weights_sha256, "layout": layout}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_tensor", None if isinstance(values, np.ndarray) else values)
        if isinstance(values, np.ndarray):
            self._keep(values)

    def __getattr__(self, name: str) -> np.ndarray:
        """``values``, when they are first asked for."""
        if name != "values":
            raise AttributeError(name)
        assert self._tensor is not None
        self._keep(self._tensor.cpu().numpy())
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values, (..., N)."""
        return tuple(self.values.shape if self._tensor is None else self._tensor.shape)

    def torch(self) -> Tensor:
        """The values as a new tensor, (..., N) int64, on the device where they were made."""
        return super().torch() if self._tensor is None else self._tensor.long().clone()

    def _keep(self, values: np.ndarray) -> None:
        object.__setattr__(self, "values", values)
        self.__post_init__()
