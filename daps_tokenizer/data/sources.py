"""Where photographs come from: tar files as webdataset writes them, folders, and Hugging Face datasets.

A source knows where each photograph is and reads one when asked, still encoded. Only this index is in memory, and it
travels to the worker processes; files are opened anew for each photograph, so there are no handles to carry along.
"""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from daps_tokenizer.errors import InputError
from daps_tokenizer.install import install_command

Entry = tuple[str, int]  # what records call an item, from the folder that was listed on; its bytes, −1 if not known
SourceKind = Literal["tar", "folder", "huggingface"]
SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")
_SUFFIXES_TEXT = ", ".join(SUFFIXES)


class SourceError(InputError):
    """An item was listed and cannot be fetched now: it is gone, or its storage fails."""


class Labels(NamedTuple):
    """(items,) int64, −1 where a label is not known; and the names of the classes that they number, if these are."""

    values: np.ndarray
    classes: tuple[str, ...] | None = None


class Source(Protocol):
    """Encoded photographs by index."""

    def __len__(self) -> int:
        """How many photographs there are."""
        ...

    def read(self, index: int) -> bytes:
        """The content of one image file; raises SourceError naming it where it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """What messages call a photograph."""
        ...

    def entries(self) -> Iterable[Entry]:
        """What records say of all of them, in their order; files are looked through once."""
        ...

    def labels(self) -> Labels | None:
        """Their labels, where there are any; files are looked through once."""
        ...


def open_source(kind: SourceKind, patterns: tuple[str, ...], folder: Path, *, image_column: str = "image") -> Source:
    """List the photographs that patterns name.

    Args:
        kind: ``tar``: uncompressed tar files; ``folder``: folders, searched to any depth; ``huggingface``:
            map-style datasets of the ``datasets`` library, each as ``name:split``.
        patterns: paths with wildcards, relative to ``folder`` or absolute; or names of datasets.
        folder: where relative paths begin.
        image_column: of a Hugging Face dataset.

    Raises:
        InputError: nothing there, no photographs in it, damaged, or ``datasets`` is not installed.
    """
    if kind == "huggingface":
        return HuggingFaceSource.load(patterns, image_column)
    paths = [path for pattern in patterns for path in _matching(pattern, folder)]
    return TarSource.index(paths, folder) if kind == "tar" else FolderSource.index(paths, folder)


def _matching(pattern: str, folder: Path) -> list[Path]:
    found = sorted(glob.glob(pattern, root_dir=folder))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found:
        raise InputError(f"{folder / pattern}: nothing there; expected files or folders that the pattern matches")
    return [folder / path for path in found]


@dataclass(frozen=True)
class TarSource:
    """Members of uncompressed tar files: for each photograph which file, where it begins, and its bytes."""

    paths: tuple[Path, ...]
    root: Path  # where names begin
    files: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def index(cls, paths: list[Path], root: Path) -> TarSource:
        """Read the headers of tar files once; members that are no photographs are left out.

        Raises:
            InputError: not an uncompressed tar file, damaged, or without photographs.
        """
        members = [(number, *place) for number, path in enumerate(paths) for place in _photographs(path)]
        files, offsets, sizes = np.array(members, np.int64).T
        return cls(tuple(paths), root, files, offsets, sizes)

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, index: int) -> bytes:
        """See :meth:`Source.read`."""
        size = int(self.sizes[index])
        path = self.paths[self.files[index]]
        try:
            with path.open("rb") as file:
                file.seek(self.offsets[index])
                content = file.read(size)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); expected the tar file as it was") from None
        if len(content) != size:
            raise SourceError(f"{path}: has become shorter; expected the tar file as it was when training began")
        return content

    def name(self, index: int) -> str:
        """File and member; looked up again, because names would be most of the index."""
        path = self.paths[self.files[index]]
        try:
            with tarfile.open(path, "r:") as archive:
                found = (member.name for member in archive if member.offset_data == self.offsets[index])
                return f"{path}, {next(found, 'a member that no longer exists')}"
        except (OSError, tarfile.TarError):
            return str(path)

    def entries(self) -> Iterable[Entry]:
        """See :meth:`Source.entries`; file and member."""
        for path in self.paths:
            name = _below(self.root, path)
            with tarfile.open(path, "r:") as archive:
                yield from ((f"{name}, {m.name}", m.size) for m in archive if _is_photograph(m))

    def labels(self) -> Labels | None:
        """See :meth:`Source.labels`: what the member ``KEY.cls`` says of ``KEY.jpg``, as webdataset has it.

        Raises:
            InputError: such a member is no whole number.
        """
        found: list[int] = []
        for path in self.paths:
            keys, labels = _keys_and_labels(path)
            found += [labels.get(key, -1) for key in keys]
        return Labels(np.array(found, np.int64)) if any(label >= 0 for label in found) else None


def _photographs(path: Path) -> list[tuple[int, int]]:
    """(offset, size) of every photograph in a tar file."""
    expected = "an uncompressed tar file, as webdataset writes it"
    places, end = [], 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                data_size = member.size if member.isreg() else 0
                end = member.offset_data + -(-data_size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if _is_photograph(member):
                    places.append((member.offset_data, member.size))
        with path.open("rb") as file:
            file.seek(end)
            after = file.read(tarfile.BLOCKSIZE)
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected {expected}") from None
    if after.strip(b"\0"):  # tarfile takes a damaged header for the end
        raise InputError(f"{path}: is damaged at byte {end}; expected {expected}")
    if not places:
        raise InputError(f"{path}: holds no photographs; expected members named *{_SUFFIXES_TEXT}")
    return places


def _keys_and_labels(path: Path) -> tuple[list[str], dict[str, int]]:
    """The key of every photograph in a tar file, and the label of every key that has one."""
    keys, labels = list[str](), dict[str, int]()
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")  # a key ends at the first dot
            key = f"{folder}/{stem}"
            if _is_photograph(member):
                keys.append(key)
            elif suffix == "cls" and member.isreg() and (content := archive.extractfile(member)) is not None:
                text = content.read(20).strip()
                if not text.isdigit() or len(text) > 18:  # int would also take 1_0, and more than 64 bits
                    raise InputError(f"{path}, {member.name}: is {text!r}; expected a class's number")
                labels[key] = int(text)
    return keys, labels


def _is_photograph(member: tarfile.TarInfo) -> bool:
    return member.isreg() and member.name.lower().endswith(SUFFIXES)


def has_photographs(folder: Path) -> bool:
    """Whether there is an image file in a folder, at any depth."""
    return any(name.lower().endswith(SUFFIXES) for _, _, files in os.walk(folder) for name in files)


def _below(root: Path, path: Path | str) -> str:
    """A path from ``root`` on; the whole path of what does not lie there."""
    text, start = str(path), os.path.join(root, "")  # noqa: PTH118
    return text.removeprefix(start)


def _size_of(path: str) -> int:
    """A file's bytes; −1 of one that is gone."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - twice as fast as Path.stat
    except OSError:
        return -1


