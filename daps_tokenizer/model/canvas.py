"""Grids of codes of any size, which the convolutional generative model decodes as it decodes its own.

A large photograph is one canvas: the codes of its tiles side by side (see :mod:`daps_tokenizer.backends.tiled`).
"""

from __future__ import annotations

from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder, CellValues
from daps_tokenizer.model.generative import ResNetGenerator


def canvas_parameters(model: Autoencoder, codes: Tensor) -> Tensor:
    """Codes (B, rows, columns) -> distribution parameters (B, rows · cell, columns · cell, channels × parameters)."""
    assert isinstance(model.generative, ResNetGenerator)  # of which config.token_grid tells
    return model.generative.decode_grid(model.generative.embedding(codes))


def canvas_values(model: Autoencoder, x: Tensor, codes: Tensor) -> CellValues:
    """log p(x|z) and squared error of each code's own cell.

    Args:
        model: with a convolutional generative model.
        x: standardised, (B, rows · cell, columns · cell, channels).
        codes: (B, rows, columns).

    Returns:
        Each (B, rows, columns).
    """
    parameters = canvas_parameters(model, codes)
    error = (x - model.likelihood.moments(parameters).mean).square()
    cell = model.config.input_shape[0] // model.generative.side  # type: ignore[operator]

    def sum_cells(values: Tensor) -> Tensor:
        return values.unflatten(2, (-1, cell)).unflatten(1, (-1, cell)).sum(dim=(2, 4, 5))

    return CellValues(sum_cells(model.likelihood.log_prob(parameters, x)), sum_cells(error))
