"""Graphs for grids of codes of any size, of models whose generative model is convolutional: large photographs.

They compute what ``decoder.onnx`` and ``likelihood.onnx`` do, with rows and columns as dynamic as the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from daps_tokenizer.backends.protocol import TakesCanvases
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.canvas import canvas_parameters, canvas_values
from export.onnx_graphs import EXAMPLE_BATCH, export_graph

# Different from each other, or the exporter would take them for one size.
_EXAMPLE_ROWS, _EXAMPLE_COLUMNS = 6, 7
_CHECKED_ROWS, _CHECKED_COLUMNS = 9, 5


class Canvas(nn.Module):
    """Codes -> the reconstruction, and mean and variance in standardised units."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, rows, columns) -> three times (B, rows · cell, columns · cell, channels)."""
        moments = self.model.likelihood.moments(canvas_parameters(self.model, codes))
        return self.model.to_input_units(moments.mean), moments.mean, moments.variance


class CanvasLikelihood(nn.Module):
    """How well codes explain an image, cell by cell."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, height, width, channels) and codes (B, rows, columns) -> log p(x|z) and squared error of each."""
        return tuple(canvas_values(self.model, self.model.standardise(images), codes))  # type: ignore[return-value]


def export_canvas(model: Autoencoder) -> onnx.ModelProto:
    """``codes`` -> ``reconstruction``, ``mean``, ``variance``."""
    outputs = ["reconstruction", "mean", "variance"]
    return export_graph(
        Canvas(model), (_example_codes(),), ({0: "batch", 1: "rows", 2: "columns"},), ["codes"], outputs
    )


def export_canvas_likelihood(model: Autoencoder) -> onnx.ModelProto:
    """``images`` and ``codes`` -> ``log_likelihood`` and ``squared_error``, each (B, rows, columns)."""
    assert model.config.token_grid is not None
    height, _, channels = model.config.input_shape
    cell = height // model.config.token_grid[0]
    size = (_EXAMPLE_ROWS * cell, _EXAMPLE_COLUMNS * cell)
    images = torch.zeros(EXAMPLE_BATCH, *size, channels, dtype=torch.uint8)
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 1: cell * rows, 2: cell * columns}, {0: batch, 1: rows, 2: columns})
    outputs = ["log_likelihood", "squared_error"]
    return export_graph(CanvasLikelihood(model), (images, _example_codes()), shapes, ["images", "codes"], outputs)


def canvas_failures(
    ours: TakesCanvases, others: TakesCanvases, config: TokenizerConfig, *, levels: float, log_likelihood: float
) -> Iterator[str]:
    """A line for each canvas graph that differs from torch, on random codes of a canvas of another shape.

    Args:
        ours, others: torch and ONNX Runtime.
        config: of the model.
        levels: of a pixel, that the graph may differ by.
        log_likelihood: of a cell, as a share of the largest.
    """
    if config.token_grid is None:
        return
    rng = np.random.default_rng(0)
    cell = config.input_shape[0] // config.token_grid[0]
    codes = rng.integers(0, config.vocab_size, (2, _CHECKED_ROWS, _CHECKED_COLUMNS), dtype=np.int32)
    size = (2, _CHECKED_ROWS * cell, _CHECKED_COLUMNS * cell, config.input_shape[2])
    images = rng.integers(0, 256, size, dtype=np.uint8)
    expected, found = ours.canvases, others.canvases
    assert expected.decode and expected.likelihood
    if found.decode is None or found.likelihood is None:  # exported by an earlier version
        return
    decoded = [decode(codes).reconstruction.astype(np.float64) for decode in (expected.decode, found.decode)]
    if not ((difference := np.abs(decoded[0] - decoded[1]).max()) <= levels):  # also where it is NaN
        yield f"canvas.onnx: equal codes are decoded {difference:.0f} levels apart"
    judged = [judge(images, codes).log_likelihood for judge in (expected.likelihood, found.likelihood)]
    difference = np.abs(judged[0] - judged[1]).max() / max(1.0, np.abs(judged[0]).max())
    if not difference <= log_likelihood:
        yield f"canvas_likelihood.onnx: log p of equal codes differs by a share of {difference:.2g}"


def _example_codes() -> Tensor:
    return torch.zeros(EXAMPLE_BATCH, _EXAMPLE_ROWS, _EXAMPLE_COLUMNS, dtype=torch.int32)
