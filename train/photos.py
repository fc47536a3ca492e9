"""Photographs as items: decoded when they are needed, cropped to the size of the model, augmented.

Training items are random crops, mirrored half of the time. Test items are centre crops. Photographs are never all in
memory: an item is read from its source (``daps_tokenizer/data/sources.py``), decoded and cropped anew every time.
"""

from __future__ import annotations

import glob
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.data.sources import Source, SourceKind, open_source
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.images.load import load_images, to_pil
from train.items import Items, ItemSubset, split_places

_CROP_TRIES = 10
_LOG_RATIO = math.log(4 / 3)


@dataclass(frozen=True)
class PhotosConfig:
    """Which photographs, and how they become items.

    Args:
        kind, train, test, image_column: see :func:`daps_tokenizer.data.sources.open_source`.
        test_items: where ``test`` is empty, how many photographs of ``train`` are the test set instead.
        shorter_side: photographs whose shorter side has more pixels are scaled down to it before they are cropped, so
            that a crop shows as much of a large photograph as of a small one.
        flip: mirror half of the training crops.
        jitter: brightness and contrast of each training crop are multiplied by factors between 1 − jitter and
            1 + jitter, alike in all channels, so that colours keep their hue; 0 for never.
        resized_crop: training crops show a random share of the photograph's area between these two numbers, as
            [0.25, 1.0], with sides in a ratio of 3:4 to 4:3, and are scaled to the size of the model. Without it, crops
            are cut at the scale of the photograph.
        crops_per_image: crops of a training batch that are cut from one photograph, since decoding it costs more than
            cropping; divides the batch size.
        workers: processes that decode; where it is not given, one for every core but one, at most 16. Results do not
            depend on it.
    """

    kind: SourceKind = "tar"
    train: tuple[str, ...] = ("photos256-train-*.tar",)
    test: tuple[str, ...] = ("photos256-val.tar",)
    test_items: int = 0
    image_column: str = "image"
    shorter_side: int = 256
    flip: bool = True
    jitter: float = 0.0
    resized_crop: tuple[float, ...] | None = None
    crops_per_image: int = 1
    workers: int | None = None

    def __post_init__(self) -> None:
        require_choice("data.kind", self.kind, SourceKind)
        if not self.train:
            raise ConfigError("data.train must name at least one source of photographs")
        if (self.test_items > 0) == bool(self.test):
            raise ConfigError(
                "data.test must name at least one source of photographs; or it is [], and data.test_items says how "
                "many photographs of data.train are the test set"
            )
        if self.shorter_side < 1 or self.crops_per_image < 1:
            raise ConfigError(
                "data.shorter_side and data.crops_per_image must be at least 1, "
                f"not {self.shorter_side} and {self.crops_per_image}"
            )
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"data.jitter must be at least 0 and under 1, not {self.jitter}")
        shares = self.resized_crop
        if shares is not None and not (len(shares) == 2 and 0 < shares[0] <= shares[1] <= 1):
            raise ConfigError(
                "data.resized_crop must be the smallest and the largest share of a photograph's area, "
                f"as [0.25, 1.0], not {list(shares)}"
            )
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"data.workers must be at least 0, not {self.workers}")

    def check_fit(self, input_shape: tuple[int, ...], batch_size: int) -> None:
        """Check against the model and the batch.

        Raises:
            ConfigError: no model of images, crops larger than the photographs are scaled to, or a batch that cannot be
                shared out.
        """
        if len(input_shape) != 3:
            raise ConfigError(f"dataset photos needs a model of images, not of {list(input_shape)}")
        if max(input_shape[:2]) > self.shorter_side:
            raise ConfigError(
                f"data.shorter_side must be at least the {max(input_shape[:2])} pixels of the model's input, "
                f"not {self.shorter_side}"
            )
        if batch_size % self.crops_per_image:
            raise ConfigError(
                f"batch_size must be a multiple of data.crops_per_image {self.crops_per_image}, not {batch_size}"
            )


