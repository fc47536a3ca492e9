"""Where images come from: files, tar files as webdataset writes them, parquet files, and Hugging Face datasets.

A source knows where each image is and reads one when asked, still encoded. Only this index is in memory, and it
travels to the worker processes; files are opened anew for each image, so there are no handles to carry along.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from daps_tokenizer.data.archives import reading
from daps_tokenizer.data.storage import Entry, SourceError, below, is_remote, list_files, open_file
from daps_tokenizer.data.tars import EXPECTED, Member, read_members
from daps_tokenizer.errors import InputError, reason_of
from daps_tokenizer.files import read_regular_file
from daps_tokenizer.install import install_command

SourceKind = Literal["tar", "folder", "huggingface"]
SUFFIXES = (".webp", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif")
MOST_BYTES = 2**28  # of an image file
_SUFFIXES_TEXT = ", ".join(SUFFIXES)
_MOST_BYTES_OF_A_GROUP = 2**29  # of rows of a parquet file, which are read together
_LABEL = re.compile(rb"\s*-?\d{1,18}\s*")
_LONGEST_LABEL = 64  # bytes of KEY.cls


class Labels(NamedTuple):
    """(items,) int64, −1 where a label is not known; and the names of the classes that they number, if these are."""

    values: np.ndarray
    classes: tuple[str, ...] | None = None


class Source(Protocol):
    """Encoded photographs by index."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The content of one image file; raises SourceError naming it where it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """What messages call a photograph."""
        ...

    def entries(self) -> Iterable[Entry]:
        """What records say of all of them, in their order; files are looked through once."""
        ...

    def containers(self) -> Iterable[Entry]:
        """The files that they lie in, where these hold many."""
        ...

    def labels(self) -> Labels | None:
        """Their labels, where there are any; files are looked through once."""
        ...


def open_source(kind: SourceKind, patterns: tuple[str, ...], folder: Path, *, image_column: str = "image") -> Source:
    """List the images that patterns name.

    Args:
        kind: ``tar``: uncompressed tar files; ``folder``: folders, searched to any depth; ``huggingface``:
            map-style datasets of the ``datasets`` library, each as ``name:split``.
        patterns: paths with wildcards, relative to ``folder`` or absolute; or names of datasets.
        folder: where relative paths begin.
        image_column: of a Hugging Face dataset.

    Raises:
        InputError: nothing there, no images in it, damaged, or ``datasets`` is not installed.
    """
    if kind == "huggingface":
        return HuggingFaceSource.load(patterns, image_column)
    base, entries = str(folder), list[Entry]()
    for pattern in patterns:
        found = list_files(str(folder / pattern))
        if kind == "tar":
            entries += found
            continue
        if (folder / pattern).is_file():
            raise InputError(f"{folder / pattern}: is not a folder; expected a folder of images, or data.kind: tar")
        images = FileSource.of(found, base, str(folder / pattern))
        entries += zip(images.paths, images.sizes.tolist(), strict=True)
    return TarSource.index(entries, base) if kind == "tar" else FileSource.of(entries, base, str(folder))


def open_files(entries: Sequence[Entry], base: str, source: str) -> Source:
    """The images in files: image files, tar files, or parquet files.

    Args:
        entries: their paths and sizes.
        base: where names begin.
        source: what errors call all of them.

    Raises:
        InputError: none of these, several of these, or damaged.
    """
    kinds = [
        [entry for entry in entries if entry[0].lower().endswith(suffixes)]
        for suffixes in (SUFFIXES, (".tar",), (".parquet",))
    ]
    if sum(map(bool, kinds)) > 1:
        held = [name for name, kind in zip(("images", "tar files", "parquet files"), kinds, strict=True) if kind]
        raise InputError(f"{source}: holds both {' and '.join(held)}; expected a folder of one of them")
    if not any(kinds):
        raise InputError(
            f"{source}: holds no images; expected files named *{_SUFFIXES_TEXT}, or *.tar or *.parquet of images; "
            "clips need a motion model, such as --model daps-h1-motion"
        )
    if kinds[1]:
        return TarSource.index(kinds[1], base)
    return ParquetSource.index(kinds[2], base) if kinds[2] else FileSource.of(entries, base, source)


@dataclass(frozen=True)
class FileSource:
    """Image files, in folders or not."""

    paths: tuple[str, ...]
    sizes: np.ndarray
    base: str  # where names begin
    ignored: int  # files that are named otherwise

    @classmethod
    def of(cls, entries: Sequence[Entry], base: str, source: str) -> FileSource:
        """The images among files, by their names.

        Raises:
            InputError: there are none; ``source`` is what it calls the files.
        """
        images = [entry for entry in entries if entry[0].lower().endswith(SUFFIXES)]
        if not images:
            raise InputError(f"{source}: holds no images; expected files named *{_SUFFIXES_TEXT}")
        paths, sizes = zip(*images, strict=True)
        return cls(paths, np.array(sizes, np.int64), base, len(entries) - len(images))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        path = self.paths[index]
        try:
            if not is_remote(path):
                return read_regular_file(path, most_bytes=MOST_BYTES)
        except OSError as error:
            kind = InputError if Path(path).exists() else SourceError
            raise kind(f"{path}: cannot be read ({error.strerror}); expected the image that was there") from None
        with open_file(path, most_bytes=MOST_BYTES) as file:
            return file.read()

    def name(self, index: int) -> str:
        return self.paths[index]

    def entries(self) -> Iterable[Entry]:
        return ((below(self.base, path), size) for path, size in zip(self.paths, self.sizes.tolist(), strict=True))

    def containers(self) -> Iterable[Entry]:
        return ()

    def labels(self) -> Labels | None:
        """See :meth:`Source.labels`: the folders directly in the one that was listed are classes, in their order."""
        parts = [below(self.base, path).split("/") for path in self.paths]
        classes = sorted({names[1] for names in parts if len(names) > 2})
        numbers = {name: number for number, name in enumerate(classes)}
        found = [numbers[names[1]] if len(names) > 2 else -1 for names in parts]
        return Labels(np.array(found, np.int64), tuple(classes)) if classes else None


@dataclass(frozen=True)
class TarSource:
    """Members of uncompressed tar files: for each image which file, where it begins, and its bytes."""

    paths: tuple[str, ...]
    path_sizes: tuple[int, ...]
    base: str  # where names begin
    files: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def index(cls, entries: Sequence[Entry], base: str) -> TarSource:
        """Read the headers of tar files once; members that are no images are left out.

        Raises:
            InputError: not an uncompressed tar file, damaged, or without images.
        """
        members: list[tuple[int, int, int]] = []
        for number, (path, _) in enumerate(entries):
            found = [(number, member.offset, member.size) for member in _members(path) if _is_image(member)]
            if not found:
                raise InputError(f"{path}: holds no images; expected members named *{_SUFFIXES_TEXT}")
            members += found
        files, offsets, sizes = np.array(members, np.int64).T
        paths, path_sizes = zip(*entries, strict=True)
        return cls(paths, path_sizes, base, files, offsets, sizes)

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, index: int) -> bytes:
        size, path = int(self.sizes[index]), self.paths[self.files[index]]
        if size > MOST_BYTES:
            raise InputError(f"{path}: an image of {size:,} bytes; expected at most {MOST_BYTES:,}")
        with open_file(path) as file:
            file.seek(int(self.offsets[index]))
            content = file.read(size)
        if len(content) != size:
            raise SourceError(f"{path}: has become shorter; expected the tar file as it was")
        return content

    def name(self, index: int) -> str:
        """File and member; looked up again, because names would be most of the index."""
        path = self.paths[self.files[index]]
        try:
            found = (member.name for member in _members(path) if member.offset == self.offsets[index])
            return f"{path}, {next(found, 'a member that no longer exists')}"
        except InputError:
            return path

    def entries(self) -> Iterable[Entry]:
        """See :meth:`Source.entries`; file and member."""
        for path in self.paths:
            name = below(self.base, path)
            yield from ((f"{name}, {member.name}", member.size) for member in _members(path) if _is_image(member))

    def containers(self) -> Iterable[Entry]:
        return ((below(self.base, path), size) for path, size in zip(self.paths, self.path_sizes, strict=True))

    def labels(self) -> Labels | None:
        """See :meth:`Source.labels`: what the member ``KEY.cls`` says of ``KEY.jpg``, as webdataset has it.

        Raises:
            InputError: such a member is no whole number.
        """
        found: list[int] = []
        for path in self.paths:
            keys, labels = _keys_and_labels(path)
            found += [max(-1, labels.get(key, -1)) for key in keys]
        return Labels(np.array(found, np.int64)) if any(label >= 0 for label in found) else None


def _members(path: str) -> Iterator[Member]:
    """The files in a tar file; errors name it and what was expected."""
    try:
        with open_file(path) as file:
            yield from read_members(file, path)
    except SourceError as error:
        raise InputError(f"{str(error).partition(';')[0]}; expected {EXPECTED}") from None


def _keys_and_labels(path: str) -> tuple[list[str], dict[str, int]]:
    """The key of every image in a tar file, and the label of every key that has one."""
    keys, labels = list[str](), dict[str, int]()
    with open_file(path) as file:
        for member in list(read_members(file, path)):
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")  # a key ends at the first dot
            key = f"{folder}/{stem}"
            if _is_image(member):
                keys.append(key)
            elif suffix == "cls":
                file.seek(member.offset)
                text = file.read(min(member.size, _LONGEST_LABEL))
                if member.size > _LONGEST_LABEL or not _LABEL.fullmatch(text):
                    raise InputError(f"{path}, {member.name}: is {text[:20]!r}; expected a class's number")
                labels[key] = int(text)
    return keys, labels


def _is_image(member: Member) -> bool:
    return member.name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class ParquetSource:
    """The images in a column of parquet files: bytes, or as Hugging Face writes them, bytes and a path."""

    paths: tuple[str, ...]
    path_sizes: tuple[int, ...]
    base: str  # where names begin
    column: str
    ends: np.ndarray  # of the rows of each file, counted over all

    @classmethod
    def index(cls, entries: Sequence[Entry], base: str) -> ParquetSource:
        """Read the metadata of parquet files.

        Raises:
            InputError: pyarrow is not installed, not a parquet file, without a column of images, without rows.
        """
        paths, path_sizes = zip(*entries, strict=True)
        columns, counts = [], []
        for path in paths:
            with _parquet(path) as file:
                columns.append(_image_column(path, file.schema_arrow))
                counts.append(file.metadata.num_rows)
        if len(set(columns)) > 1 or not sum(counts):
            raise InputError(
                f"{paths[0]}: has no rows, or other columns than {paths[-1]}; expected files of one dataset"
            )
        return cls(paths, path_sizes, base, columns[0], np.cumsum(counts))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, index: int) -> bytes:
        place, row = self._place(index)
        with _one_group_at_a_time:
            start, cells = _read_group(self.paths[place], self.column, row)
        cell = cells[row - start].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise InputError(f"{self.name(index)}: has no bytes of an image in column {self.column}")
        return content

    def name(self, index: int) -> str:
        """File and row, counted from 0."""
        place, row = self._place(index)
        return f"{self.paths[place]}, row {row}"

    def entries(self) -> Iterable[Entry]:
        """See :meth:`Source.entries`; file and row."""
        for path, end, start in zip(self.paths, self.ends, [0, *self.ends[:-1]], strict=True):
            yield from ((f"{below(self.base, path)}, row {row}", -1) for row in range(end - start))

    def containers(self) -> Iterable[Entry]:
        return ((below(self.base, path), size) for path, size in zip(self.paths, self.path_sizes, strict=True))

    def labels(self) -> Labels | None:
        """See :meth:`Source.labels`: the column ``label``, and the names that Hugging Face keeps of its classes."""
        found, classes = [], None
        for path in self.paths:
            with _parquet(path) as file:
                if "label" not in file.schema_arrow.names:
                    return None
                values = file.read(columns=["label"]).column("label").to_pylist()
                about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            classes = about.get("info", {}).get("features", {}).get("label", {}).get("names")
            if not all(value is None or (isinstance(value, int) and abs(value) < 2**62) for value in values):
                raise InputError(f"{path}: column label holds what is no class's number; expected whole numbers")
            found += [-1 if value is None else max(-1, value) for value in values]
        return Labels(np.array(found, np.int64), None if classes is None else tuple(map(str, classes)))

    def _place(self, index: int) -> tuple[int, int]:
        """Which file a row lies in, and its number there."""
        place = int(np.searchsorted(self.ends, index, side="right"))
        return place, index - (int(self.ends[place - 1]) if place else 0)


_one_group_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=1)
def _group_of(path: str, column: str, group: int) -> Any:
    with _parquet(path) as file:
        size = file.metadata.row_group(group).total_byte_size
        if size > _MOST_BYTES_OF_A_GROUP:
            raise InputError(
                f"{path}: has {size:,} bytes in a row group; expected at most {_MOST_BYTES_OF_A_GROUP:,}: write it "
                "with fewer rows in each"
            )
        return file.read_row_group(group, columns=[column]).column(column)


@functools.lru_cache(maxsize=1)
def _group_starts(path: str) -> np.ndarray:
    with _parquet(path) as file:
        counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return np.cumsum([0, *counts])


def _read_group(path: str, column: str, row: int) -> tuple[int, Any]:
    """The rows that are stored together with one: the number of the first, and their cells."""
    starts = _group_starts(path)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    return int(starts[group]), _group_of(path, column, group)


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """An open parquet file; whatever its reader raises names it."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: reading parquet needs pyarrow; install it with {install_command('datasets')}"
        ) from None
    with open_file(path) as opened, reading(path, "a parquet file with a column of images"):
        yield parquet.ParquetFile(opened)


def _image_column(path: str, schema: Any) -> str:
    """``image``, or the only column of bytes or of bytes and paths."""
    found = [field.name for field in schema if str(field.type).startswith(("struct<bytes", "binary", "large_binary"))]
    if "image" in found or len(found) == 1:
        return "image" if "image" in found else str(found[0])
    raise InputError(f"{path}: has {len(found)} columns that may be images; expected one, or one named image")


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
                raise InputError(
                    f"{name}: cannot be loaded ({reason_of(error)}); expected a Hugging Face dataset"
                ) from error
            if image_column not in part.column_names:
                columns = ", ".join(part.column_names)
                raise InputError(f"{name}: no column {image_column!r}; set data.image_column to one of {columns}")
            parts.append(part.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False)))
        return cls(", ".join(names), datasets.concatenate_datasets(parts), image_column)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
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

    def containers(self) -> Iterable[Entry]:
        return ()

    def labels(self) -> None:
        """Only the column of images is read."""
