"""The picture that ``encode --show`` draws: the codes of an image, and how surprising the model found each of them."""

from __future__ import annotations

import colorsys
import io
import math
import shutil
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from daps_tokenizer.codes.codes import Codes

_Colour = tuple[int, int, int]

# From expected to surprising: dark blue, violet, red, orange, pale yellow; brightness rises evenly.
_HEAT = np.array([(8, 12, 48), (88, 24, 120), (190, 50, 90), (244, 136, 56), (252, 248, 190)], float)
_GOLDEN_RATIO = (1 + 5**0.5) / 2
_ROW_OF_CODES = 32  # where codes have no place in the image, rows are at most this long
_PICTURE_SIZE, _MARGIN, _CAPTION = 640, 16, 24  # pixels


@dataclass(frozen=True)
class CodeGrids:
    """Codes of one image and the surprisal −log2 q of each, in bits, laid out as they lie in the image.

    Both are (rows, columns), with −1 and NaN where there is no code. Codes of a model without a grid are in rows.
    """

    codes: np.ndarray
    surprisal: np.ndarray
    vocab_size: int

    @classmethod
    def of(cls, codes: Codes, log_q: np.ndarray, token_grid: tuple[int, int] | None) -> CodeGrids:
        """Lay out the codes (1, N) or (1, T, N) of one image, with log q (T, N) in nats."""
        tile_rows, tile_columns = codes.layout.grid if codes.layout else (1, 1)
        count = codes.num_tokens
        rows, columns = token_grid or (math.ceil(count / _ROW_OF_CODES), min(count, _ROW_OF_CODES))

        def arrange(values: np.ndarray, filler: float) -> np.ndarray:
            tiles = values.reshape(tile_rows * tile_columns, count)
            missing = rows * columns - count
            tiles = np.pad(tiles, ((0, 0), (0, missing)), constant_values=filler)
            grid = tiles.reshape(tile_rows, tile_columns, rows, columns).swapaxes(1, 2)
            return grid.reshape(tile_rows * rows, tile_columns * columns)

        surprisal = -log_q.astype(np.float64) / math.log(2)
        return cls(arrange(codes.numpy(), -1), arrange(surprisal, np.nan), codes.vocab_size)

    @property
    def code_caption(self) -> str:
        return f"codes, 0 to {self.vocab_size - 1}"

    @property
    def surprisal_caption(self) -> str:
        total = float(np.nansum(self.surprisal))
        return f"surprisal -log2 q(code) in bits, total {total:.1f}, dark 0 to bright {math.log2(self.vocab_size):g}"


class _Cell(NamedTuple):
    text: str
    colour: _Colour


def print_grids(grids: CodeGrids, *, to_stderr: bool = False) -> None:
    """Draw both grids with one coloured cell a code, and numbers in the cells where they fit, or in a pipe."""
    from rich.console import Console
    from rich.text import Text

    stream = sys.stderr if to_stderr else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else sys.maxsize
    # Without a limit, as rich would cut what is wider than its idea of a pipe.
    console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
    for caption, cells in (
        (grids.code_caption, _code_cells(grids)),
        (grids.surprisal_caption, _surprisal_cells(grids)),
    ):
        console.print(caption)
        cell_width = max(len(cell.text) for row in cells for cell in row if cell) + 1
        if cell_width * len(cells[0]) > width:
            cell_width = 2
        if cell_width * len(cells[0]) > width:
            console.print(f"  {len(cells)}x{len(cells[0])} cells are too many for this terminal; use --show-png FILE")
            continue
        for row in cells:
            line = Text()
            for cell in row:
                shown = cell.text if cell and len(cell.text) < cell_width else ""
                line.append(shown.rjust(cell_width), style=_style(cell.colour) if cell else "")
            console.print(line)


def draw(grids: CodeGrids) -> bytes:
    """Both grids side by side as a PNG, each under its caption."""
    from PIL import Image, ImageDraw

    rows, columns = grids.codes.shape
    cell = max(1, _PICTURE_SIZE // max(rows, columns))
    panel_width = max(columns * cell, 24 * _MARGIN)
    size = (2 * panel_width + 3 * _MARGIN, rows * cell + _CAPTION + 2 * _MARGIN)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for panel, (caption, cells) in enumerate(
        ((grids.code_caption, _code_cells(grids)), (grids.surprisal_caption, _surprisal_cells(grids)))
    ):
        left, top = _MARGIN + panel * (panel_width + _MARGIN), _MARGIN + _CAPTION
        pen.text((left, _MARGIN), caption, fill="black")
        colours = np.array([[cell.colour if cell else (255, 255, 255) for cell in row] for row in cells], np.uint8)
        pixels = colours.repeat(cell, axis=0).repeat(cell, axis=1)
        picture.paste(Image.fromarray(pixels), (left, top))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _code_cells(grids: CodeGrids) -> list[list[_Cell | None]]:
    return [
        [_Cell(str(code), _code_colour(code)) if code >= 0 else None for code in row] for row in grids.codes.tolist()
    ]


def _surprisal_cells(grids: CodeGrids) -> list[list[_Cell | None]]:
    most = math.log2(grids.vocab_size)
    return [
        [_Cell(f"{bits:.1f}", _heat_colour(bits / most)) if bits == bits else None for bits in row]
        for row in grids.surprisal.tolist()
    ]


def _code_colour(code: int) -> _Colour:
    """The same colour for the same code, everywhere, and colours far apart for neighbouring codes."""
    hue = code * _GOLDEN_RATIO % 1.0
    saturation, value = 0.45 + 0.5 * (code % 3) / 2, 0.95 - 0.45 * (code % 5) / 4
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _heat_colour(share: float) -> _Colour:
    """The colour of a share between 0 (dark) and 1 (bright); what is above 1 is as bright as 1."""
    positions = np.linspace(0.0, 1.0, len(_HEAT))
    red, green, blue = (round(float(np.interp(share, positions, channel))) for channel in _HEAT.T)
    return red, green, blue


def _style(background: _Colour) -> str:
    """The style of rich that can be read on a background."""
    luma = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2]
    return f"{'black' if luma > 128 else 'white'} on rgb({background[0]},{background[1]},{background[2]})"
