"""Datasets as people have them: MNIST's archive, CIFAR-10 as mosaics, photographs and clips in folders and archives."""

from __future__ import annotations

import csv
import functools
import io
import re
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.archives import read_npz, reading
from daps_tokenizer.data.clip_windows import ClipWindows
from daps_tokenizer.data.sources import Labels, Source, open_files
from daps_tokenizer.data.storage import Entry, base_of, is_remote, list_files
from daps_tokenizer.errors import InputError
from daps_tokenizer.files import read_regular_file
from daps_tokenizer.images.load import Fit
from daps_tokenizer.inputs import InputOptions, Modality
from daps_tokenizer.modalities import open_modality
from daps_tokenizer.motion.dataset import open_motion_data
from daps_tokenizer.motion.features import FPS
from daps_tokenizer.motion.robots import robot_of

Split = Literal["train", "test"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_MOSAIC = (25, 40)  # rows and columns of 32×32 tiles in one lossless WebP file

_MOST_BYTES_OF_LABELS = 2**30
_LARGE_FILE = 2**24  # bytes
_one_large_file = threading.Lock()  # at a time, since its content is in memory while it is decoded


class Data(Protocol):
    """Items of a model's size, to be measured one by one."""

    @property
    def description(self) -> str:
        """What protocols call the data."""
        ...

    @property
    def fit(self) -> str:
        """How items were brought to the model's size."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """(items,) where there are any, −1 where one is not known."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that labels number, where they are known."""
        ...

    def __len__(self) -> int: ...

    def entries(self) -> Iterable[Entry]:
        """What records say of the items, in their order."""
        ...

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Items (B, *input_shape), uint8 images or float32 features; raises InputError where one cannot be read."""
        ...


@dataclass(frozen=True)
class ArrayData:
    """Items in memory, (items, *input_shape), and their labels (items,) where there are any."""

    array: np.ndarray
    description: str
    fit: str = "none"
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.array)

    def entries(self) -> Iterable[Entry]:
        return ((str(number), -1) for number in range(len(self)))

    def read(self, indices: np.ndarray) -> np.ndarray:
        items: np.ndarray = self.array[indices]
        return items


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images, brought to the model's (height, width, channels) when they are read."""

    source: Source
    modality: Modality
    description: str
    fit: Fit
    count: int
    given: Labels | None = None  # in place of the source's own

    @functools.cached_property
    def _labels(self) -> Labels | None:
        return self.given or self.source.labels()

    @property
    def labels(self) -> np.ndarray | None:
        """See :meth:`Data.labels`; read when it is asked for."""
        return None if self._labels is None else self._labels.values[: self.count]

    @property
    def classes(self) -> tuple[str, ...] | None:
        return None if self._labels is None else self._labels.classes

    def __len__(self) -> int:
        return self.count

    def entries(self) -> Iterable[Entry]:
        """The files, or their places in a tar file."""
        return islice(self.source.entries(), self.count)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.concatenate([self._read(index) for index in indices.tolist()])

    def _read(self, index: int) -> np.ndarray:
        try:
            content = self.source.read(index)
            with _one_large_file if len(content) > _LARGE_FILE else nullcontext():
                return self.modality.prepare(content, InputOptions(fit=self.fit)).pieces
        except InputError as error:
            name, reason = self.source.name(index), str(error).removeprefix("the image: ")
            raise type(error)(reason if reason.startswith(name) else f"{name}: {reason}") from error


def open_data(
    path: Path | str, config: TokenizerConfig, *, fit: Fit = "crop", split: Split = "test", limit: int | None = None
) -> Data:
    """Items to evaluate a model on.

    Args:
        path: for a motion model see :func:`~daps_tokenizer.motion.dataset.open_motion_data`; for an image model
            ``mnist.npz``, a folder of CIFAR-10 mosaics, image files, uncompressed tar files of images, or parquet files
            with a column of images: one file, a folder that is searched to any depth, or a pattern, in the order of
            their names; on the disk, or an address that fsspec reads, such as ``s3://bucket/folder``.
        config: the model's, which says of what size items are.
        fit: how images of other sizes are brought to it.
        split: of MNIST, CIFAR-10 and LAFAN1.
        limit: how many items, the first ones.

    Raises:
        InputError: nothing there, none of these, damaged, or without images; names what would be accepted.
    """
    local = Path(path)
    if config.modality == "motion":
        fps = config.motion.fps if config.motion is not None else FPS
        robot = robot_of(config)
        return open_motion_data(local, config.input_shape[0], fps=fps, robot=robot, split=split, limit=limit)
    modality, name = open_modality(config), str(path).rstrip("/")
    if not is_remote(name) and (local.suffix == ".npz" or any(local.glob(f"{split}_*.webp"))):
        is_mnist = local.suffix == ".npz"
        images, labels = read_mnist(local, split) if is_mnist else read_cifar10(local, split)
        classes = tuple(map(str, range(10))) if is_mnist else CIFAR10_CLASSES
        images, labels = images[:limit], labels[:limit]
        fitted = images
        if images.shape[1:] != config.input_shape:
            fitted = modality.prepare(images, InputOptions(fit=fit)).pieces
        return ArrayData(fitted, f"{local.name}, {split}", fit, labels, classes)
    source = open_files(list_files(name), base_of(name), name)
    count = len(source) if limit is None else min(limit, len(source))
    return ImageFiles(source, modality, name.rpartition("/")[2], fit, count)


def with_labels(data: Data, labels: Labels) -> Data:
    if isinstance(data, ImageFiles):
        return replace(data, given=labels)
    if isinstance(data, ArrayData | ClipWindows):
        return replace(data, labels=labels.values, classes=labels.classes)
    raise InputError(f"{data.description}: its items have no names that labels could be given by")


def read_labels(path: Path, data: Data) -> Labels:
    """Labels from a CSV file with the columns ``item`` and ``label``, for the items that it names.

    Items are named as in ``items.jsonl``, or from the folder of the data on. Where every label is a whole number it is
    the class's number; otherwise labels are the classes' names, numbered in their order.

    Raises:
        InputError: it cannot be read, has other columns, says two things of an item, or names no item of the data.
    """
    with reading(path, "a CSV file with the columns item and label"):
        text = read_regular_file(path, most_bytes=_MOST_BYTES_OF_LABELS).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text), strict=True)
        if sorted(rows.fieldnames or ()) != ["item", "label"]:
            raise InputError(f"{path}: has the columns {', '.join(rows.fieldnames or ())}; expected item and label")
        said = dict[str, str]()
        for row in rows:
            if None in row or None in row.values():
                raise InputError(f"{path}: line {rows.line_num} has not two values; expected an item and its label")
            if said.setdefault(row["item"], row["label"]) != row["label"]:
                raise InputError(f"{path}: line {rows.line_num} gives {row['item']!r} a second label")
    is_number = all(re.fullmatch("[0-9]{1,18}", label) for label in said.values())
    classes = None if is_number else tuple(sorted(set(said.values())))
    numbers = {label: int(label) if classes is None else classes.index(label) for label in set(said.values())}
    names = [name for name, _ in data.entries()]
    found = [said.get(name, said.get(name.partition("/")[2], "")) for name in names]
    if not any(found):
        raise InputError(f"{path}: names no item of {data.description}; its items are called {names[0]!r} and so on")
    return Labels(np.array([numbers.get(label, -1) for label in found], np.int64), classes)


