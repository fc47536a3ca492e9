"""A whole dataset as codes, which is what a generative model is trained on.

A code set is a folder: ``codes.npy``, one row per item; ``items.jsonl``, what each row was made of; ``dataset.json``,
by which model and how. It grows batch by batch under other names, so that what was interrupted goes on where it
stopped, and a file that has its name is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.codes.codes import Codes
from daps_tokenizer.data.code_set_files import GrowingCodeSet, read_record
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.errors import DapsError, InputError, OutputExistsError
from daps_tokenizer.tokenizer import Tokenizer

Encode = Callable[[np.ndarray, int], Codes]  # items of the model's size, and a seed

BATCH = 64  # part of the record: batch b is drawn with seed + b
_READERS = 8  # threads that load the next batch while one is encoded


class CodeSetReport(NamedTuple):
    """Rows that the set has, items that could not be read and why, and how many items this call went through."""

    rows: int
    broken: dict[str, str]
    done_now: int


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
    """Encode every item of a dataset, or those that an interrupted call left.

    Args:
        tokenizer: what ``encode`` encodes with.
        data: items, read by several threads in batches of 64. One that cannot be read is left out, and reported.
        folder: where to; made where it is not there. ``codes.npy`` is (rows, N), or has the axes that ``encode`` gives
            between the two, of the smallest unsigned type that holds every code.
        encode: items and a seed to codes; batch b is given ``seed`` + b.
        encoding: what ``encode`` does, for the record.
        seed: of what is drawn.
        replace: whether another code set in the folder makes way, once the new one is whole.
        on_progress: is told how many items are done.

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
