"""A whole dataset as codes, which is what a generative model is trained on.

A code set is a folder: ``codes.npy``, one row per item; ``items.jsonl``, what each row was made of; ``dataset.json``,
by which model and how. It grows batch by batch under other names, so that an interrupted run is resumed where it
stopped, and a file that has its name is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.archives import reading
from daps_tokenizer.data.code_set_files import CODES, GrowingCodeSet, read_record
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.errors import CodesFileError, DapsError, InputError, OutputExistsError
from daps_tokenizer.tokenizer import Tokenizer

Encode = Callable[[np.ndarray, int], Codes]  # items of the model's size, and a seed

BATCH = 64  # part of the record: batch b is drawn with seed + b
_READERS = 8  # threads that load the next batch while one is encoded


class CodeSetReport(NamedTuple):
    """Rows that the set has, items that could not be read and why, and how many items this call went through."""

    rows: int
    broken: dict[str, str]
    done_now: int


@dataclass(frozen=True)
class CodeSet:
    """A code set to read.

    >>> CodeSet.open("codes")[0:16].shape  # doctest: +SKIP
    (16, 1024)

    Args:
        folder: where it is.
        record: its ``dataset.json``.
        values: ``codes.npy``, (rows, N) or (rows, K, N), read from the disk where it is used.
    """

    folder: Path
    record: dict[str, Any]
    values: np.ndarray

    @classmethod
    def open(cls, folder: str | Path) -> CodeSet:
        """The code set in a folder.

        Raises:
            CodesFileError: there is none, it is not complete, or its files are damaged.
        """
        folder = Path(folder)
        found = read_record(folder, whole_only=True)
        if found is None:
            growing = read_record(folder)
            if growing is None:
                raise CodesFileError(f"{folder}: holds no codes; expected a folder that `daps-tokenize dataset` wrote")
            done, items = growing.record["done"], growing.record.get("items", "?")
            raise CodesFileError(
                f"{folder}: is not complete, {done} of {items} items are encoded; run the same "
                "`daps-tokenize dataset` command again, which resumes it"
            )
        path, record = folder / CODES, found.record
        try:
            with reading(path, "the codes of a code set"):
                values = np.load(path, mmap_mode="r", allow_pickle=False)
        except InputError as error:
            raise CodesFileError(str(error)) from error
        if values.shape != (record["rows"], *record["row_shape"]) or values.dtype.kind != "u":
            raise CodesFileError(f"{path}: is {values.dtype} of shape {values.shape}, which dataset.json does not say")
        return cls(folder, record, values)

    def __len__(self) -> int:
        """How many rows it has."""
        return len(self.values)

    def __getitem__(self, rows: slice) -> Codes:
        """Some rows as codes that know their model; errors of :class:`~daps_tokenizer.Codes`."""
        record = self.record
        return Codes(self.values[rows], record["vocab_size"], record["model"], record["weights_sha256"])


def write_code_set(
    tokenizer: Tokenizer,
    data: Data,
    folder: Path,
    encode: Encode,
    *,
    encoding: dict[str, Any],
    seed: int = 0,
    replace: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> CodeSetReport:
    """Encode every item of a dataset, or those that an interrupted call has not reached.

    Args:
        tokenizer: what ``encode`` encodes with.
        data: items, read by several threads in batches of 64. One that cannot be read is left out, and reported.
        folder: where to; made where it is not there. ``codes.npy`` is (rows, N), or has the axes that ``encode`` gives
            between the two, of the smallest unsigned type that holds every code.
        encode: items and a seed to codes; batch b is given ``seed`` + b.
        encoding: what ``encode`` does, for the record.
        seed: of what is drawn.
        replace: whether another code set in the folder makes way, once the new one is whole.
        on_progress: is told how many items are done: those of an interrupted call first, then after each batch.

    Raises:
        OutputExistsError: the folder holds something else, or codes that were made in another way.
        CodesFileError: what an interrupted call left there is damaged.
        InputError: no item can be read.
        DapsError: the folder cannot be written to.
    """
    config = tokenizer.config
    record = {
        "model": config.name,
        "weights_sha256": config.weights_sha256,
        "vocab_size": config.vocab_size,
        "num_tokens": config.num_tokens,
        "token_grid": config.token_grid and list(config.token_grid),
        "data": data.description,
        "fit": data.fit,
        "items": len(data),
        "encoding": encoding,
        "seed": seed,
        "batch": BATCH,
    }
    found = read_record(folder)
    changed = [name for name, value in record.items() if found is not None and found.record.get(name) != value]
    if changed and not replace:
        raise OutputExistsError(
            f"{folder}: holds codes that differ in {', '.join(changed)}; pass --force to replace them, or name another"
        )
    found = None if changed else found
    if found is not None and found.is_whole:
        return CodeSetReport(found.record["rows"], found.record["broken"], 0)
    try:
        with GrowingCodeSet(folder, record, found, replace=replace) as growing, ThreadPoolExecutor(_READERS) as readers:
            return _grow(data, growing, readers, lambda items, batch: encode(items, seed + batch).numpy(), on_progress)
    except DapsError:
        raise
    except OSError as error:
        raise DapsError(f"{folder}: cannot be written ({error.strerror})") from error


def _grow(
    data: Data,
    growing: GrowingCodeSet,
    readers: ThreadPoolExecutor,
    encode: Callable[[np.ndarray, int], np.ndarray],
    on_progress: Callable[[int], None],
) -> CodeSetReport:
    first, labels = growing.done, data.labels
    names = islice(data.names(), first, None)
    on_progress(first)
    upcoming = _read(data, first, readers)
    for start in range(first, len(data), BATCH):
        loaded = [future.result() for future in upcoming]
        upcoming = _read(data, start + BATCH, readers)
        good, lines = [], []
        for index, (name, item) in enumerate(zip(islice(names, len(loaded)), loaded, strict=True), start=start):
            if isinstance(item, InputError):
                growing.broken[name] = str(item)
            else:
                good.append(item)
                lines.append({"item": name} | ({} if labels is None else {"label": int(labels[index])}))
        growing.done = start + len(loaded)
        growing.add(encode(np.concatenate(good), start // BATCH) if good else None, lines)
        on_progress(growing.done)
    if growing.rows == 0:
        why = next(iter(growing.broken.values()), "there are none")
        raise InputError(f"{data.description}: none of its {len(data)} items can be read ({why})")
    growing.finish()
    return CodeSetReport(growing.rows, growing.broken, len(data) - first)


def _read(data: Data, start: int, readers: ThreadPoolExecutor) -> list[Future[np.ndarray | InputError]]:
    """Begin to read the batch that starts there; in place of an item that cannot be read there is the error."""

    def read(index: int) -> np.ndarray | InputError:
        try:
            return data.read(np.array([index]))
        except InputError as error:
            return error

    return [readers.submit(read, index) for index in range(start, min(start + BATCH, len(data)))]