@dataclass(frozen=True)
class FolderSource:
    """Image files in folders."""

    paths: tuple[str, ...]
    root: Path  # where names begin

    @classmethod
    def index(cls, folders: list[Path], root: Path) -> FolderSource:
        """List the image files in folders and their subfolders, in the order of their names.

        Raises:
            InputError: not a folder, or no photographs in it.
        """
        found: list[str] = []
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: is not a folder; expected a folder of photographs, or data.kind: tar")
            names = [os.path.join(place, name) for place, _, files in os.walk(folder) for name in files]  # noqa: PTH118
            photographs = sorted(name for name in names if name.lower().endswith(SUFFIXES))
            if not photographs:
                raise InputError(f"{folder}: holds no photographs; expected files named *{_SUFFIXES_TEXT}")
            found += photographs
        return cls(tuple(found), root)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """See :meth:`Source.read`."""
        path = Path(self.paths[index])
        try:
            return path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); expected the image that was there") from None

    def name(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]

    def entries(self) -> Iterable[Entry]:
        """See :meth:`Source.entries`; the files' paths."""
        return ((_below(self.root, path), _size_of(path)) for path in self.paths)

    def labels(self) -> Labels | None:
        """See :meth:`Source.labels`: the folders directly in the one that was listed are classes, in their order."""
        parts = [_below(self.root, path).split("/") for path in self.paths]
        classes = sorted({names[1] for names in parts if len(names) > 2})
        numbers = {name: number for number, name in enumerate(classes)}
        found = [numbers[names[1]] if len(names) > 2 else -1 for names in parts]
        return Labels(np.array(found, np.int64), tuple(classes)) if classes else None


@dataclass(frozen=True)
class HuggingFaceSource:
    """The image column of a map-style dataset, which stays on disk (memory-mapped Arrow files)."""

    label: str
    rows: Any
    image_column: str

    @classmethod
    def load(cls, names: tuple[str, ...], image_column: str) -> HuggingFaceSource:
        """Load datasets, each given as ``name:split``, and put them one after the other.

        Raises:
            InputError: ``datasets`` is not installed, no such dataset or split, no such column.
        """
        try:
            import datasets
        except ImportError:
            raise InputError(
                "data.kind huggingface needs the datasets library, which is not installed; install it with "
                f"{install_command('datasets')}"
            ) from None
        parts = []
        for name in names:
            repository, separator, split = name.rpartition(":")
            if not separator:
                raise InputError(f"{name}: expected a Hugging Face dataset and its split as name:split")
            try:
                part = datasets.load_dataset(repository, split=split)
            except Exception as error:  # the library raises errors of its own, of the Hub's client and of the network
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(f"{name}: cannot be loaded ({reason}); expected a Hugging Face dataset") from error
            if image_column not in part.column_names:
                columns = ", ".join(part.column_names)
                raise InputError(f"{name}: no column {image_column!r}; set data.image_column to one of {columns}")
            parts.append(part.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False)))
        return cls(", ".join(names), datasets.concatenate_datasets(parts), image_column)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        """See :meth:`Source.read`."""
        cell = self.rows[index][self.image_column] or {}
        if cell.get("bytes") is not None:
            content: bytes = cell["bytes"]
            return content
        try:
            return Path(cell["path"]).read_bytes()  # the dataset points to a file
        except (KeyError, TypeError, OSError):
            raise InputError(f"{self.name(index)}: has no image; expected one in column {self.image_column}") from None

    def name(self, index: int) -> str:
        """Dataset and row, counted from 0 as the library does."""
        return f"{self.label}, row {index}"

    def entries(self) -> Iterable[Entry]:
        """See :meth:`Source.entries`; datasets and rows."""
        return ((self.name(index), -1) for index in range(len(self)))

    def labels(self) -> None:
        """Only the column of images is read."""
