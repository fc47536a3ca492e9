"""Small photographs in tar files and folders, for tests that read some."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def noise_photo(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """(height, width, 3) uint8 that no other number has."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode_image(pixels: np.ndarray, kind: str = "png") -> bytes:
    """A lossless image file of (H, W, 3) or (H, W)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, lossless=True)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar file with these members, in this order."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_photos(folder: Path, train: int = 12, test: int = 3) -> Path:
    """``train-0.tar``, ``train-1.tar`` and ``val.tar`` of noise; the test photographs have the last numbers."""
    half = train // 2
    parts = {"train-0": range(half), "train-1": range(half, train), "val": range(train, train + test)}
    for name, numbers in parts.items():
        write_tar(folder / f"{name}.tar", {f"{n:04}.png": encode_image(noise_photo(n)) for n in numbers})
    return folder
