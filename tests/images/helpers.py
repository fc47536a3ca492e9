"""Pictures for tests, and what load_images makes of them."""

import numpy as np
import pytest

from daps_tokenizer.errors import InputError
from daps_tokenizer.images.load import load_images


def picture(height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    """A smooth picture without any symmetry: brightness rises to the right, and faster downwards."""
    y, x = np.mgrid[:height, :width]
    planes = [40 * c + 120 * y / height + 60 * x / width for c in range(channels)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def load_one(image: object, *, channels: int = 3) -> np.ndarray:
    (pixels,) = load_images(image, channels=channels)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] == channels
    return pixels


def refusal(image: object, **options: object) -> str:
    """The one line that load_images refuses this input with."""
    with pytest.raises(InputError) as caught:
        load_images(image, **{"channels": 3, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)
