"""What a model is trained and tested on: items that are read by index.

MNIST and CIFAR-10 fit in memory as uint8 arrays, motion as the features of whole clips (``train/motion.py``);
photographs (``train/photos.py``) are read when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from daps_tokenizer.config import Robot, TokenizerConfig, config_from_dict
from daps_tokenizer.data.datasets import Split, read_cifar10, read_mnist
from daps_tokenizer.data.place import data_folder, default_folder
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.robots import H1, robot_of
from train.items import ArrayItems, Items, ItemSubset, split_places
from train.motion import MotionAugmentation, open_motion
from train.photos import PhotosConfig, open_photos

DatasetKind = Literal["mnist", "cifar10", "photos", "motion"]

_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Dataset:
    """Training and test items, and their labels (items,) where there are any.

    ``validation`` are items held out of the training items, on which a run is watched.
    """

    train: Items
    test: Items
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    validation: Items | None = None

    @property
    def watched(self) -> Items:
        """What a run is evaluated on while it trains: validation items where there are any, else test items."""
        return self.test if self.validation is None else self.validation

    def __post_init__(self) -> None:
        for split, items, labels in (("train", self.train, self.train_labels), ("test", self.test, self.test_labels)):
            if labels is not None and len(items) != len(labels):
                raise InputError(f"{split} has {len(items)} items and {len(labels)} labels; expected as many of both")


def load_dataset(
    kind: DatasetKind,
    folder: Path,
    *,
    photos: PhotosConfig | None = None,
    motion: MotionAugmentation | None = None,
    input_shape: tuple[int, ...] = (),
    validation_items: int = 0,
    robot: Robot = H1,
) -> Dataset:
    """Load MNIST (``mnist.npz``), CIFAR-10 (``cifar10/*.webp`` mosaics) or motion (``lafan1_h1.npz`` or that of another
    robot), or list photographs to be read later.

    Args:
        kind: which dataset.
        folder: where the files are.
        photos: where ``kind`` is ``photos``: which ones, and how they become items.
        motion: where ``kind`` is ``motion``: which clips, and how they are augmented.
        input_shape: of an item, where ``kind`` is ``photos``: (height, width, channels); or ``motion``: (frames, F).
        validation_items: how many training items are held out: images that are drawn once for all runs, photographs by
            their centre crop; of motion the windows at the end of every training clip.
        robot: where ``kind`` is ``motion``: whose clips.

    Raises:
        ConfigError: as many validation items as training items, or more.
        InputError: a file is missing, damaged or not of the expected shape; names what would be accepted.
    """
    if kind == "photos":
        return Dataset(**open_photos(photos or PhotosConfig(), folder, input_shape, validation_items)._asdict())
    if kind == "motion":
        chosen = motion or MotionAugmentation()
        return Dataset(**open_motion(folder / chosen.clips, input_shape, chosen, validation_items, robot)._asdict())
    dataset = {"mnist": _load_mnist, "cifar10": _load_cifar10}[kind](folder)
    if not validation_items:
        return dataset
    kept, held_out = split_places(len(dataset.train), validation_items)
    labels = None if dataset.train_labels is None else dataset.train_labels[kept]
    train, validation = (ItemSubset(dataset.train, places) for places in (kept, held_out))
    return replace(dataset, train=train, train_labels=labels, validation=validation)


def open_trained_data(experiment: dict[str, Any], config: TokenizerConfig, folder: Path | None = None) -> Dataset:
    """The data of a run, by what its record says under ``experiment``; no validation items are held out.

    Args:
        experiment: settings as ``training.json`` keeps them, of this version or of an earlier one.
        config: of the model, which says of what shape items are: another than in training, where it was resized.
        folder: see :func:`data_folder`; photographs are also looked for in the current folder.

    Raises:
        InputError, ConfigError: the data is not there, or the settings are not known.
    """
    kind: DatasetKind = experiment["dataset"]
    photos, motion = experiment.get("data"), experiment.get("motion")
    return load_dataset(
        kind,
        folder or default_folder() if kind == "photos" else data_folder(folder),
        photos=photos and config_from_dict(PhotosConfig, photos, source="the record's data"),
        motion=motion and config_from_dict(MotionAugmentation, motion, source="the record's motion"),
        input_shape=config.input_shape,
        robot=robot_of(config),
    )


def _load_mnist(folder: Path) -> Dataset:
    return _in_memory(*(read_mnist(folder / "mnist.npz", split) for split in _SPLITS))


def _load_cifar10(folder: Path) -> Dataset:
    return _in_memory(*(read_cifar10(folder / "cifar10", split) for split in _SPLITS))


def _in_memory(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Dataset:
    """Of (images, labels) each."""
    return Dataset(ArrayItems(train[0]), ArrayItems(test[0]), train[1], test[1])
