"""Mean and standard deviation of the pixels of one's own images, as ``normalisation`` of a model wants them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from daps_tokenizer.data.sources import Source, open_source
from daps_tokenizer.errors import InputError
from daps_tokenizer.images.load import load_images


def open_images(data: str) -> tuple[str, tuple[str, ...], Source]:
    """Images by what a user calls them: a folder, a tar file or several by a pattern, or ``name:split`` on the Hub.

    Returns:
        ``kind`` and the patterns, as a :class:`~train.photos.PhotosConfig` has them, and the images.

    Raises:
        InputError: nothing there, or no images in it.
    """
    path = Path(data)
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        kind, patterns = ("tar", (f"{data.rstrip('/')}/*.tar",)) if tars else ("folder", (data,))
    elif data.endswith(".tar"):
        kind, patterns = "tar", (data,)
    elif ":" in data:
        kind, patterns = "huggingface", (data,)
    else:
        raise InputError(f"{data}: no such folder; expected a folder of images, a tar file, or name:split on the Hub")
    return kind, patterns, open_source(kind, patterns, Path())  # type: ignore[arg-type]


def pixel_statistics(source: Source, *, channels: int = 3, limit: int = 1000) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels together, of pixels / 255.

    Args:
        source: encoded images.
        channels: 1 or 3.
        limit: how many images at most, spread evenly over all.

    Raises:
        InputError: an image cannot be read; names it.
    """
    count = min(limit, len(source))
    pixels, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for index in (np.arange(count) * len(source) // count).tolist():
        try:
            (image,) = load_images(io.BytesIO(source.read(index)), channels=channels)
        except InputError as error:
            raise InputError(f"{source.name(index)}: {str(error).removeprefix('the image: ')}") from None
        values = image.reshape(-1, channels).astype(np.float64) / 255
        pixels += len(values)
        total += values.sum(0)
        squares += np.square(values).sum(0)
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    return mean.round(4).tolist(), np.maximum(std.round(4), 1e-3).tolist()
