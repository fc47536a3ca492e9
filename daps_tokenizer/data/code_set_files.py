"""The files of a code set as it grows, whole or one shard of it, so that a kill at any moment loses no finished work.

Rows are appended to files under temporary names, and ``progress.json`` says how much of them counts. A set is finished
by a journal: ``progress.json`` first says so, then the files get their names, and ``progress.json`` becomes the record
last. Whoever comes next completes a journal that was cut short.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from daps_tokenizer.checks import check_integer
from daps_tokenizer.errors import CodesFileError, DapsError, InputError, OutputExistsError
from daps_tokenizer.files import read_regular_file
from daps_tokenizer.locks import locked

RECORD, CODES = "dataset.json", "codes.npy"
SECONDS_BETWEEN_NOTES = 1.0  # of progress, each of which waits for the disk
_PARTIAL = ".partial"
_STATE = ("done", "rows", "skipped", "sizes", "row_shape")
_ABOUT = ("format", "model", "weights_sha256", "vocab_size", "items", "items_sha256", "shards", "encoding", "seed")
FORMAT = 2
_MOST_BYTES_OF_RECORD = 2**26
_MOST_SHARDS = 10**6
_OWN_NAME = re.compile(
    r"(codes|labels|items|skipped|dataset|progress)(-\d{5,}-of-\d{5,})?\.(npy|jsonl|json)(\.partial)?"
)


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 0; without arguments, the whole. Its files are named after it.

    Raises:
        InputError: there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        check_integer("the number of shards", self.count, least=1)
        check_integer("the number of a shard", self.index, least=0)
        if self.index >= self.count:
            raise InputError(f"there is no shard {self.index} of {self.count}; they are numbered from 0")

    @property
    def suffix(self) -> str:
        """What the names of its files end with before their type, such as ``-00003-of-00064``; nothing of the whole."""
        return "" if self.count == 1 else f"-{self.index:05}-of-{self.count:05}"

    def items(self, total: int) -> range:
        """Its items: shards are parts of the list that follow each other, of sizes that differ by one at most."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)


WHOLE = Shard()


class ShardFiles(NamedTuple):
    """Where the files of a shard are."""

    codes: Path
    labels: Path
    items: Path
    skipped: Path
    record: Path
    progress: Path

    @classmethod
    def of(cls, folder: Path, shard: Shard) -> ShardFiles:
        """Those of a shard in a folder."""
        names = ("codes{}.npy", "labels{}.npy", "items{}.jsonl", "skipped{}.jsonl", "dataset{}.json", "progress{}.json")
        return cls(*(folder / name.format(shard.suffix) for name in names))

    @property
    def data(self) -> tuple[Path, Path, Path, Path]:
        """Those that grow."""
        return self[:4]


class StoredRecord(NamedTuple):
    """What a code set or a shard says of itself, and whether it is whole."""

    record: dict[str, Any]
    is_whole: bool


def read_common_record(folder: Path) -> dict[str, Any] | None:
    """``dataset.json``: of a whole set its record, of shards what they have in common; None where there is none.

    Raises:
        CodesFileError: it cannot be read.
    """
    return _read_json(folder / RECORD, _ABOUT)


def read_record(folder: Path, shard: Shard = WHOLE, *, whole_only: bool = False) -> StoredRecord | None:
    """The code set or shard in a folder; None where there is none.

    One that is not complete yet comes before one that it replaces, which ``whole_only`` asks for.

    Raises:
        CodesFileError: its record cannot be read, or it was killed while it was finished.
    """
    files = ShardFiles.of(folder, shard)
    growing = _read_json(files.progress, _ABOUT + _STATE)
    if growing is not None and growing.get("finishing"):
        raise CodesFileError(f"{folder}: was interrupted while its files got their names; run the same command again")
    if growing is not None and not whole_only:
        return StoredRecord(growing, False)
    record = _read_json(files.record, _ABOUT)
    if record is None or (shard.count == 1 and record["shards"] != 1):  # dataset.json of shards
        return None
    if missing := [name for name in _STATE if name not in record]:
        raise CodesFileError(f"{files.record}: does not say {', '.join(missing)}; remove it, or name another folder")
    return StoredRecord(record, True)


def complete(folder: Path, shard: Shard) -> None:
    """Finish what a killed process had begun to finish, and remove what it had not noted; the caller holds the lock.

    Raises:
        CodesFileError: the journal cannot be read.
    """
    files = ShardFiles.of(folder, shard)
    journal = _read_json(files.progress, _ABOUT + _STATE)
    if journal is None:
        for path in files:
            _partial(path).unlink(missing_ok=True)
    if journal is None or not journal.get("finishing"):
        return
    for path in files.data:
        with contextlib.suppress(FileNotFoundError):  # it has its name
            _partial(path).replace(path)
    _sync_folder(folder)
    del journal["finishing"]
    _write_json(files.record, journal)
    files.progress.unlink()
    _sync_folder(folder)


