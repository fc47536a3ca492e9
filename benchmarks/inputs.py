"""Real inputs to time on: how many passes an encoding takes depends on what is in the image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.data.place import default_folder
from daps_tokenizer.motion.robots import H1, robot_of

ROOT = Path(__file__).resolve().parents[1]
_TEST_SETS: dict[tuple[int, ...], str] = {
    (28, 28, 1): "mnist.npz",
    (32, 32, 3): "cifar10",
    (256, 256, 3): "photos256-val.tar",
}


def real_inputs(config: TokenizerConfig, count: int, data: Path | None = None) -> tuple[np.ndarray, str]:
    """Inputs of the model's size that it was not trained on, and what they are.

    Images (count, height, width, C) uint8: test images where ``data`` has them, evenly spread over the test set, else
    crops of ``examples/cat.png``. Clips (count, frames, 7 + joints): stretches of ``examples/walk.csv``, or of
    ``walk_g1.csv`` for the G1.
    """
    if config.modality == "motion":
        walk = "walk.csv" if robot_of(config) == H1 else "walk_g1.csv"
        return _walks(walk, config.input_shape[0], count), f"{count} stretches of examples/{walk}"
    name, data = _TEST_SETS.get(config.input_shape), data or default_folder()
    if name is not None and (data / name).exists():
        test = open_data(data / name, config)
        indices = np.linspace(0, len(test) - 1, count).round().astype(np.int64)
        return test.read(indices), f"{test.description}, {count} images evenly spread"
    return _crops(config, count), f"{count} crops of examples/cat.png"


def _crops(config: TokenizerConfig, count: int) -> np.ndarray:
    """Squares of changing place and size, scaled to the model's size."""
    height, width, channels = config.input_shape
    image = Image.open(io.BytesIO((ROOT / "examples" / "cat.png").read_bytes())).convert(
        "L" if channels == 1 else "RGB"
    )
    random = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        side = int(random.integers(min(image.size) // 3, min(image.size) + 1))
        left, top = (int(random.integers(0, size - side + 1)) for size in image.size)
        crop = image.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.LANCZOS)
        crops.append(np.asarray(crop).reshape(height, width, channels))
    return np.stack(crops)


def _walks(name: str, frames: int, count: int) -> np.ndarray:
    """Poses of one window each, evenly spread over the walk."""
    clip = np.loadtxt(ROOT / "examples" / name, delimiter=",")
    starts = np.linspace(0, len(clip) - frames, count).astype(np.int64)
    return np.stack([clip[start : start + frames] for start in starts])
