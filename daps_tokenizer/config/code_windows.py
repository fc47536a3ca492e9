"""Windows of an image's grid of codes, encoded side by side: the autoregressive loop is as short as a window.

A window is a row of the batch like any other, so the networks do not know of windows; only what goes in and comes out
is regrouped, here. Items that are not cut have one window: themselves. Arrays may be numpy's or torch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from daps_tokenizer.config import TokenizerConfig

_Array = TypeVar("_Array", bound=Any)

# Passes over all codes (model/sampling.py) that a GPU records as one launch; how many more a launch has while rows have
# not settled; and how many a large batch gets before its rows are drawn one code after the other. Measured on test
# images (docs/notes/gpu.md): digits settle in 5, CIFAR-10 images in 4.8 on average and all but 1 of 1,000 in 16,
# windows of photographs in 12.0 on average, 85 % in 16.
FIRST_PASSES, MORE_PASSES, MOST_PASSES = 4, 2, 16
_FEW_CODES = 4096


def most_passes(rows: int, num_codes: int) -> int:
    """After how many passes over ``rows`` windows of ``num_codes`` codes the steps of a loop draw what is left.

    A pass over few codes takes a GPU hardly longer than one of ``num_codes`` steps, and one pass more than there are
    positions settles every row. On an H200 all steps take as long as 80 passes for one photograph, 11 for 64.
    """
    return num_codes + 1 if rows * num_codes <= _FEW_CODES else MOST_PASSES


@dataclass(frozen=True)
class Windows:
    """``grid`` is (rows, columns) of windows in an item, ``size`` (rows, columns) of codes in a window."""

    grid: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, config: TokenizerConfig) -> Windows:
        """How a config cuts its items; where it does not, into one window, a single row of all N codes."""
        if not config.recognition.window:
            return cls((1, 1), (1, config.num_tokens))
        rows, columns = config.recognition.window
        return cls((config.patch_grid[0] // rows, config.patch_grid[1] // columns), (rows, columns))

    @property
    def per_item(self) -> int:
        """W, windows in an item."""
        return self.grid[0] * self.grid[1]

    @property
    def num_codes(self) -> int:
        """n, codes in a window: steps of the autoregressive loop."""
        return self.size[0] * self.size[1]

    def split(self, x: _Array, num_items: int) -> _Array:
        """Items to windows.

        Args:
            x: (B·K, N, ...), one entry per code, row by row; the K samples of an item are next to each other.
            num_items: B.

        Returns:
            (B·W·K, n, ...): the K samples of a window are next to each other.
        """
        if self.per_item == 1:
            return x
        rest = x.shape[2:]
        # (B, K, grid rows, rows, grid columns, columns, ...) -> (B, grid rows, grid columns, K, rows, columns, ...)
        x = x.reshape(num_items, -1, self.grid[0], self.size[0], self.grid[1], self.size[1], *rest)
        x = x.swapaxes(1, 2).swapaxes(2, 4).swapaxes(3, 4)
        return x.reshape(-1, self.num_codes, *rest)

    def join(self, x: _Array, num_items: int) -> _Array:
        """The inverse of :meth:`split`: (B·W·K, n, ...) -> (B·K, N, ...)."""
        if self.per_item == 1:
            return x
        rest = x.shape[2:]
        x = x.reshape(num_items, *self.grid, -1, *self.size, *rest)
        x = x.swapaxes(3, 4).swapaxes(2, 4).swapaxes(1, 2)
        return x.reshape(-1, self.per_item * self.num_codes, *rest)