@dataclass(frozen=True)
class PhotoItems:
    """Crops of photographs, (height, width, channels) uint8: random views where ``augmented``, else the centre."""

    source: Source
    shape: tuple[int, ...]
    settings: PhotosConfig
    augmented: bool

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """See :meth:`train.items.Items.read`; neighbours of one index are cut from one decoded photograph."""
        rows = []
        for index, repeats in groupby(indices.tolist()):
            photo = self._decode(index)
            for view, _ in enumerate(repeats):
                rows.append(self._random_view(photo, [*seed, index, view]) if self.augmented else self._centre(photo))
        return np.stack(rows)

    def _decode(self, index: int) -> np.ndarray:
        """One photograph (H, W, C) at the scale that it is cropped at."""
        file = io.BytesIO(self.source.read(index))
        try:
            (photo,) = load_images(file, channels=self.shape[2])
        except InputError as error:
            reason = str(error).removeprefix("the image: ")
            raise InputError(f"{self.source.name(index)}: {reason}") from None
        return _scale(photo, self.shape[0], self.shape[1], self.settings.shorter_side)

    def _centre(self, photo: np.ndarray) -> np.ndarray:
        height, width, _ = self.shape
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        return photo[top : top + height, left : left + width]

    def _random_view(self, photo: np.ndarray, seed: list[int]) -> np.ndarray:
        random = np.random.default_rng(seed)
        height, width = self.shape[:2]
        if self.settings.resized_crop is not None:
            height, width = _random_size(photo.shape[:2], (height, width), self.settings.resized_crop, random)
        top = random.integers(photo.shape[0] - height, endpoint=True)
        left = random.integers(photo.shape[1] - width, endpoint=True)
        crop = photo[top : top + height, left : left + width]
        if crop.shape != self.shape:
            crop = _resize(crop, self.shape[0], self.shape[1])
        if self.settings.flip and random.random() < 0.5:
            crop = crop[:, ::-1]
        if self.settings.jitter:
            crop = _jitter(crop, *random.uniform(1 - self.settings.jitter, 1 + self.settings.jitter, 2))
        return crop


class PhotoSplits(NamedTuple):
    """Photographs to train and to test on, and those held out of the training photographs."""

    train: Items
    test: Items
    validation: Items | None = None


def open_photos(
    settings: PhotosConfig, folder: Path, input_shape: tuple[int, ...], validation_items: int = 0
) -> PhotoSplits:
    """List the photographs to train and to test on.

    Args:
        settings: which, and how they become items.
        folder: where relative paths begin; where nothing is there, they begin at the current folder.
        input_shape: (height, width, channels) of an item.
        validation_items: photographs that are held out of the training photographs.

    Raises:
        ConfigError: nothing would be left to train on.
        InputError: see :func:`daps_tokenizer.data.sources.open_source`.
    """
    source = _open(settings, settings.train, folder)
    train: Items = PhotoItems(source, input_shape, settings, augmented=True)
    centres: Items = PhotoItems(source, input_shape, settings, augmented=False)
    if settings.test:
        test: Items = PhotoItems(_open(settings, settings.test, folder), input_shape, settings, augmented=False)
    else:
        kept, held_out = split_places(len(source), settings.test_items, name="data.test_items")
        test = ItemSubset(centres, held_out)
        train, centres = ItemSubset(train, kept), ItemSubset(centres, kept)
    if not validation_items:
        return PhotoSplits(train, test)
    kept, held_out = split_places(len(train), validation_items)
    return PhotoSplits(ItemSubset(train, kept), test, ItemSubset(centres, held_out))


def _open(settings: PhotosConfig, patterns: tuple[str, ...], folder: Path) -> Source:
    if settings.kind != "huggingface":
        # Wherever they are found, so that a mistake is told with the folder of the datasets.
        patterns = tuple(
            pattern if glob.glob(pattern, root_dir=folder) or not glob.glob(pattern) else str(Path(pattern).absolute())  # noqa: PTH207 - Path.glob takes no absolute pattern
            for pattern in patterns
        )
    return open_source(settings.kind, patterns, folder, image_column=settings.image_column)


def _scale(photo: np.ndarray, height: int, width: int, shorter_side: int) -> np.ndarray:
    """Scale down where the shorter side is too long, and up where the photograph does not cover height × width."""
    rows, columns, _ = photo.shape
    factor = max(min(1.0, shorter_side / min(rows, columns)), height / rows, width / columns)
    if factor == 1.0:
        return photo
    return _resize(photo, max(height, round(rows * factor)), max(width, round(columns * factor)))


def _resize(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    resized = to_pil(photo).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(height, width, photo.shape[2])


def _random_size(
    available: tuple[int, ...], wanted: tuple[int, int], shares: tuple[float, ...], random: np.random.Generator
) -> tuple[int, int]:
    """Rows and columns of a crop: a share of the area, in a shape near that of ``wanted``; the whole if none fits."""
    for _ in range(_CROP_TRIES):
        area = available[0] * available[1] * random.uniform(shares[0], shares[1])
        ratio = math.exp(random.uniform(-_LOG_RATIO, _LOG_RATIO)) * wanted[1] / wanted[0]
        height, width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < height <= available[0] and 0 < width <= available[1]:
            return height, width
    scale = min(available[0] / wanted[0], available[1] / wanted[1])
    return int(wanted[0] * scale), int(wanted[1] * scale)


def _jitter(crop: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Stretch pixels around their mean, then multiply them: one table for all channels."""
    mean = crop.mean()
    table = ((np.arange(256) - mean) * contrast + mean) * brightness
    return table.round().clip(0, 255).astype(np.uint8)[crop]
