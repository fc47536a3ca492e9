"""Items that are read by index: what training, tests and the watching of a run read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from daps_tokenizer.errors import ConfigError

_SEED = 20261128  # of the draw, for every run: the stages of a model must hold out the same items


class Items(Protocol):
    """Items of one shape, in memory or not."""

    def __len__(self) -> int:
        """How many items there are to choose from."""
        ...

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """The items at some indices.

        Args:
            indices: (B,) integers. An index that is repeated next to itself asks for as many random views of one item,
                where the items are augmented.
            seed: non-negative integers; together with an item's index and the number of the view they decide every
                random choice, so the same call returns the same pixels on any machine and in any process.

        Returns:
            (B, *input_shape), uint8 images or float32 features.

        Raises:
            InputError: an item cannot be read; names its file.
        """
        ...


@dataclass(frozen=True)
class ArrayItems:
    """Items in memory, (items, *input_shape); they are not augmented."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        chosen: np.ndarray = self.array[indices]
        return chosen


@dataclass(frozen=True)
class ItemSubset:
    """Some of other items, by their places there."""

    items: Items
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        return self.items.read(self.places[indices], seed=seed)


def uniform_of(indices: np.ndarray, seed: Sequence[int], count: int) -> np.ndarray:
    """Numbers in [0, 1) of each item, (B, count), which the seed and the item's index alone decide."""
    return np.stack([np.random.default_rng([*seed, index]).random(count) for index in indices.tolist()])


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
