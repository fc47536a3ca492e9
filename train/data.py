"""Datasets that fit in memory, as uint8 arrays, and an order of batches that depends on seed and step alone.

Because nothing is remembered between batches, an interrupted run continues with exactly the batches it would have seen.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from daps_tokenizer.errors import InputError

CIFAR10_MOSAIC = (25, 40)  # rows and columns of 32×32 tiles in one lossless WebP file


@dataclass(frozen=True)
class Dataset:
    """Training and test items, uint8 (B, height, width, channels), and their labels (B,)."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    def __post_init__(self) -> None:
        for split, items, labels in (("train", self.train, self.train_labels), ("test", self.test, self.test_labels)):
            if len(items) != len(labels):
                raise InputError(f"{split} has {len(items)} items and {len(labels)} labels; expected as many of both")


def data_folder(folder: Path | None) -> Path:
    """Where datasets are: the folder given, else ``$DAPS_DATA``, else ``../shared/data``.

    Raises:
        InputError: there is no such folder.
    """
    chosen = folder or Path(os.environ.get("DAPS_DATA", "../shared/data"))
    if not chosen.is_dir():
        raise InputError(f"{chosen}: no such folder; name the one that holds the datasets with --data or DAPS_DATA")
    return chosen


def load_dataset(kind: str, folder: Path) -> Dataset:
    """Load MNIST (``mnist.npz``) or CIFAR-10 (``cifar10/*.webp`` mosaics).

    Raises:
        InputError: a file is missing, damaged or not of the expected shape; names what would be accepted.
    """
    return {"mnist": _load_mnist, "cifar10": _load_cifar10}[kind](folder)


@contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    """Say which file is to blame, and what it should have been."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {expected}") from None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected {expected}") from error


def _load_mnist(folder: Path) -> Dataset:
    path = folder / "mnist.npz"
    expected = "the Keras archive with x_train, y_train, x_test and y_test"
    with _reading(path, expected), np.load(path, allow_pickle=False) as archive:
        train, test = archive["x_train"][..., None], archive["x_test"][..., None]
        return Dataset(train, test, archive["y_train"], archive["y_test"])


def _load_cifar10(folder: Path) -> Dataset:
    mosaics = folder / "cifar10"
    if not sorted(mosaics.glob("train_*.webp")):
        raise InputError(f"{mosaics}: no train_*.webp; expected CIFAR-10 as mosaics of 25×40 tiles of 32×32 pixels")
    return Dataset(
        _read_mosaics(mosaics, "train"),
        _read_mosaics(mosaics, "test"),
        _read_labels(mosaics / "train_labels.npy"),
        _read_labels(mosaics / "test_labels.npy"),
    )


def _read_mosaics(folder: Path, split: str) -> np.ndarray:
    rows, columns = CIFAR10_MOSAIC
    parts = []
    for path in sorted(folder.glob(f"{split}_*.webp")):
        with _reading(path, "a mosaic of 25×40 tiles of 32×32 pixels"), Image.open(path) as image:
            tiles = np.asarray(image.convert("RGB")).reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)
            parts.append(tiles.reshape(-1, 32, 32, 3))
    return np.concatenate(parts) if parts else np.empty((0, 32, 32, 3), np.uint8)


def _read_labels(path: Path) -> np.ndarray:
    with _reading(path, "one label per image"):
        labels: np.ndarray = np.load(path, allow_pickle=False)
        return labels


def batch_indices(num_items: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Which items make up the batch of a step: a new permutation of all items every epoch, the remainder dropped.

    Returns:
        (batch_size,) int64.

    Raises:
        InputError: a batch larger than the dataset.
    """
    if batch_size > num_items:
        raise InputError(f"batch_size {batch_size} is larger than the dataset of {num_items} items")
    epoch, position = divmod(step, num_items // batch_size)
    order = np.random.default_rng([seed, epoch]).permutation(num_items)
    return order[position * batch_size : (position + 1) * batch_size]