def complete_cut_short(folder: Path, shard: Shard) -> None:
    """Finish what a killed process had begun to finish, where there is such a thing.

    Raises:
        CodesFileError: the journal cannot be read.
        InUseError: a process is at it.
        DapsError: the folder cannot be written to.
    """
    journal = _read_json(ShardFiles.of(folder, shard).progress, _ABOUT + _STATE)
    if journal is not None and journal.get("finishing"):
        with writing(folder, shard):
            pass  # it completes what was begun


@contextmanager
def writing(folder: Path, shard: Shard) -> Iterator[None]:
    """This process alone writes the shard while the block runs; nobody writes shards and a whole set at once.

    Raises:
        InUseError: another process writes there.
        DapsError: the folder cannot be written to.
    """
    try:
        with contextlib.ExitStack() as locks:
            locks.enter_context(locked(folder / ".lock", shared=shard.count > 1))
            if shard.count > 1:
                locks.enter_context(locked(folder / f".lock{shard.suffix}"))
            complete(folder, shard)
            yield
    except DapsError:
        raise
    except OSError as error:
        raise DapsError(f"{folder}: cannot be written ({error.strerror})") from error


def share_record(folder: Path, shard: Shard, record: dict[str, Any]) -> dict[str, Any]:
    """Write what all shards have in common, where no shard has; returns what is there. The caller holds the lock.

    Raises:
        OutputExistsError: the folder holds a whole code set.
        CodesFileError: the record that is there cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        mine = _partial(ShardFiles.of(folder, shard).record)
        _write_synced(mine, record)
        try:
            os.link(mine, path)  # whole, or not at all where another shard was first
        except FileExistsError:
            pass
        finally:
            mine.unlink()
        _sync_folder(folder)
    found = read_common_record(folder)
    assert found is not None
    if found["shards"] == 1 or ShardFiles.of(folder, WHOLE).progress.exists():
        raise OutputExistsError(f"{folder}: holds a code set that is not in shards; name another folder")
    return found


class GrowingCodeSet:
    """A code set or shard in the making, a context manager; the caller holds the lock (:func:`writing`).

    ``done`` items were processed; ``rows`` have codes, and ``skipped`` items do not.
    """

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        record: dict[str, Any],
        row_shape: Sequence[int],
        found: StoredRecord | None,
        *,
        replace: bool = False,
    ) -> None:
        """Begin a set, or resume one.

        Args:
            folder: where to.
            shard: which part.
            record: what decides the codes.
            row_shape: of the codes of a row.
            found: from :func:`read_record`, where this set was interrupted.
            replace: whether a set that is there makes way, once this one is whole.

        Raises:
            OutputExistsError: the folder holds something else.
            CodesFileError: the partial files are not what they were.
        """
        self._folder, self._shard, self._files = folder, shard, ShardFiles.of(folder, shard)
        self._record = record
        self._type = np.min_scalar_type(record["vocab_size"] - 1)
        self.row_shape = tuple(row_shape)
        self.done, self.rows, self.skipped = 0, 0, 0
        if found is None:
            strange = [path.name for path in folder.iterdir() if not _is_own(path.name)]
            if strange or (not replace and any(path.exists() for path in self._files.data)):
                raise OutputExistsError(f"{folder}: is not empty; name a folder that is for the codes alone")
            self._files.progress.unlink(missing_ok=True)  # of a set that this one replaces
            self._sizes = [0] * len(self._files.data)
        else:
            state = found.record
            self.done, self.rows, self.skipped, self._sizes = (state[name] for name in _STATE[:4])
        self._opened = [
            _open_at(_partial(path), size) for path, size in zip(self._files.data, self._sizes, strict=True)
        ]
        self._noted_at = -np.inf
        if found is None:
            self._append(_header(0, self._type, self.row_shape), _header(0, np.dtype(np.int64), ()), b"", b"")
            self._note()

    def __enter__(self) -> GrowingCodeSet:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Note what is done, also when interrupted; a full disk keeps what was noted before."""
        try:
            if not self._opened[0].closed:
                with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                    self._note()
        finally:
            for file in self._opened:
                with contextlib.suppress(OSError):
                    file.close()

    def add(
        self,
        codes: np.ndarray,
        labels: np.ndarray,
        items: Sequence[dict[str, Any]],
        skipped: Sequence[dict[str, Any]],
        *,
        done: int,
    ) -> None:
        """Append rows of codes with a label and a line for each, and lines of items that have no codes.

        ``done`` is how many items that makes. What was added counts from the next note on, which is written once a
        second, and when the block of the context ends.
        """
        self._append(
            codes.astype(self._type).tobytes(), labels.astype(np.int64).tobytes(), _lines(items), _lines(skipped)
        )
        self.rows += len(codes)
        self.skipped += len(skipped)
        self.done = done
        if time.monotonic() - self._noted_at >= SECONDS_BETWEEN_NOTES:
            self._note()

    def finish(self) -> None:
        """Give the files their names, the record last."""
        headers = (_header(self.rows, self._type, self.row_shape), _header(self.rows, np.dtype(np.int64), ()))
        for file, header in zip(self._opened, headers, strict=False):
            file.seek(0)
            file.write(header)
        self._note(finishing=True)
        for file in self._opened:
            file.close()
        complete(self._folder, self._shard)

    def _append(self, *contents: bytes) -> None:
        for file, content in zip(self._opened, contents, strict=True):
            file.write(content)
            file.flush()
        self._sizes = [size + len(content) for size, content in zip(self._sizes, contents, strict=True)]

    def _note(self, **journal: bool) -> None:
        for file in self._opened:
            file.flush()
            os.fsync(file.fileno())
        values = (self.done, self.rows, self.skipped, self._sizes, list(self.row_shape))
        _write_json(self._files.progress, self._record | dict(zip(_STATE, values, strict=True)) | journal)
        self._noted_at = time.monotonic()


