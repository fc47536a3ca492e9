"""Whether one sees where tiles meet: the same pixels at the border of tiles, and in the middle of one.

Each photograph of the model's size is encoded twice: as one item, and shifted by half a tile, so that the borders of
four tiles cross in its middle. The codes of the four are decoded each tile by itself and as one grid. Pixel by pixel
that shows what a border costs, as everything else is equal: what is in the picture, and how hard it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import report, table, write_report
from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.tiled import can_be_one_grid
from daps_tokenizer.codes.layouts import TileLayout
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.metrics import interval_text, summarise
from daps_tokenizer.images.tiles import join_tiles

# Distances from the nearest border in pixels, each up to the next; 0 touches it.
_DISTANCES = (0, 1, 2, 4, 8, 16, 32)


def measure_seams(
    tokenizer: Tokenizer,
    data: Data,
    images: Sequence[int],
    *,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Any]]:
    """Errors near the border of tiles, of 8-bit levels squared.

    Args:
        tokenizer: of a model whose tiles can be decoded as one grid.
        data: photographs.
        images: which of them.
        seed: of the bootstrap.
        on_progress: is told how many photographs are done.

    Returns:
        For ``apart``, ``one grid`` and ``no border``: for each distance from the border the mean squared error there,
        and ``jump``, the mean squared error of the difference between the two pixels on either side of the border;
        means over photographs with 95 % bootstrap intervals.

    Raises:
        InputError: a model whose tiles are always decoded apart.
    """
    height, width, _ = tokenizer.input_shape
    layout = TileLayout(height=2 * height, width=2 * width, rows=2, columns=2)
    if not can_be_one_grid(tokenizer.config):
        raise InputError(
            f"{tokenizer.config.name} decodes every tile by itself; seams are measured of convolutional ones"
        )
    found: dict[str, list[dict[str, float]]] = {"apart": [], "one grid": [], "no border": []}
    for done, index in enumerate(images, start=1):
        (image,) = data.read(np.array([index]))
        pad_y, pad_x = (height // 2, height - height // 2), (width // 2, width - width // 2)
        shifted = np.pad(image, (pad_y, pad_x, (0, 0)), mode="symmetric")
        codes = tokenizer.encode(shifted, fit="tile")
        views = {
            "apart": join_tiles(tokenizer.decode(codes.numpy()[0]), layout),
            "one grid": tokenizer.decode(codes)[0],
        }
        cut = slice(pad_y[0], pad_y[0] + height), slice(pad_x[0], pad_x[0] + width)
        for name, view in views.items():
            found[name].append(_errors(image, view[cut]))
        found["no border"].append(_errors(image, tokenizer.reconstruct(image)[0]))
        on_progress(done)
    return {
        name: summarise({key: np.array([row[key] for row in rows]) for key in rows[0]}, seed)
        for name, rows in found.items()
    }


def _errors(image: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """Errors of one image (H, W, C) by the distance from the border, which begins at half its height and width.

    The shift is half a tile rounded down, so in the photograph the border lies half a tile rounded up from its origin.
    """
    error = reconstruction.astype(np.float64) - image
    row, column = error.shape[0] - error.shape[0] // 2, error.shape[1] - error.shape[1] // 2
    distances = [_distance(size, border) for size, border in zip(error.shape[:2], (row, column), strict=True)]
    nearest = np.minimum(distances[0][:, None], distances[1])
    values = {}
    for low, high in zip(_DISTANCES, (*_DISTANCES[1:], np.inf), strict=True):
        ring = error[(nearest >= low) & (nearest < high)]
        if ring.size:  # a small tile has no pixels that far away
            values[str(low)] = float(np.square(ring).mean())
    jumps = np.concatenate([error[row] - error[row - 1], error[:, column] - error[:, column - 1]])
    return {**values, "jump": float(np.square(jumps).mean())}


def _distance(size: int, border: int) -> np.ndarray:
    """Pixels between each of ``size`` places and the border before place ``border``."""
    place = np.arange(size)
    return np.where(place < border, border - 1 - place, place - border)


def write_seams(folder: Path, model: str, content: dict[str, Any]) -> list[Path]:
    results = content["results"]
    keys, views = list(results["apart"]), ("apart", "one grid", "no border")
    rows = [
        (
            _title(key, following),
            *(interval_text(results[view][key], 0) for view in views),
        )
        for key, following in zip(keys, [*keys[1:], None], strict=True)
    ]
    text = report(
        f"Seams between tiles of {model}",
        [content["command"]],
        table(("", "decoded apart", "decoded as one grid", "the same pixels, no border"), rows),
        f"Mean squared errors in 8-bit levels², over {content['items']} photographs of {content['data']} with 95 % "
        f"bootstrap intervals; greedy codes, weights {content['weights_sha256'][:12]}. Each photograph is encoded as "
        "one item, and shifted by half a tile, so that the borders of four tiles cross in its middle. The jump is the "
        "error of the difference between the two pixels on either side of the border.",
        machine=content["machine"],
    )
    return write_report(folder, f"seams_{model}", content, text)


def _title(key: str, following: str | None) -> str:
    if key == "jump":
        return "jump across the border"
    if following in (None, "jump"):
        return f"{key} pixels from the border and more"
    last = int(str(following)) - 1
    return f"{key} pixels from the border" if last == int(key) else f"{key} to {last} pixels from the border"
