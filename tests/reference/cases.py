"""Which examples the reference holds, and how its files are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.paths import EXAMPLES

_FOLDER = Path(__file__).parent
SEED = 0


@dataclass(frozen=True)
class Case:
    """One example and the built-in model that encodes it."""

    model: str
    example: Path

    @property
    def file(self) -> Path:
        """The codes, as JSON."""
        return _FOLDER / f"{self.model}.{self.example.stem}.json"

    @property
    def decoded_file(self) -> Path:
        """What the greedy codes decode to: a PNG of the image, or a JSON of the poses."""
        suffix = ".poses.json" if self.example.suffix == ".csv" else ".png"
        return _FOLDER / f"{self.model}.{self.example.stem}{suffix}"


CASES = (
    Case("daps-photo-256", EXAMPLES / "cat.png"),
    Case("daps-photo-256", EXAMPLES / "coffee.webp"),
    Case("daps-cifar10", EXAMPLES / "cat.png"),
    Case("daps-cifar10", EXAMPLES / "coffee.webp"),
    Case("daps-mnist", EXAMPLES / "digit.png"),
    Case("daps-h1-motion", EXAMPLES / "walk.csv"),
    Case("daps-g1-motion", EXAMPLES / "walk_g1.csv"),
)


def read_reference(case: Case) -> dict[str, Any]:
    """The content of a case's JSON file."""
    content: dict[str, Any] = json.loads(case.file.read_text(encoding="utf-8"))
    return content


def read_decoded(case: Case) -> np.ndarray:
    """Decoded pixels (height, width, channels) uint8, or poses (T, 26) float64."""
    if case.decoded_file.suffix == ".json":
        return np.array(json.loads(case.decoded_file.read_text(encoding="utf-8")))
    with Image.open(case.decoded_file) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