def _header(rows: int, kind: np.dtype[Any], row_shape: tuple[int, ...]) -> bytes:
    """The header of an ``.npy`` file of this many rows; NumPy leaves room for the number of rows to grow."""
    header = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (rows, *row_shape)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _lines(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _is_own(name: str) -> bool:
    """Whether a file in a folder of codes may be there: one of ours, or hidden, as locks are."""
    return name.startswith(".") or _OWN_NAME.fullmatch(name) is not None


def _open_at(path: Path, size: int) -> BinaryIO:
    """A file to write to after its first ``size`` bytes; what comes after them was not noted, and is cut off."""
    file = path.open("r+b" if size else "w+b")
    if path.stat().st_size < size:
        file.close()
        raise CodesFileError(f"{path}: is {path.stat().st_size} bytes long, and was {size}; remove the folder")
    file.truncate(size)
    file.seek(size)
    return file


def _is_count(value: object, *, least: int = 0, most: int = 2**62) -> bool:
    return type(value) is int and least <= value <= most


def _are_counts(value: object, lengths: Container[int], *, least: int = 0) -> bool:
    if not isinstance(value, list) or len(value) not in lengths:
        return False
    return all(_is_count(number, least=least, most=2**48) for number in value)


# What each value of a record is. Those of a record that is not finished, or is common to shards, may not be there.
_VALUES: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, str),
    "weights_sha256": lambda value: isinstance(value, str),
    "vocab_size": lambda value: _is_count(value, least=1, most=2**32),
    "items": _is_count,
    "shards": lambda value: _is_count(value, least=1, most=_MOST_SHARDS),
    "encoding": lambda value: isinstance(value, dict),
    "classes": lambda value: (
        value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value))
    ),
    **dict.fromkeys(("done", "rows", "skipped"), lambda value: value is None or _is_count(value)),
    "sizes": lambda value: value is None or _are_counts(value, (4,)),
    "row_shape": lambda value: value is None or _are_counts(value, (1, 2), least=1),
}


def _read_json(path: Path, needed: Sequence[str]) -> dict[str, Any] | None:
    """A record with at least these keys; None where there is none."""
    try:
        record = json.loads(read_regular_file(path, most_bytes=_MOST_BYTES_OF_RECORD))
        is_record = set(record) >= set(needed) and record["format"] == FORMAT
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CodesFileError(f"{path}: cannot be read ({error}); expected the record of a code set") from error
    if is_record and (wrong := [name for name, is_right in _VALUES.items() if not is_right(record.get(name))]):
        raise CodesFileError(
            f"{path}: is damaged, its {wrong[0]} has no valid value; remove it, or name another folder"
        )
    if not is_record:
        raise CodesFileError(
            f"{path}: is not the record of a code set of this version; remove it, or name another folder"
        )
    checked: dict[str, Any] = record
    return checked


def _write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace a record, so that after a power cut there is the old one or the new one."""
    _write_synced(_partial(path), record)
    _partial(path).replace(path)
    _sync_folder(path.parent)


def _write_synced(path: Path, record: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)  # of a killed process, and perhaps linked to a record that has its name
    with path.open("xb") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring renames to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
