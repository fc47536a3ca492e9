"""``python -m train data``: MNIST, CIFAR-10 and LAFAN1, from where they are published to the files that training reads.

Each can also be made of a file that is there already. Nothing is unpickled; what is downloaded must have a known
sha256, or comes from a known commit.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from daps_tokenizer.data.datasets import CIFAR10_MOSAIC, Split, read_mnist
from daps_tokenizer.errors import InputError, OutputExistsError, first_line
from daps_tokenizer.files import new_folder, write_bytes_atomically
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.features import FPS
from daps_tokenizer.motion.robots import H1

FILES = {"mnist": "mnist.npz", "cifar10": "cifar10", "motion": "lafan1_h1.npz"}  # in the folder of datasets

_TIMEOUT_SECONDS = 60
_BY_HAND = "download it elsewhere and name it with --source"
_RECORD_BYTES = 1 + 3 * 32 * 32  # of CIFAR-10's binary version: the label, then red, green and blue planes
_CIFAR10_FILES: dict[Split, list[str]] = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}
_COLUMNS = ("root_x", "root_y", "root_z", "root_qx", "root_qy", "root_qz", "root_qw")


@dataclass(frozen=True)
class Published:
    """A file on the web, and the sha256 of its content."""

    url: str
    sha256: str


MNIST = Published(
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
CIFAR10 = Published(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
LAFAN1 = "lvhaidong/LAFAN1_Retargeting_Dataset"  # on the Hugging Face Hub; CC BY-NC-ND 4.0
LAFAN1_REVISION = "ce1572906efe6157840e8474d5a0d7aa87481e74"  # a commit, which decides every byte


def obtain(name: str, folder: Path, source: Path | None = None) -> Path:
    """Put a dataset into a folder, as :func:`train.data.load_dataset` reads it.

    Args:
        name: ``mnist``, ``cifar10`` or ``motion``.
        folder: where to; made if it is not there.
        source: what was downloaded before: Keras's ``mnist.npz``, ``cifar-10-binary.tar.gz``, or a folder that holds
            the H1's clips as CSV files. Downloaded if None.

    Returns:
        The file or folder that training reads.

    Raises:
        InputError: it cannot be downloaded, is damaged, or is something else.
        OutputExistsError: the folder has it already.
    """
    target = folder / FILES[name]
    if target.exists():
        raise OutputExistsError(f"{target} already exists; name another folder with --data, or move it away")
    make: dict[str, Callable[[Path, Path | None], None]] = {
        "mnist": _obtain_mnist,
        "cifar10": _obtain_cifar10,
        "motion": _obtain_motion,
    }
    folder.mkdir(parents=True, exist_ok=True)
    make[name](target, source)
    return target


def _obtain_mnist(target: Path, source: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = source or _download(MNIST, Path(scratch) / "mnist.npz")
        for split in ("train", "test"):
            read_mnist(archive, split)  # that it is one
        write_bytes_atomically(target, archive.read_bytes())


def _obtain_cifar10(target: Path, source: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, new_folder(target) as made:
        archive = source or _download(CIFAR10, Path(scratch) / "cifar10.tar.gz")
        for split, files in _CIFAR10_FILES.items():
            _write_mosaics(made, split, *_read_batches(archive, files))


def _read_batches(archive: Path, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Images (items, 32, 32, 3) uint8 and labels (items,) uint8 of some files of CIFAR-10's binary version."""
    wanted = f"cifar-10-batches-bin with {', '.join(files)}, as in cifar-10-binary.tar.gz"
    try:
        with tarfile.open(archive) as tar:
            parts = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in files]
            contents = b"".join(part.read() for part in parts if part is not None)
        records = np.frombuffer(contents, np.uint8).reshape(-1, _RECORD_BYTES)
    except (OSError, KeyError, ValueError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{archive}: cannot be read ({error}); expected {wanted}") from error
    if not len(records) or len(records) % np.prod(CIFAR10_MOSAIC):
        raise InputError(f"{archive}: holds {len(records)} images; expected {wanted}")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].copy()


def _write_mosaics(folder: Path, split: Split, images: np.ndarray, labels: np.ndarray) -> None:
    """Images as lossless mosaics, a third of their size, and their labels: what ``read_cifar10`` reads."""
    rows, columns = CIFAR10_MOSAIC
    for number, tiles in enumerate(images.reshape(-1, rows, columns, 32, 32, 3)):
        mosaic = Image.fromarray(tiles.swapaxes(1, 2).reshape(rows * 32, columns * 32, 3))
        mosaic.save(folder / f"{split}_{number:02}.webp", lossless=True)
    np.save(folder / f"{split}_labels.npy", labels)


def _obtain_motion(target: Path, source: Path | None) -> None:
    files = sorted((source or _download_clips()).rglob("*.csv"))
    files = [file for file in files if file.parent.name == "h1"] or files
    if not files:
        raise InputError(f"{source}: holds no CSV files; expected the h1 folder of {LAFAN1}")
    clips = [Clip.load(file).qpos.astype(np.float32) for file in files]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        data=np.concatenate(clips),
        split_points=np.cumsum([0, *(len(clip) for clip in clips)]),
        names=np.array([file.stem for file in files]),
        columns=np.array([*_COLUMNS, *(f"{name}_joint" for name in H1.joint_names)]),
        fps=int(FPS),
    )
    write_bytes_atomically(target, buffer.getvalue())


def _download_clips() -> Path:
    """The folder of the Hub's cache that holds the H1's clips."""
    import huggingface_hub  # takes a second to import

    try:
        return Path(
            huggingface_hub.snapshot_download(
                LAFAN1, repo_type="dataset", revision=LAFAN1_REVISION, allow_patterns="h1/*.csv"
            )
        )
    except Exception as error:  # the Hub's client has exceptions of its own and of several HTTP libraries
        raise InputError(
            f"{LAFAN1}: cannot be downloaded from the Hugging Face Hub ({first_line(error)}); {_BY_HAND}"
        ) from error


def _download(published: Published, target: Path) -> Path:
    """Fetch a file and compare its checksum."""
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with click.progressbar(length=size, label=published.url.rpartition("/")[2], file=sys.stderr) as bar:
                while block := answer.read(1 << 18):
                    file.write(block)
                    digest.update(block)
                    bar.update(len(block))
    except (OSError, ValueError) as error:
        raise InputError(f"{published.url}: cannot be downloaded ({error}); {_BY_HAND}") from error
    if digest.hexdigest() != published.sha256:
        raise InputError(
            f"{published.url}: was changed or damaged on the way (sha256 {digest.hexdigest()}, expected "
            f"{published.sha256}); {_BY_HAND}"
        )
    return target
