"""Image codecs at the size of a tokenizer's codes: the best file within a number of bytes that Pillow can write.

Whole files count, with their headers, because that is what somebody who stores a photograph pays for. JPEG 2000 is
written as a bare codestream, WebP by its slowest method. Some photographs do not fit at the lowest quality there is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from daps_tokenizer.errors import BackendError
from daps_tokenizer.images.load import to_pil


class Fitted(NamedTuple):
    """A file that fits, and what it decodes to, (H, W, C) uint8."""

    content: bytes
    pixels: np.ndarray


@dataclass(frozen=True)
class Codec:
    """How Pillow writes one format.

    Args:
        name: for tables.
        feature: what Pillow calls the library that it needs.
        qualities: what to try, from the worst to the best.
        options: of ``Image.save`` for one of the qualities.
    """

    name: str
    feature: str
    qualities: Sequence[float]
    options: Callable[[float], dict[str, Any]]

    def fit(self, image: np.ndarray, max_bytes: int) -> Fitted | None:
        """The best file of at most ``max_bytes``, by bisection over the qualities; None where not even the worst fits.

        Args:
            image: (H, W, C) uint8.
            max_bytes: size of the whole file.

        Raises:
            BackendError: Pillow was built without this codec.
        """
        if not features.check(self.feature):
            raise BackendError(f"Pillow was built without {self.name}; install one of Pillow's own wheels")
        picture = to_pil(image)
        content = self._write(picture, self.qualities[0])
        if len(content) > max_bytes:
            return None
        low, high = 0, len(self.qualities)  # low fits, high is taken not to
        while high - low > 1:
            middle = (low + high) // 2
            tried = self._write(picture, self.qualities[middle])
            if len(tried) <= max_bytes:
                low, content = middle, tried
            else:
                high = middle
        with Image.open(io.BytesIO(content)) as decoded:
            return Fitted(content, np.asarray(decoded.convert(picture.mode)).reshape(image.shape))

    def _write(self, picture: Image.Image, quality: float) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, **self.options(quality))
        return buffer.getvalue()


CODECS = (
    Codec("WebP", "webp", range(101), lambda q: {"format": "WEBP", "quality": q, "method": 6}),
    Codec("AVIF", "avif", range(101), lambda q: {"format": "AVIF", "quality": q, "speed": 6}),
    Codec(
        "JPEG 2000",
        "jpg_2000",
        [1 / share for share in np.geomspace(1 / 2000, 1 / 2, 400)],  # how many times smaller than the pixels
        lambda ratio: {"format": "JPEG2000", "quality_layers": [ratio], "irreversible": True, "no_jp2": True},
    ),
)
