"""A whole dataset as codes, which is what a generative model is trained on.

A code set is a folder: ``codes.npy``, one row per item; ``labels.npy``; ``items.jsonl``, what each row was made of;
``skipped.jsonl``, what could not be read; ``dataset.json``, by which model and how. Or it is in shards, each with such
files of its own. It grows under other names, so that an interrupted run is resumed, and a file that has its name is
whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.archives import reading
from daps_tokenizer.data.code_set_files import (
    WHOLE,
    GrowingCodeSet,
    Shard,
    ShardFiles,
    StoredRecord,
    complete_cut_short,
    read_common_record,
    read_record,
    writing,
)
from daps_tokenizer.errors import CodesFileError, InputError, OutputExistsError
from daps_tokenizer.files import open_regular_file

_TRIES = 3
_SHOWN = 5
_COPIED_AT_ONCE = 2**22  # codes
_MOST_BYTES_OF_LINE = 2**20
_STATE = {"done", "rows", "skipped", "sizes", "row_shape"}  # what a record says of one shard


class Shards:
    """Arrays that lie one after the other on the disk, to be read as one.

    It takes the indices that an array takes along its first axis, and ``np.asarray`` reads all of it.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | np.integer | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        wanted = np.arange(len(self))[rows] if not isinstance(rows, slice) else None
        if isinstance(rows, slice):
            first, stop, step = rows.indices(len(self))
            wanted = np.arange(first, stop, step)
        assert wanted is not None
        flat = wanted.reshape(-1)
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)
        places = np.searchsorted(self._ends, flat, side="right")
        for place in np.unique(places):
            here = places == place
            part = self.parts[place]
            found[here] = part[flat[here] - (self._ends[place] - len(part))]
        return found.reshape(*wanted.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        joined = np.concatenate(self.parts)
        return joined if dtype is None else joined.astype(dtype)


@dataclass(frozen=True)
class CodeSet:
    """A code set to read, in one piece or in shards.

    >>> CodeSet.open("codes")[0:16].shape  # doctest: +SKIP
    (16, 1024)

    Args:
        folder: where it is.
        record: its ``dataset.json``, with ``rows``, ``skipped`` and ``row_shape`` of the whole.
        values: codes, (rows, N) or (rows, K, N), read from the disk where they are used.
        labels: (rows,) int64, −1 where a label is not known.
        shards: the parts that it is stored in.
    """

    folder: Path
    record: dict[str, Any]
    values: np.ndarray | Shards
    labels: np.ndarray | Shards
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, folder: str | Path) -> CodeSet:
        """The code set in a folder.

        Raises:
            CodesFileError: there is none, it is not complete, or its files are damaged.
            InUseError: a process gives its files their names at this moment.
        """
        folder = Path(folder)
        for _ in range(_TRIES):
            records = _read_whole(folder)
            opened = cls._open(folder, records)
            if records == _read_whole(folder):  # no other set took its place meanwhile
                return opened
        raise CodesFileError(f"{folder}: changes while it is read; wait until `daps-tokenize dataset` ends")

    @classmethod
    def _open(cls, folder: Path, records: list[StoredRecord]) -> CodeSet:
        shards = tuple(Shard(index, len(records)) for index in range(len(records)))
        values, labels = [], []
        for shard, stored in zip(shards, records, strict=True):
            files, record = ShardFiles.of(folder, shard), stored.record
            values.append(_read_array(files.codes, (record["rows"], *record["row_shape"]), "u"))
            labels.append(_read_array(files.labels, (record["rows"],), "i"))
        first = records[0].record
        totals = {name: sum(stored.record[name] for stored in records) for name in ("done", "rows", "skipped")}
        if len(shards) == 1:
            return cls(folder, first, values[0], labels[0], shards)
        return cls(folder, first | totals, Shards(values), Shards(labels), shards)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Codes:
        """Some rows as codes that know their model; errors of :class:`~daps_tokenizer.Codes`."""
        record = self.record
        return Codes(self.values[rows], record["vocab_size"], record["model"], record["weights_sha256"])

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes that labels number, where they are known."""
        found: list[str] | None = self.record.get("classes")
        return found

    def items(self) -> Iterator[dict[str, Any]]:
        """The line of each row: ``item``, and where they are known ``bytes``, ``label``, ``flipped``.

        Raises:
            CodesFileError: a file of lines cannot be read, or has more or fewer lines than rows.
        """
        parts = self.values.parts if isinstance(self.values, Shards) else (self.values,)
        for shard, part in zip(self.shards, parts, strict=True):
            path, number = ShardFiles.of(self.folder, shard).items, 0
            for number, line in enumerate(read_lines(path), start=1):
                if number > len(part):
                    break
                yield line
            if number != len(part):
                said = f"more than {len(part)}" if number > len(part) else number
                raise CodesFileError(f"{path}: has {said} lines, for {len(part)} rows; it is damaged")

    def skipped(self) -> Iterator[dict[str, Any]]:
        """The items that have no codes, and each one's ``reason``."""
        for shard in self.shards:
            yield from read_lines(ShardFiles.of(self.folder, shard).skipped)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records in a file of JSON lines.

    Raises:
        CodesFileError: it cannot be read, or a line is no record of an item.
    """
    try:
        with open_regular_file(path, most_bytes=2**62) as file:
            while line := file.readline(_MOST_BYTES_OF_LINE):
                record = json.loads(line)
                if not isinstance(record, dict) or not isinstance(record.get("item"), str):
                    raise ValueError(f"{line[:40]!r} names no item")
                yield record
    except (OSError, ValueError, RecursionError) as error:
        raise CodesFileError(f"{path}: cannot be read ({error}); expected a JSON object in each line") from error


def describe_progress(folder: Path) -> dict[str, Any] | None:
    """What a folder of codes says of itself, complete or not: its record, and ``state`` in words; None if it is none.

    Raises:
        CodesFileError: a record cannot be read.
    """
    complete_cut_short(folder, WHOLE)
    common = read_common_record(folder)
    if common is not None and common["shards"] > 1:
        shards = [Shard(index, common["shards"]) for index in range(common["shards"])]
        for shard in shards:
            complete_cut_short(folder, shard)
        found = [read_record(folder, shard) for shard in shards]
        states = [stored for stored in found if stored is not None]
        whole = sum(stored.is_whole for stored in states)
        totals = {name: sum(stored.record[name] for stored in states) for name in ("done", "rows", "skipped")}
        shape = states[0].record["row_shape"] if states else None
        said = f"complete, in {whole} shards" if whole == len(found) else f"{whole} of {len(found)} shards are complete"
        return common | totals | {"row_shape": shape, "state": said}
    stored = read_record(folder)
    if stored is None:
        return None
    record = stored.record
    said = "complete" if stored.is_whole else f"interrupted at {record['done']:,} of {record['items']:,} items"
    return record | {"state": said}


def merge_shards(source: Path, folder: Path, *, replace: bool = False) -> CodeSet:
    """Write a code set that is in shards as one: the same files as if it had been encoded in one piece.

    Args:
        source: the folder of the shards.
        folder: where to.
        replace: whether another code set in the folder makes way, once the new one is whole.

    Raises:
        CodesFileError: the shards are not complete, or damaged.
        OutputExistsError: the folder holds something else.
        InUseError: another process writes there.
        DapsError: the folder cannot be written to.
    """
    shards = CodeSet.open(source)
    if source.resolve() == folder.resolve():
        raise InputError(f"{folder}: holds the shards; name another folder for the code set that they become")
    record = {name: value for name, value in (shards.record | {"shards": 1}).items() if name not in _STATE}
    with writing(folder, WHOLE):
        found = prepare(folder, WHOLE, record, replace=replace)
        if found is None or not found.is_whole:
            with GrowingCodeSet(folder, WHOLE, record, shards.record["row_shape"], None, replace=replace) as growing:
                for shard in shards.shards:
                    _copy_shard(source, shard, growing, record["items"])
                growing.finish()
    return CodeSet.open(folder)


def _copy_shard(source: Path, shard: Shard, growing: GrowingCodeSet, total: int) -> None:
    files = ShardFiles.of(source, shard)
    values, labels = np.load(files.codes, mmap_mode="r"), np.load(files.labels, mmap_mode="r")
    items, skipped = read_lines(files.items), list(read_lines(files.skipped))
    step = max(1, _COPIED_AT_ONCE // max(1, math.prod(values.shape[1:])))
    for first in range(0, len(values), step):
        rows = slice(first, first + step)
        lines = list(islice(items, len(values[rows])))
        growing.add(values[rows], labels[rows], lines, [], done=growing.done)
    growing.add(values[:0], labels[:0], [], skipped, done=shard.items(total).stop)


def prepare(folder: Path, shard: Shard, record: dict[str, Any], *, replace: bool) -> StoredRecord | None:
    """See whether a code set or shard can be written to a folder; returns what is there of it already.

    Raises:
        OutputExistsError: the folder holds codes that were made in another way, or are stored in another way.
    """
    if shard.count == 1:
        common = read_common_record(folder)
        if common is not None and common["shards"] > 1:
            raise OutputExistsError(f"{folder}: holds a code set in {common['shards']} shards; name another folder")
    found = read_record(folder, shard)
    if found is None or not (changed := changes(found.record, record)):
        return found
    if replace:
        return None
    raise OutputExistsError(
        f"{folder}: holds codes that differ in {', '.join(changed)}; pass --force to replace them, or name another"
    )


def changes(before: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """The names of what differs in two records."""
    names = (name.removesuffix("_sha256") for name, value in record.items() if before.get(name) != value)
    return list(dict.fromkeys(names))


def _read_whole(folder: Path) -> list[StoredRecord]:
    """The records of a complete code set, one for each shard; a kill while one got its name is made good.

    Raises:
        CodesFileError: there is none, or it is not complete, or not of one run.
    """
    complete_cut_short(folder, WHOLE)  # before its record is read
    common = read_common_record(folder)
    shards = [Shard(index, common["shards"]) for index in range(common["shards"])] if common else [WHOLE]
    for shard in shards:
        complete_cut_short(folder, shard)
    found = [read_record(folder, shard, whole_only=True) for shard in shards]
    records = [stored for stored in found if stored is not None]
    if common is None and not records:
        growing = read_record(folder)
        if growing is None:
            raise CodesFileError(f"{folder}: holds no codes; expected a folder that `daps-tokenize dataset` wrote")
        raise CodesFileError(
            f"{folder}: is not complete, {growing.record['done']} of {growing.record['items']} items are encoded; run "
            "the same `daps-tokenize dataset` command again, which resumes it"
        )
    if missing := [f"{shard.index}/{shard.count}" for shard, stored in zip(shards, found, strict=True) if not stored]:
        shown = ", ".join(missing[:_SHOWN]) + (" and others" if len(missing) > _SHOWN else "")
        raise CodesFileError(
            f"{folder}: is not complete, {len(missing)} of {len(shards)} shards are missing: {shown}; run the same "
            "`daps-tokenize dataset` command with --shard for each"
        )
    shared = {name: value for name, value in (common or {}).items() if name not in _STATE}
    for shard, stored in zip(shards, records, strict=True):
        if changed := changes(stored.record, shared):
            raise CodesFileError(f"{folder}: shard {shard.index} is of another run; it differs in {', '.join(changed)}")
    return records


def _read_array(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """An array of a code set, read from the disk where it is used."""
    try:
        with reading(path, "an array of a code set"):
            open_regular_file(path, most_bytes=2**62).close()  # NumPy would wait for a pipe
            values: np.ndarray = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    except InputError as error:
        raise CodesFileError(str(error)) from error
    if values.shape != shape or values.dtype.kind != kind:
        raise CodesFileError(f"{path}: is {values.dtype} of shape {values.shape}, which dataset.json does not say")
    return values
