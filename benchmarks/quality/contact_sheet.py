"""A contact sheet: the best, median and worst images of a measurement next to their reconstructions.

Written where it is asked for, and never among the results: photographs may not be ours to pass on.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

_GAP, _CAPTION = 8, 16  # pixels


class Panel(NamedTuple):
    """One picture (H, W, C) uint8 and what is written above it."""

    caption: str
    pixels: np.ndarray


def choose_rows(quality: np.ndarray, count: int = 3) -> list[tuple[str, int]]:
    """The ``count`` best, median and worst places of quality (n,), best first, each with its name; none comes twice."""
    order = np.argsort(-quality, kind="stable")
    middle = max(0, (len(order) - count) // 2)
    parts = (("best", order[:count]), ("median", order[middle : middle + count]), ("worst", order[-count:]))
    rows: dict[int, str] = {}
    for name, places in parts:
        for place in places.tolist():
            rows.setdefault(place, name)
    return [(name, place) for place, name in rows.items()]


def draw_sheet(rows: list[list[Panel]]) -> bytes:
    """Panels of one size as a PNG, row by row."""
    height, width = rows[0][0].pixels.shape[:2]
    columns = max(len(row) for row in rows)
    size = (columns * (width + _GAP) + _GAP, len(rows) * (height + _CAPTION + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            left, top = _GAP + x * (width + _GAP), _GAP + y * (height + _CAPTION + _GAP)
            pen.text((left, top), panel.caption, fill="black")
            pixels = panel.pixels if panel.pixels.shape[-1] == 3 else panel.pixels.repeat(3, axis=-1)
            sheet.paste(Image.fromarray(pixels), (left, top + _CAPTION))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