def read_mnist(path: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images (items, 28, 28, 1) uint8 and labels (items,) uint8 of the Keras archive.

    Raises:
        InputError: missing, damaged, or another archive.
    """
    expected = "the Keras archive with x_train, y_train, x_test and y_test"
    arrays = read_npz(path, f"x_{split}", f"y_{split}", source=str(path), expected=expected)
    images, labels = arrays.values()
    if (
        images.ndim != 3
        or labels.shape != images.shape[:1]
        or images.dtype != np.uint8
        or labels.dtype.kind not in "iu"
    ):
        found = f"images {images.shape} of type {images.dtype} and labels {labels.shape} of type {labels.dtype}"
        raise InputError(f"{path}: {found}; expected {expected}, all of whole numbers")
    return images[..., None], labels


def read_cifar10(folder: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Images (items, 32, 32, 3) uint8 and labels (items,) uint8 of CIFAR-10 as mosaics of 25×40 tiles.

    Raises:
        InputError: no mosaics, or a file that is missing, damaged or of another size.
    """
    mosaics = sorted(folder.glob(f"{split}_*.webp"))
    if not mosaics:
        raise InputError(f"{folder}: no {split}_*.webp; expected CIFAR-10 as mosaics of 25×40 tiles of 32×32 pixels")
    rows, columns = CIFAR10_MOSAIC
    parts = []
    for path in mosaics:
        with reading(path, "a mosaic of 25×40 tiles of 32×32 pixels"), Image.open(path) as image:
            tiles = np.asarray(image.convert("RGB")).reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)
            parts.append(tiles.reshape(-1, 32, 32, 3))
    images = np.concatenate(parts)
    labels_path = folder / f"{split}_labels.npy"
    with reading(labels_path, "one label per image"):
        labels = np.asarray(np.load(labels_path, allow_pickle=False))
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{labels_path}: labels of shape {labels.shape} and type {labels.dtype}; expected a whole number for each "
            f"of {len(images)} images"
        )
    return images, labels
