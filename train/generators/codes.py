"""The codes that a generator is trained on: a code set, or one that is made of a named dataset first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click
import numpy as np

from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import CodesFileError, ConfigError
from daps_tokenizer.tokenizer import Tokenizer
from daps_tokenizer.ways import Sampled
from train.data import Dataset
from train.generators.described import DescribedCodes, open_described
from train.generators.kinds import KindCodes, open_kinds
from train.items import split_places, uniform_of

NamedDataset = Literal["mnist", "cifar10", "described", "kinds"]

_PLACES = {"mnist": "mnist.npz", "cifar10": "cifar10"}


@dataclass(frozen=True)
class CodesConfig:
    """Where codes come from: a folder, or a tokenizer and a dataset, whose code set is made where it is not there yet.

    Args:
        folder: of a code set, as `daps-tokenize dataset` writes it.
        tokenizer: built-in name, folder or ``org/name`` of the tokenizer that encodes ``dataset``.
        dataset: its training images, or windows of the training clips of the tokenizer's robot, with descriptions and
            paths, ``described`` (``train/generators/described.py``), or labelled, ``kinds`` (``kinds.py``).
        samples: how many codes are drawn of q(z|x) for each item; 0 takes the greedy ones.
        flip: whether images are also encoded with left and right exchanged.
    """

    folder: str
    tokenizer: str | None = None
    dataset: NamedDataset | None = None
    samples: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if (self.tokenizer is None) != (self.dataset is None):
            raise ConfigError("codes: a tokenizer and a dataset go together; without both, folder is a code set")
        if self.dataset is not None and self.dataset not in get_args(NamedDataset):
            raise ConfigError(f"codes: dataset is one of {', '.join(get_args(NamedDataset))}, not {self.dataset!r}")
        if self.samples < 0:
            raise ConfigError(f"codes: samples must be at least 0, not {self.samples}")
        if self.dataset is None and (self.samples or self.flip):
            raise ConfigError("codes: samples and flip say how a dataset is encoded; a code set is as it is")
        if self.is_of_clips and (self.samples or self.flip):
            raise ConfigError(f"codes: {self.dataset} motion has greedy codes and mirror images, no samples or flip")

    @property
    def is_of_clips(self) -> bool:
        """Whether they are of windows that are told the window before."""
        return self.dataset in ("described", "kinds")


@dataclass(frozen=True)
class CodeItems:
    """Codes to train on: (items, K, N), of which a step takes one of the K, and labels (items,), −1 for unknown."""

    codes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def read(self, indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
        """See :meth:`train.data.Items.read`; (B, N) int64."""
        samples = self.codes.shape[1]
        chosen = (samples * uniform_of(indices, seed, 1)[:, 0]).astype(np.int64) if samples > 1 else 0
        return self.codes[indices, chosen].astype(np.int64)

    def read_first(self, indices: Sequence[int]) -> np.ndarray:
        """The first of the K codes of some items, (B, N) int64: for measuring."""
        return self.codes[list(indices), 0].astype(np.int64)

    def subset(self, places: np.ndarray) -> CodeItems:
        """Some of them."""
        return CodeItems(self.codes[places], self.labels[places])


@dataclass(frozen=True)
class LabelledCodes:
    """A code set in memory: its items, the names of its classes, and its ``dataset.json``."""

    items: CodeItems
    classes: tuple[str, ...]
    record: dict[str, Any]

    def split(self, validation_items: int) -> Dataset:
        """Items to train on, and those that are held out; an image and its mirror image are on one side.

        Raises:
            ConfigError: as many validation items as items, or more.
        """
        views = 2 if self.record["flip"] else 1  # rows of an image, next to each other
        images = len(self.items) // views
        kept, held_out = split_places(images, validation_items) if validation_items else (np.arange(images),) * 2
        train = self.items.subset(np.concatenate([views * kept + view for view in range(views)]))
        watched = self.items.subset(views * held_out)
        return Dataset(train, watched, train_labels=train.labels, test_labels=watched.labels, validation=watched)


def open_codes(config: CodesConfig, data: Path) -> LabelledCodes | DescribedCodes | KindCodes:
    """The codes that a generator is trained on, encoded first where they are not there.

    Args:
        config: which.
        data: where datasets are.

    Raises:
        CodesFileError: no such code set, or labels that its class names do not fit.
        DapsError: errors of encoding.
    """
    folder = Path(config.folder)
    if config.is_of_clips:
        assert config.tokenizer is not None  # checked by the config
        return (open_described if config.dataset == "described" else open_kinds)(config.tokenizer, data, folder)
    if config.dataset is not None:
        _encode(config, data, folder)
    code_set = CodeSet.open(folder)
    values, labels = np.asarray(code_set.values), np.asarray(code_set.labels)
    count = int(labels.max(initial=-1)) + 1
    classes = tuple(code_set.classes or map(str, range(count)))
    if count > len(classes):
        raise CodesFileError(f"{folder}: has label {count - 1}, and names of {len(classes)} classes")
    items = CodeItems(values.reshape(len(values), -1, values.shape[-1]), labels)
    return LabelledCodes(items, classes, code_set.record)


def _encode(config: CodesConfig, data: Path, folder: Path) -> None:
    """Write the code set of a named dataset; nothing is done again where it is whole."""
    assert config.tokenizer is not None and config.dataset is not None
    tokenizer = Tokenizer.from_pretrained(config.tokenizer)
    items = open_data(data / _PLACES[config.dataset], tokenizer.config, split="train")
    way = Sampled(config.samples) if config.samples else None
    with click.progressbar(length=len(items), label=f"encoding {config.dataset}", file=sys.stderr) as bar:
        write_code_set(
            tokenizer, items, folder, way, flip=config.flip, on_progress=lambda done: bar.update(done - bar.pos)
        )
