"""Training items that are held out: a training run is watched on them, so that the test set is read once a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from daps_tokenizer.errors import ConfigError

if TYPE_CHECKING:
    from train.data import Items

_SEED = 20261128  # of the draw, for every run: the stages of a model must hold out the same items


@dataclass(frozen=True)
class ItemSubset:
    """Some of other items, by their places there."""

    items: Items
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """See :meth:`train.data.Items.read`."""
        return self.items.read(self.places[indices], seed=seed)


def split_places(total: int, held_out: int, *, name: str = "validation_items") -> tuple[np.ndarray, np.ndarray]:
    """Places (total - held_out,) that stay and (held_out,) that are held out, in order; the same draw every time.

    Raises:
        ConfigError: nothing would stay; names the setting ``name``.
    """
    if held_out >= total:
        raise ConfigError(f"{name} must be fewer than the {total} training items, not {held_out}")
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng([_SEED, total]).choice(total, held_out, replace=False)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
