"""The codes that a generator is trained on: a code set, or one that is made of a named dataset first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click
import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.code_sets import CodeSet, write_code_set
from daps_tokenizer.data.datasets import ArrayData, read_cifar10, read_mnist
from daps_tokenizer.errors import CodesFileError, ConfigError
from daps_tokenizer.tokenizer import Tokenizer
from train.data import Dataset
from train.motion import load_clips
from train.validation import split_places

NamedDataset = Literal["mnist", "cifar10", "motion"]

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class CodesConfig:
    """Where codes come from: a folder, or a tokenizer and a dataset, whose code set is made where it is not there yet.

    Args:
        folder: of a code set, as `daps-tokenize dataset` writes it.
        tokenizer: built-in name, folder or ``org/name`` of the tokenizer that encodes ``dataset``.
        dataset: its training images, or windows of its training clips.
        samples: how many codes are drawn of q(z|x) for each item; 0 takes the greedy ones.
        flip: whether items are also encoded with left and right exchanged.
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
        chosen = np.random.default_rng(list(seed)).integers(samples, size=len(indices)) if samples > 1 else 0
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
        """Items to train on, and those that are held out; items that are made of one image are on one side.

        Raises:
            ConfigError: as many validation items as items, or more.
        """
        images = len(self.items) // (2 if self.record.get("flipped") else 1)
        kept, held_out = (
            split_places(images, validation_items) if validation_items else (np.arange(images), np.arange(0))
        )
        train = self.items.subset(np.concatenate([kept, kept + images]) if self.record.get("flipped") else kept)
        watched = self.items.subset(held_out if validation_items else kept)
        return Dataset(train, watched, train_labels=train.labels, test_labels=watched.labels, validation=watched)


def open_codes(config: CodesConfig, data: Path) -> LabelledCodes:
    """The codes that a generator is trained on, encoded first where they are not there.

    Args:
        config: which.
        data: where datasets are.

    Raises:
        CodesFileError: no such code set, or one without a tokenizer's sha256, or labels that do not fit it.
        DapsError: errors of encoding.
    """
    folder = Path(config.folder)
    if config.dataset is not None:
        _encode(config, data, folder)
    code_set = CodeSet.open(folder)
    record, values = code_set.record, np.asarray(code_set.values)
    labels = _labels(folder, len(values))
    classes = tuple(str(name) for name in record.get("classes") or ())
    if config.dataset is not None:
        classes = _classes(config.dataset, data)
    if not classes:
        classes = tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
    if labels.max(initial=-1) >= len(classes):
        raise CodesFileError(f"{folder}: has label {labels.max()}, and names of {len(classes)} classes")
    record = record | ({"flipped": True} if config.flip else {})
    return LabelledCodes(CodeItems(values.reshape(len(values), -1, values.shape[-1]), labels), classes, record)


def _labels(folder: Path, rows: int) -> np.ndarray:
    """One label for each row, −1 where there is none: of ``labels.npy``, else of ``items.jsonl``."""
    path = folder / "labels.npy"
    if path.is_file():
        labels = np.load(path, allow_pickle=False).astype(np.int64)
    else:
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        labels = np.array([json.loads(line).get("label", -1) for line in lines], np.int64)
    if labels.shape != (rows,):
        raise CodesFileError(f"{path}: labels of shape {labels.shape} for {rows} rows of codes")
    return labels


def _encode(config: CodesConfig, data: Path, folder: Path) -> None:
    """Write the code set of a named dataset; nothing is done again where it is whole."""
    assert config.tokenizer is not None and config.dataset is not None
    tokenizer = Tokenizer.from_pretrained(config.tokenizer)
    items, labels = _read(config.dataset, data, tokenizer.config)
    if config.flip:
        items, labels = np.concatenate([items, _mirrored(items, tokenizer.modality)]), np.tile(labels, 2)
    described = f"{config.dataset}, train" + (", and again with left and right exchanged" if config.flip else "")

    def encode(batch: np.ndarray, seed: int) -> Codes:
        if config.samples == 0:
            return tokenizer.encode(batch)
        return tokenizer.sample(batch, num_samples=config.samples, seed=seed)

    encoding = {"samples": config.samples, "temperature": 1.0 if config.samples else 0.0}
    with click.progressbar(
        length=len(items), label=f"encoding {config.dataset}", file=click.get_text_stream("stderr")
    ) as bar:
        write_code_set(
            tokenizer,
            ArrayData(items, described, labels=labels),
            folder,
            encode,
            encoding=encoding,
            on_progress=lambda done: bar.update(done - bar.pos),
        )


def _read(dataset: NamedDataset, data: Path, config: TokenizerConfig) -> tuple[np.ndarray, np.ndarray]:
    """Training items and their labels."""
    if dataset == "mnist":
        return read_mnist(data / "mnist.npz", "train")
    if dataset == "cifar10":
        return read_cifar10(data / "cifar10", "train")
    raise ConfigError("codes: motion is not read yet")


def _classes(dataset: NamedDataset, data: Path) -> tuple[str, ...]:
    if dataset == "mnist":
        return tuple("0123456789")
    if dataset == "cifar10":
        return _CIFAR10
    return tuple(load_clips(data / "lafan1_h1.npz"))


def _mirrored(items: np.ndarray, modality: str) -> np.ndarray:
    """Items with left and right exchanged."""
    return np.ascontiguousarray(items[:, :, ::-1])
